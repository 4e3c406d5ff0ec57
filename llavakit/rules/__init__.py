"""Level 1: scoring rules of published benchmarks: pure functions of an answer and its reference. None: unparsed.

Where harnesses differ, each rule set has a function of its own, in a table by name. No rule here draws at random,
asks anybody, or puts a default in the place of what it could not read.
"""
