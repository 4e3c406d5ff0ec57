"""The benchmarks: a row each (`table.py`), with the readers of their files beside rows of one kind."""
