"""Level 1: bytes to upright RGB pixels, and the plan that says which image tokens they give."""
