"""The page on which people say which of two answers is better, and its HTTP: static files, no build."""
