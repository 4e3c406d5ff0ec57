"""Foreign weights to ours. The only place that reads pickled files, and only with `weights_only=True`."""
