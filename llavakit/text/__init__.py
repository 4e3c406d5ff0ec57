"""Level 1: conversations, templates and the one tokenization."""
