"""Level 6: measuring. A benchmark is a reader of its files, a prompt, a rule set for points, and figures."""
