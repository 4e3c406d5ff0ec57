"""What a process that serves asks of Python: no long holds of the interpreter's lock."""

import gc
import sys

# Seconds after which a thread that holds the lock gives it up to one that waits. The engine's thread lets go of it
# in every operation and wants it back at once: with 5 ms, as Python has it, a single thread that reads a request
# can make each operation of a step 5 ms longer.
LOCK_SECONDS = 0.0005


def shorten_pauses() -> None:
    """Keep what Python does with its lock in its hand short, from here on in this process."""
    sys.setswitchinterval(LOCK_SECONDS)
    # What is there now stays: modules, the model, the vocabulary. Each look for garbage among all of it would stop
    # every answer.
    gc.collect()
    gc.freeze()
