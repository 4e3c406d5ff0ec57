"""What ended sequences leave: blocks of keys and values, found by what led up to them.

A block is BLOCK tokens. Its key is a digest of its tokens and of the key of the block before it, so equal keys
mean equal beginnings; image slots enter the digest as the picture's content and plan. When a sequence ends its
blocks go on the shelf, and those not asked for longest leave it first. Who begins like a sequence that still runs
goes on from that (beginnings.py), to the token.
"""

from array import array
from collections import OrderedDict
from collections.abc import Sequence
from hashlib import blake2b
from itertools import takewhile
from typing import Protocol

import torch
from torch import Tensor

BLOCK = 16  # tokens


class Store(Protocol):
    """A slot, as far as this file needs it."""

    length: int

    @property
    def kv_L2HKD(self) -> Tensor: ...


def extend_keys(keys: list[bytes], names: Sequence[int], salt: bytes = b"") -> None:
    """Add the keys of all complete blocks of `names` that `keys` lacks.

    `names` are token ids, with a picture's own number in its slots. The digest cannot be steered: two prompts that
    share a key would share an answer's memory, and prompts come from strangers. Prompts of two salts share none.
    """
    for start in range(len(keys) * BLOCK, len(names) - BLOCK + 1, BLOCK):
        before = keys[-1] if keys else salt
        keys.append(
            blake2b(before + array("q", names[start : start + BLOCK]).tobytes(), digest_size=16).digest()
        )


class PrefixCache:
    """Blocks by key, on a shelf: oldest first."""

    def __init__(self) -> None:
        self._shelf: OrderedDict[bytes, Tensor] = OrderedDict()

    @property
    def tokens(self) -> int:
        """Tokens on the shelf."""
        return len(self._shelf) * BLOCK

    def matching(self, keys: Sequence[bytes]) -> int:
        """How many of the first blocks are known."""
        return sum(1 for _ in takewhile(self._shelf.__contains__, keys))

    def copy(self, keys: Sequence[bytes], into: Store) -> None:
        """Write known blocks to the start of an empty slot."""
        for number, key in enumerate(keys):
            into.kv_L2HKD[:, :, :, number * BLOCK : (number + 1) * BLOCK] = self._shelf[key]
        into.length = len(keys) * BLOCK
        self._touch(keys)

    def missing(self, slot: Store, keys: Sequence[bytes]) -> list[int]:
        """The numbers of a slot's complete blocks that are not on the shelf, first block last."""
        keys = keys[: slot.length // BLOCK]
        self._touch(keys)
        return [number for number in reversed(range(len(keys))) if keys[number] not in self._shelf]

    def shelve(self, slot: Store, keys: Sequence[bytes], numbers: Sequence[int]) -> None:
        """Copy blocks of a slot to the shelf, the youngest last."""
        for number in numbers:
            block = slot.kv_L2HKD[:, :, :, number * BLOCK : (number + 1) * BLOCK]
            self._shelf[keys[number]] = block.clone(memory_format=torch.contiguous_format)

    def evict(self) -> None:
        """Forget the shelf's oldest block."""
        self._shelf.popitem(last=False)

    def _touch(self, keys: Sequence[bytes]) -> None:
        for key in reversed(keys):  # the first block is needed by most prompts: it becomes the youngest
            if key in self._shelf:
                self._shelf.move_to_end(key)
