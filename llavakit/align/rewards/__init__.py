"""Rewards: how good an answer is, as a sum of named terms, each logged on its own.

`term.py` is what a term is; `rules.py`, `processes.py` and `models.py` are the built-in ones, `composer.py` sums
them.
"""
