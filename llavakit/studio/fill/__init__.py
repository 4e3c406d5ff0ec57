"""Filling holes from what is around them, without weights."""
