"""Level 3: samples in, token ids out. One engine serves chat, evaluation and tests."""
