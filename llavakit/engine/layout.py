"""One step of the engine as attention sees it: every row goes on with its own slot and sees that slot up to itself.

A step is a packed row: first one row for each sequence that decodes, then chunks of prompts. It is given to the
decoder both as its cache (`update` writes the new keys and values into the slots) and as its layout.
Shape letters: L layers, S slots, N decoding, H key heads, M = N x H, G queries per key head, K positions, D head
width, T rows.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from llavakit.engine.kv_slots import Arena, KvSlot
from llavakit.engine.native import NativePrompts, NativeSlots, PromptRows, Workspace
from llavakit.model.attention import SHORT, KeyValueCache, Scoring, attend_masked, weigh

Forks = Mapping[
    KvSlot, tuple[KvSlot, int]
]  # a slot that begins as another one does, and for how many positions
MANY = 8  # decoding sequences from which plain products beat the CPU's fused kernel


class StepLayout(KeyValueCache):
    """What a step's rows read and write."""

    def __init__(self, arenas: Sequence[Arena], chunks: Sequence[tuple[KvSlot, int]], forks: Forks) -> None:
        """Rows for the decoding slots of `arenas` in order, then so many rows for each slot of `chunks`."""
        self._parts: list[Decoding | Chunk] = []
        row = 0
        for arena in arenas:
            self._parts.append(Decoding(arena, row))
            row += arena.decoding
        for slot, count in chunks:
            self._parts.append(Chunk(slot, row, count, forks.get(slot)))
            row += count
        self._layer = 0
        self._prompts: NativePrompts | None = None  # made for the first layer
        self.longest = max(part.longest for part in self._parts)

    def update(self, key_1HTD: Tensor, value_1HTD: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """Called by each attention layer with its new keys and values, which go into the slots."""
        self._layer = layer
        for part in self._parts:
            part.write(key_1HTD, value_1HTD, layer)
        return key_1HTD, value_1HTD

    def attend(self, query_1HTD: Tensor, key_1HTD: Tensor, value_1HTD: Tensor, how: Scoring) -> Tensor:
        """The attended values of the layer that was updated last, shaped as the queries."""
        outs = [
            part.attend(query_1HTD, key_1HTD, value_1HTD, self._layer, how.within(part.longest))
            for part in self._parts
        ]
        return outs[0] if len(outs) == 1 else torch.cat(outs, dim=2)

    def attend_rows(self, qkv_TXD: Tensor, heads: int, layer: int, scaling: float, work: Workspace) -> Tensor:
        """[T, queries x D], `update` and `attend` in one, for native kernels: a row's heads stand side by side."""
        out_TQD = qkv_TXD.new_empty(len(qkv_TXD), heads, qkv_TXD.shape[2])
        for part in self._parts:
            if isinstance(part, Decoding):
                part.attend_rows(qkv_TXD, out_TQD, layer, scaling, work)
        if self._prompts is None:
            chunks = [part.native() for part in self._parts if isinstance(part, Chunk)]
            self._prompts = NativePrompts(chunks)
        self._prompts.attend(qkv_TXD, layer, scaling, out_TQD, work)
        return out_TQD.flatten(1)

    def native_slots(self) -> list[NativeSlots] | None:
        """What the rows go on with, if every row is a decoding sequence's; None if there are prompts among them."""
        parts = [part.native() for part in self._parts if isinstance(part, Decoding)]
        return parts if len(parts) == len(self._parts) else None

    def finish(self) -> None:
        """All layers have written: the slots are longer now."""
        for part in self._parts:
            part.finish()


class Decoding:
    """One new token for each decoding slot of an arena."""

    def __init__(self, arena: Arena, row: int) -> None:
        self._arena, self._rows = arena, slice(row, row + arena.decoding)
        self._slots = arena.slots[: arena.decoding]
        lengths = [slot.length for slot in self._slots]
        device = arena.kv_L2SHKD.device
        self.longest = max(lengths) + 1
        self._heads = arena.kv_L2SHKD.shape[3]
        at_N = self._lengths_N = torch.tensor(lengths, device=device)
        places_HN = torch.arange(self._heads, device=device)[:, None] * arena.size + at_N
        self._places = (
            places_HN + torch.arange(len(lengths), device=device) * self._heads * arena.size
        ).flatten()
        self._native: NativeSlots | None = None
        self._plain = device.type == "cpu" and len(lengths) >= MANY
        self._shortest = min(lengths)
        self._masks: dict[tuple[int | None, int | None], tuple[int, Tensor | None]] = {}  # layers share them

    def write(self, key_1HTD: Tensor, value_1HTD: Tensor, layer: int) -> None:
        width = key_1HTD.shape[3]
        for kind, new_1HTD in enumerate((key_1HTD, value_1HTD)):
            table = self._arena.kv_L2SHKD[layer, kind].view(-1, width)
            rows = new_1HTD[0, :, self._rows].reshape(-1, width)
            table.index_copy_(0, self._places, rows.to(table.dtype))  # modules under autocast give bfloat16

    def attend(
        self, query_1HTD: Tensor, key_1HTD: Tensor, value_1HTD: Tensor, layer: int, how: Scoring
    ) -> Tensor:
        count, width = len(self._slots), query_1HTD.shape[3]
        first, mask_N11K = self._mask(how)
        keys_NHKD, values_NHKD = self._arena.kv_L2SHKD[layer, :, :count, :, first : self.longest].unbind(0)
        # The queries that share a key head stand as rows of one query matrix, so keys are read once for all.
        query_NHGD = query_1HTD[0, :, self._rows].transpose(0, 1).reshape(count, self._heads, -1, width)
        if self._plain or not how.is_plain:
            out_NHGD = _attend_many(query_NHGD, keys_NHKD, values_NHKD, mask_N11K, how)
        else:
            out_NHGD = F.scaled_dot_product_attention(
                query_NHGD, keys_NHKD, values_NHKD, attn_mask=mask_N11K, scale=how.scaling
            )
        return out_NHGD.reshape(count, -1, width).transpose(0, 1)[None]

    def _mask(self, how: Scoring) -> tuple[int, Tensor | None]:
        """The first position that any row sees, and what is added to the scores from there on (None: nothing)."""
        key = (how.window, how.chunk)
        if key not in self._masks:
            first = how.first_near(self._shortest)
            self._masks[key] = first, None
            if how.is_local or self._shortest + 1 < self.longest:
                places_K = torch.arange(first, self.longest, device=self._lengths_N.device)
                see_NK = how.is_near(self._lengths_N, places_K) & (places_K <= self._lengths_N[:, None])
                dtype = torch.float32 if self._plain else self._arena.kv_L2SHKD.dtype
                mask_NK = torch.zeros(see_NK.shape, dtype=dtype, device=see_NK.device)
                self._masks[key] = first, mask_NK.masked_fill_(~see_NK, -torch.inf)[:, None, None]
        return self._masks[key]

    def attend_rows(
        self, qkv_TXD: Tensor, out_TQD: Tensor, layer: int, scaling: float, work: Workspace
    ) -> None:
        self.native().attend(qkv_TXD[self._rows], layer, scaling, out_TQD[self._rows], work)

    def native(self) -> NativeSlots:
        """The slots as native kernels see them."""
        if self._native is None:
            self._native = NativeSlots(self._arena.kv_L2SHKD, self._lengths_N, self.longest - 1)
        return self._native

    def finish(self) -> None:
        for slot in self._slots:
            slot.length += 1


def _attend_many(
    query_NHGD: Tensor, key_NHKD: Tensor, value_NHKD: Tensor, mask_N11K: Tensor | None, how: Scoring
) -> Tensor:
    """Attention of few queries to many keys as two products, with the keys as the left factor of the first.

    For 64 sequences of 300 tokens this takes half the time of the CPU's fused kernel: it is made for many queries.
    """
    scores_MKG = torch.bmm(key_NHKD.flatten(0, 1), query_NHGD.flatten(0, 1).transpose(1, 2))
    scores_NHGK = scores_MKG.transpose(1, 2).float().view(*query_NHGD.shape[:3], -1) * how.scaling
    if how.softcap is not None:
        scores_NHGK = how.softcap * torch.tanh(scores_NHGK / how.softcap)
    if mask_N11K is not None:
        scores_NHGK += mask_N11K
    probs_MGK = (
        weigh(scores_NHGK[:, :, :, None], how).to(value_NHKD.dtype).view(scores_MKG.transpose(1, 2).shape)
    )
    return torch.bmm(probs_MGK, value_NHKD.flatten(0, 1)).view(query_NHGD.shape)


class Chunk:
    """Some more tokens of one sequence's prompt, whose slot may begin as another one does."""

    def __init__(self, slot: KvSlot, row: int, count: int, fork: tuple[KvSlot, int] | None) -> None:
        self._slot, self._count, self._rows = slot, count, slice(row, row + count)
        self._source: KvSlot | None = None
        self._start = slot.length
        if fork is not None:
            self._source, self._start = fork
        self.longest = self._start + count
        self._sees: dict[tuple[int | None, int | None], Tensor] = {}  # layers share them

    def write(self, key_1HTD: Tensor, value_1HTD: Tensor, layer: int) -> None:
        slot, rows = self._slot, self._rows
        kv_2HKD = slot.arena.kv_L2SHKD[layer, :, slot.number]
        self._begin(kv_2HKD, layer)
        kv_2HKD[0, :, self._start : self.longest] = key_1HTD[0, :, rows]
        kv_2HKD[1, :, self._start : self.longest] = value_1HTD[0, :, rows]

    def _begin(self, kv_2HKD: Tensor, layer: int) -> None:
        """What the other slot begins with. It stands before this one, so it has its part of this layer by now."""
        if self._source is not None:
            source = self._source
            kv_2HKD[:, :, : self._start] = source.arena.kv_L2SHKD[layer, :, source.number, :, : self._start]

    def attend(
        self, query_1HTD: Tensor, key_1HTD: Tensor, value_1HTD: Tensor, layer: int, how: Scoring
    ) -> Tensor:
        query = query_1HTD[:, :, self._rows]
        if not self._start:
            key, value = key_1HTD[:, :, self._rows], value_1HTD[:, :, self._rows]
            if how.is_plain and not how.is_local and self._count > SHORT:
                return F.scaled_dot_product_attention(
                    query, key, value, is_causal=True, scale=how.scaling, enable_gqa=True
                )
            return attend_masked(query, key, value, self._see(how), how)
        first, slot = how.first_near(self._start), self._slot
        key, value = slot.arena.kv_L2SHKD[layer, :, None, slot.number, :, first : self.longest].unbind(0)
        return attend_masked(query, key, value, self._see(how), how)

    def _see(self, how: Scoring) -> Tensor:
        """bool[T, K]: which of the positions from the first that is near enough each row sees."""
        key = (how.window, how.chunk)
        if key not in self._sees:
            first = how.first_near(self._start)
            places_K = torch.arange(first, self.longest, device=self._slot.arena.kv_L2SHKD.device)
            rows_T = places_K[self._start - first :]
            self._sees[key] = (places_K <= rows_T[:, None]) & how.is_near(rows_T, places_K)
        return self._sees[key]

    def native(self) -> PromptRows:
        """The rows as native kernels see them."""
        source = None if self._source is None else self._source.kv_L2HKD
        return PromptRows(self._slot.kv_L2HKD, self._start, self._count, self._rows.start, source)

    def finish(self) -> None:
        self._slot.length = self.longest
