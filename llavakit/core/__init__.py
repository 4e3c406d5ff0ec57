"""Level 0: what every other package stands on. Types, errors, typed settings, progress."""
