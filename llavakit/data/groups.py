"""Rows that are read in groups, as Parquet's: an order in which each group is read once and that is still shuffled.

Groups are shuffled, neighbours in that order are bundled, and the rows of a bundle are shuffled among each other.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

BUNDLE_BYTES = 1 << 28  # of groups that are shuffled together, and so held at once


@dataclass(frozen=True)
class Groups:
    """The groups of a file, or of several one after the other."""

    counts_G: np.ndarray  # rows
    bytes_G: np.ndarray  # as they lie in memory

    def shuffle(self, rows_N: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """int64[N]: an order of the entries of `rows_N`, which are numbers of rows and may repeat."""
        group_N = np.searchsorted(np.cumsum(self.counts_G), rows_N, side="right")
        order_G = rng.permutation(len(self.counts_G))
        bytes_before = np.cumsum(self.bytes_G[order_G]) - self.bytes_G[order_G]
        bundle_G = np.empty_like(order_G)
        bundle_G[order_G] = bytes_before // BUNDLE_BYTES
        return np.lexsort((rng.random(len(rows_N)), bundle_G[group_N]))


def join_groups(parts: Sequence[Groups]) -> Groups:
    return Groups(
        np.concatenate([part.counts_G for part in parts]), np.concatenate([part.bytes_G for part in parts])
    )
