"""Level 2: records of a file to packed batches. `encode.py` is the only place where text meets pixels."""
