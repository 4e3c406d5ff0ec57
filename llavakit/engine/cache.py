"""The KV cache: a slot per sequence, filled from a packed prefill, extended by one token per step.

Shape letters: S slots, G query heads per key head, H key heads, K cached positions, D head width.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

GROW = 128  # positions added when the slots are full


class SlotCache:
    """Keys and values of running sequences. `transformers` layers call `update`; the engine does the rest.

    Between `start` and the first `step` it holds a prefill: what `update` receives is a packed row, and slot i
    keeps the columns `paths[i]` (a sequence's own tokens after those of its parents). After that, every `update`
    receives one token per slot.
    """

    def __init__(self) -> None:
        self._keys: list[Tensor] = []
        self._values: list[Tensor] = []
        self._paths: list[Tensor] | None = None
        self._lengths_S = torch.empty(0, dtype=torch.long)
        self._capacity = 0

    def start(self, paths: list[Tensor]) -> None:
        """Announce a prefill of a packed row."""
        self._paths = paths
        self._lengths_S = torch.tensor([len(path) for path in paths], device=paths[0].device)
        self._capacity = int(self._lengths_S.max()) + GROW

    def step(self) -> "SlotLayout":
        """Make room for one more token in every slot; returns the layout of that step."""
        self._paths = None
        if int(self._lengths_S.max()) == self._capacity:
            self._capacity += GROW
            self._keys = [F.pad(keys, (0, 0, 0, GROW)) for keys in self._keys]
            self._values = [F.pad(values, (0, 0, 0, GROW)) for values in self._values]
        self._lengths_S += 1
        return SlotLayout(self._lengths_S)

    def keep(self, slots: Tensor) -> None:
        """Forget all but these slots."""
        self._lengths_S = self._lengths_S[slots]
        self._keys = [keys[slots] for keys in self._keys]
        self._values = [values[slots] for values in self._values]

    def update(self, key_1HTD: Tensor, value_1HTD: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """Called by each attention layer with its new keys and values; returns what its queries look at."""
        if self._paths is not None:
            self._keys.append(self._spread(key_1HTD))
            self._values.append(self._spread(value_1HTD))
            return key_1HTD, value_1HTD
        slots = torch.arange(len(self._lengths_S), device=key_1HTD.device)
        keys, values = self._keys[layer], self._values[layer]
        keys[slots, :, self._lengths_S - 1] = key_1HTD[0].transpose(0, 1)
        values[slots, :, self._lengths_S - 1] = value_1HTD[0].transpose(0, 1)
        used = int(self._lengths_S.max())
        return keys[:, :, :used], values[:, :, :used]

    def _spread(self, packed_1HTD: Tensor) -> Tensor:
        assert self._paths is not None
        _, heads, _, width = packed_1HTD.shape
        slots = packed_1HTD.new_zeros(len(self._paths), heads, self._capacity, width)
        for slot, path in enumerate(self._paths):
            slots[slot, :, : len(path)] = packed_1HTD[0, :, path]
        return slots


class SlotLayout:
    """One new token per slot; each sees what its slot holds, itself included."""

    def __init__(self, lengths_S: Tensor) -> None:
        used = int(lengths_S.max())
        self.see_S11K = (torch.arange(used, device=lengths_S.device) < lengths_S[:, None])[:, None, None]

    def attend(self, query_1HTD: Tensor, key_SHKD: Tensor, value_SHKD: Tensor, scaling: float) -> Tensor:
        slots, heads, _, width = key_SHKD.shape
        # The queries that share a key head stand as rows of one query matrix, so keys are read once for all.
        query_SHGD = query_1HTD[0].transpose(0, 1).view(slots, heads, -1, width)
        out_SHGD = F.scaled_dot_product_attention(
            query_SHGD, key_SHKD, value_SHKD, attn_mask=self.see_S11K, scale=scaling
        )
        return out_SHGD.reshape(slots, -1, width).transpose(0, 1)[None]
