"""One step of the engine as attention sees it: every row goes on with its own slot and sees that slot up to itself.

A step is a packed row: first one row for each sequence that decodes, then chunks of prompts. It is given to the
decoder both as its cache (`update` writes the new keys and values into the slots) and as its layout.
Shape letters: L layers, S slots, N decoding, H key heads, M = N x H, G queries per key head, K positions, D head
width, T rows.
"""

from collections.abc import Mapping, Sequence
from itertools import groupby

import torch
from torch import Tensor
from torch.nn import functional as F

from llavakit.engine.kv_slots import Arena, KvSlot
from llavakit.engine.native import NativePrompts, NativeSlots, PromptRows, Workspace
from llavakit.model.attention import SHORT, KeyValueCache, Scoring, attend_masked, weigh
from llavakit.model.fused import attend_lengths, takes_lengths

Forks = Mapping[
    KvSlot, tuple[KvSlot, int]
]  # a slot that begins as another one does, and for how many positions
MANY = 8  # decoding sequences from which plain products beat the CPU's fused kernel


class PartedLayout(KeyValueCache):
    """Rows in parts, each with slots of its own: what they read and write."""

    def __init__(self, parts: "Sequence[OneEach | Chunk | FreshChunks]") -> None:
        self._parts = parts
        self._layer = 0
        self.longest = max(part.longest for part in parts)

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

    def finish(self) -> None:
        """All layers have written: the slots are longer now."""
        for part in self._parts:
            part.finish()


class StepLayout(PartedLayout):
    """Those of a step, whatever it computes."""

    def __init__(self, arenas: Sequence[Arena], chunks: Sequence[tuple[KvSlot, int]], forks: Forks) -> None:
        """Rows for the decoding slots of `arenas` in order, then so many rows for each slot of `chunks`."""
        parts: list[OneEach | Chunk | FreshChunks] = []
        row = 0
        for arena in arenas:
            parts.append(Decoding(arena, row))
            row += arena.decoding
        prompts: list[Chunk] = []
        for slot, count in chunks:
            prompts.append(Chunk(slot, row, count, forks.get(slot)))
            row += count
        super().__init__([*parts, *gather_fresh(prompts)])
        self._prompts: NativePrompts | None = None  # made for the first layer

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


class OneEach:
    """One new token for each of the first slots of an arena."""

    def __init__(self, arena: Arena, row: int, lengths_N: Tensor, *, shortest: int, longest: int) -> None:
        """`lengths_N` is how many each slot has; they are not below `shortest`, and below `longest`."""
        count, device = len(lengths_N), lengths_N.device
        self._arena, self._rows, self._count = arena, slice(row, row + count), count
        self.longest, self._shortest = longest, shortest
        self._heads = arena.kv_L2SHKD.shape[3]
        self._lengths_N = lengths_N
        places_HN = torch.arange(self._heads, device=device)[:, None] * arena.size + lengths_N
        self._places = (places_HN + torch.arange(count, device=device) * self._heads * arena.size).flatten()
        self._plain = device.type == "cpu" and count >= MANY
        self._masks: dict[tuple[int | None, int | None], tuple[int, Tensor | None]] = {}  # layers share them

    def write(self, key_1HTD: Tensor, value_1HTD: Tensor, layer: int) -> None:
        width = key_1HTD.shape[3]
        for kind, new_1HTD in enumerate((key_1HTD, value_1HTD)):
            table_XD = self._arena.kv_L2SHKD[layer, kind].view(-1, width)
            rows_MD = new_1HTD[0, :, self._rows].reshape(-1, width)
            # Modules under autocast give bfloat16.
            table_XD.index_copy_(0, self._places, self._kept(rows_MD.to(table_XD.dtype), table_XD))

    def _kept(self, rows_MD: Tensor, table_XD: Tensor) -> Tensor:
        """What is written of new keys or values, where `table_XD` has those of all slots."""
        return rows_MD

    def attend(
        self, query_1HTD: Tensor, key_1HTD: Tensor, value_1HTD: Tensor, layer: int, how: Scoring
    ) -> Tensor:
        count, width = self._count, query_1HTD.shape[3]
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

    def finish(self) -> None:
        """All layers have written; who replays a recorded step tells the slots himself."""


class Padded(OneEach):
    """A bucket of rows, of which some may be idle: those compute what nobody reads, and write what was there."""

    def __init__(self, arena: Arena, row: int, lengths_N: Tensor, busy_N: Tensor) -> None:
        """`busy_N`: which are not idle. All see as far as a slot is long, so another step has the same shapes."""
        super().__init__(arena, row, lengths_N, shortest=0, longest=arena.size)
        self._busy_M1 = busy_N.repeat(self._heads)[:, None]

    def _kept(self, rows_MD: Tensor, table_XD: Tensor) -> Tensor:
        return torch.where(self._busy_M1, rows_MD, table_XD[self._places])


class Decoding(OneEach):
    """One for each decoding slot."""

    def __init__(self, arena: Arena, row: int) -> None:
        self._slots = arena.slots[: arena.decoding]
        lengths = [slot.length for slot in self._slots]
        lengths_N = torch.tensor(lengths, device=arena.kv_L2SHKD.device)
        super().__init__(arena, row, lengths_N, shortest=min(lengths), longest=max(lengths) + 1)
        self._native: NativeSlots | None = None

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
        self._slot, self._count, self.rows = slot, count, slice(row, row + count)
        self._source: KvSlot | None = None
        self._start = slot.length
        if fork is not None:
            self._source, self._start = fork
        self.longest = self._start + count
        self._sees: dict[tuple[int | None, int | None], Tensor] = {}  # layers share them

    def write(self, key_1HTD: Tensor, value_1HTD: Tensor, layer: int) -> None:
        slot, rows = self._slot, self.rows
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
        query = query_1HTD[:, :, self.rows]
        if not self._start:
            key, value = key_1HTD[:, :, self.rows], value_1HTD[:, :, self.rows]
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

    @property
    def is_fresh(self) -> bool:
        """Whether its prompt begins here, so that all it sees is in the row."""
        return self._start == 0

    @property
    def on_cuda(self) -> bool:
        return self._slot.arena.kv_L2SHKD.is_cuda

    def native(self) -> PromptRows:
        """The rows as native kernels see them."""
        source = None if self._source is None else self._source.kv_L2HKD
        return PromptRows(self._slot.kv_L2HKD, self._start, self._count, self.rows.start, source)

    def finish(self) -> None:
        self._slot.length = self.longest


class FreshChunks:
    """Beginnings of prompts that stand together in a row: plain sequences, which one kernel attends."""

    def __init__(self, chunks: Sequence[Chunk]) -> None:
        self._chunks = chunks
        self.longest = max(chunk.longest for chunk in chunks)
        self._rows = slice(chunks[0].rows.start, chunks[-1].rows.stop)
        self._ends_S1: Tensor | None = None  # 0 first, on the device; layers share it

    def write(self, key_1HTD: Tensor, value_1HTD: Tensor, layer: int) -> None:
        for chunk in self._chunks:
            chunk.write(key_1HTD, value_1HTD, layer)

    def attend(
        self, query_1HTD: Tensor, key_1HTD: Tensor, value_1HTD: Tensor, layer: int, how: Scoring
    ) -> Tensor:
        query, key, value = (x[:, :, self._rows] for x in (query_1HTD, key_1HTD, value_1HTD))
        if not takes_lengths(query, value, how):
            each = [
                chunk.attend(query_1HTD, key_1HTD, value_1HTD, layer, how.within(chunk.longest))
                for chunk in self._chunks
            ]
            return torch.cat(each, dim=2)
        if self._ends_S1 is None:
            ends = [0, *(chunk.rows.stop - self._rows.start for chunk in self._chunks)]
            self._ends_S1 = torch.tensor(ends, dtype=torch.int32, device=query.device)
        return attend_lengths(query, key, value, self._ends_S1, self.longest, how)

    def finish(self) -> None:
        for chunk in self._chunks:
            chunk.finish()


def gather_fresh(chunks: Sequence[Chunk]) -> "list[Chunk | FreshChunks]":
    """The same rows; on CUDA, which has a kernel for it, beginnings of prompts that stand together are one part."""
    if not any(chunk.on_cuda for chunk in chunks):
        return list(chunks)
    parts: list[Chunk | FreshChunks] = []
    for is_fresh, some in groupby(chunks, lambda chunk: chunk.is_fresh):
        together = list(some)
        parts += [FreshChunks(together)] if is_fresh else together
    return parts
