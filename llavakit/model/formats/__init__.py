"""Files of weights and settings as others and we write them; of llavakit only `core`, `text` and `vision` are used.

The only place that reads pickled files, and only with `weights_only=True`.
"""
