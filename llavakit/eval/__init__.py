"""Level 5: measuring. A benchmark is questions, a score and an aggregate."""
