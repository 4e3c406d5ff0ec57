"""The command line, one file a verb: it parses, calls and prints. Mistakes end in one line and exit code 2.

PyTorch and transformers take seconds to import; each verb imports what it needs when it runs, so --help is instant.
"""

from llavakit.cli.entry import app, main

__all__ = ["app", "main"]
