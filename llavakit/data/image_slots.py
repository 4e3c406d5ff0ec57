"""The image side of a packed row: which feature rows stand in which slots, for all its images and videos."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from llavakit.core.types import Gather
from llavakit.vision.layout import Plan
from llavakit.vision.rows import Tokens, plan_tokens

Piece = tuple[np.ndarray, np.ndarray, np.ndarray | None]  # into, rows, weights


@dataclass(frozen=True)
class ImageSlots:
    """The fields of a Batch that have to do with media; see there."""

    pixels: tuple[Tensor, ...]
    features_RC: Tensor | None
    pools: tuple[Gather, ...]
    gathers: tuple[Gather, ...]
    separator_slots_S: Tensor
    separator_rows_S: Tensor


def fill_image_slots(plans: Sequence[Plan], tiles: Sequence[Tensor], slots_S: np.ndarray) -> ImageSlots:
    """`tiles[i]` (uint8 pixels, or features) belongs to `plans[i]`, whose tokens take the next of the slots."""
    _check(plans, tiles, len(slots_S))
    pixels, features_RC, starts = _table(plans, tiles)
    pool_any = any(plan.pool_first for plan in plans)
    pools: list[Piece] = []
    gathers: list[Piece] = []
    separators: list[np.ndarray] = []
    slot, connected = 0, 0  # the next free slot, the next free row of the connector's table
    for plan, start in zip(plans, starts, strict=True):
        tokens = plan_tokens(plan)
        mine_S = slots_S[slot : slot + plan.num_tokens]
        slot += plan.num_tokens
        separators.append(np.stack([mine_S[tokens.separators[:, 0]], tokens.separators[:, 1]], axis=1))
        if plan.pool_first:
            new_pools, into_S = _pooled(tokens, start, connected)
            pools += new_pools
            rows_S = np.arange(connected, connected + len(into_S))
            gathers.append((mine_S[into_S], rows_S[:, None], None))
            connected += len(into_S)
            continue
        if pool_any:  # what is not pooled passes to the connector as it is
            count = plan.tiles * plan.side[0] * plan.side[1]
            pools.append((connected + np.arange(count), start + np.arange(count)[:, None], None))
            start, connected = connected, connected + count
        gathers += [(mine_S[g.into], start + g.rows, g.weights) for g in tokens.token_rows]
    separators_S2 = np.concatenate(separators) if separators else np.empty((0, 2), dtype=np.int64)
    return ImageSlots(
        pixels=pixels,
        features_RC=features_RC,
        pools=_together(pools),
        gathers=_together(gathers),
        separator_slots_S=torch.from_numpy(separators_S2[:, 0].copy()),
        separator_rows_S=torch.from_numpy(separators_S2[:, 1].copy()),
    )


def _check(plans: Sequence[Plan], tiles: Sequence[Tensor], num_slots: int) -> None:
    planned = [plan.tiles for plan in plans]
    if planned != [len(given) for given in tiles]:
        raise ValueError(f"{planned} tile(s) planned, {[len(given) for given in tiles]} given")
    tokens = sum(plan.num_tokens for plan in plans)
    if tokens != num_slots:
        raise ValueError(f"the plans have {tokens} image tokens, the row has {num_slots} slots for them")


def _table(
    plans: Sequence[Plan], tiles: Sequence[Tensor]
) -> tuple[tuple[Tensor, ...], Tensor | None, list[int]]:
    """(pixels by tile size, or features, and the feature row each plan starts at)."""
    if tiles and tiles[0].dtype != torch.uint8:
        rows = [given.flatten(0, 1) for given in tiles]
        counts = [len(table) for table in rows]
        return (), torch.cat(rows), [sum(counts[:i]) for i in range(len(counts))]
    sizes = list(dict.fromkeys(plan.tile for plan in plans))
    starts = [0] * len(plans)
    at = 0
    for size in sizes:  # the tower runs once per tile size; there is one, unless images keep their aspect
        for number, plan in enumerate(plans):
            if plan.tile == size:
                starts[number] = at
                at += plan.tiles * plan.side[0] * plan.side[1]
    pixels = tuple(
        torch.cat([given for plan, given in zip(plans, tiles, strict=True) if plan.tile == size])
        for size in sizes
    )
    return pixels, None, starts


def _pooled(tokens: Tokens, start: int, connected: int) -> tuple[list[Piece], np.ndarray]:
    """Pools that fill the connector's table from row `connected` on, and the token each of those rows becomes."""
    into_S = np.sort(np.concatenate([g.into for g in tokens.token_rows]))
    pieces: list[Piece] = [
        (connected + np.searchsorted(into_S, g.into), start + g.rows, g.weights) for g in tokens.token_rows
    ]
    return pieces, into_S


def _together(pieces: list[Piece]) -> tuple[Gather, ...]:
    """One gather for all pieces of one kind: as many rows a slot, weighted or not."""
    kinds: dict[tuple[int, bool], list[Piece]] = {}
    for piece in pieces:
        kinds.setdefault((piece[1].shape[1], piece[2] is None), []).append(piece)
    return tuple(
        Gather(
            into_S=torch.from_numpy(np.concatenate([into for into, _, _ in group])),
            rows_SK=torch.from_numpy(np.concatenate([rows for _, rows, _ in group])),
            weights_SK=None
            if plain
            else torch.from_numpy(np.concatenate([w for _, _, w in group if w is not None])),
        )
        for (_, plain), group in kinds.items()
    )
