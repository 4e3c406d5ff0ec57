"""What fell to one of two sides, questions that turned or votes by place: whether a side is better, or luck."""

import numpy as np


def sign_test(one: int, other: int) -> float:
    """How often a fair coin is as one-sided: exact, two-sided. Of lost and gained questions: McNemar's test."""
    count = one + other
    k = np.arange(min(one, other))
    # Log of (count over 0), (count over 1) ...: the numbers themselves are too large for many throws.
    ways = np.concatenate([[0.0], np.log((count - k) / (k + 1)).cumsum()])
    return min(1.0, 2 * float(np.exp(ways - count * np.log(2)).sum()))
