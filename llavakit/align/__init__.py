"""Alignment by reinforcement: answers that a model samples, what they are worth, and what it learns from them.

A source of batches and a loss for the one training loop (`train/loop.py`); there is no second trainer here.
"""
