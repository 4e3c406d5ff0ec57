"""Training data made from pictures by a model: what it is asked, what is kept, and where every row came from."""
