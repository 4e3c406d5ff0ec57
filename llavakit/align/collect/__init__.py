"""Collecting what people prefer: which pairs are asked, who is asked what next, what it came to.

The page and its HTTP are `serve/collect`.
"""
