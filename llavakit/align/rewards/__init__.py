"""Rewards: how good an answer is, as a sum of named terms, each logged on its own.

`term.py` is what a term is, `rules.py` and `processes.py` are the built-in ones, `composer.py` sums them.
"""
