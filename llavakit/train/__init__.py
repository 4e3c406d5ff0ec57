"""Level 3: one loop; an objective owns the maths, the loop owns steps, scaling, saving and resuming."""
