"""The same questions answered twice: whether one time was better than the other, or luck."""

from math import comb


def sign_test(lost: int, gained: int) -> float:
    """McNemar's exact test, two-sided: how often a fair coin is as one-sided as the questions that turned."""
    turned = lost + gained
    tail = sum(comb(turned, count) for count in range(min(lost, gained) + 1))
    return min(1.0, 2 * tail / 2**turned)
