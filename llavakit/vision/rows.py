"""From a plan to index arrays: which feature rows make each image token. The model only gathers.

A token is one feature row, a weighted sum of a few (average and bilinear pooling), or their maximum. Both pooling
before and after the connector is this one operation, so the model has no branch on kinds of media.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from llavakit.vision.layout import Grid, Plan

NEWLINE, FASTER = 0, 1  # rows of the model's table of separators


@dataclass(frozen=True, eq=False)
class TokenRows:
    """Row `into[s]` is the sum of `weights[s, k]` times row `rows[s, k]`; their maximum if there are no weights."""

    into: np.ndarray  # int64[S]
    rows: np.ndarray  # int64[S, K]
    weights: np.ndarray | None  # float32[S, K]; None where K is 1 and for the maximum


@dataclass(frozen=True, eq=False)
class Tokens:
    """The image tokens of a plan, numbered from 0, made of the tower's rows, counted from the first tile on."""

    token_rows: tuple[TokenRows, ...]
    separators: np.ndarray  # int64[M, 2]: token, and the row of the table of separators that stands there


@lru_cache(maxsize=512)
def plan_tokens(plan: Plan) -> Tokens:
    """The index arrays of a plan. Grids that are resampled alike are gathered together."""
    pieces: dict[tuple[int, bool], list[tuple[np.ndarray, np.ndarray, np.ndarray | None]]] = {}
    separators: list[tuple[int, int]] = []
    at = 0
    for grid in plan.grids:
        rows_SK, weights_SK = grid_rows(grid, plan.side)
        width, height = grid.size
        wide = width + (grid.newline == "row")
        into_S = at + (np.arange(height)[:, None] * wide + np.arange(width)).ravel()
        if grid.newline == "row":
            separators += [(at + (row + 1) * wide - 1, NEWLINE) for row in range(height)]
        at += height * wide
        if grid.newline == "end":
            separators.append((at, NEWLINE))
            at += 1
        if grid.closing:
            separators.append((at, FASTER))
            at += 1
        pieces.setdefault((rows_SK.shape[1], weights_SK is None), []).append((into_S, rows_SK, weights_SK))
    token_rows = tuple(
        TokenRows(
            np.concatenate([into for into, _, _ in group]),
            np.concatenate([rows for _, rows, _ in group]),
            None if plain else np.concatenate([weights for _, _, weights in group if weights is not None]),
        )
        for (_, plain), group in pieces.items()
    )
    return Tokens(token_rows, np.array(separators, dtype=np.int64).reshape(-1, 2))


def grid_rows(grid: Grid, side: tuple[int, int]) -> tuple[np.ndarray, np.ndarray | None]:
    """(rows[S, K], weights[S, K] or None) of a grid's tokens, row by row, newlines left out."""
    table_HW = _joined(grid, side)
    height, width = table_HW.shape
    if grid.resample == "none":
        return table_HW.reshape(-1, 1), None
    if grid.resample == "bilinear":
        y_OK, v_OK = _linear(height, grid.size[1])
        x_OK, u_OK = _linear(width, grid.size[0])
    else:
        y_OK, v_OK = _windows(grid.size[1], grid.window)
        x_OK, u_OK = _windows(grid.size[0], grid.window)
    tokens = grid.size[0] * grid.size[1]
    rows = table_HW[y_OK[:, None, :, None], x_OK[None, :, None, :]].reshape(tokens, -1)
    if grid.resample == "max":
        return rows, None
    return rows, (v_OK[:, None, :, None] * u_OK[None, :, None, :]).reshape(tokens, -1)


def _joined(grid: Grid, side: tuple[int, int]) -> np.ndarray:
    """int64[H, W]: the number of the feature row at each place of the cropped map."""
    (columns, rows), (width, height) = grid.tiles, side
    table = np.arange(columns * rows * width * height, dtype=np.int64) + grid.first * width * height
    joined = (
        table.reshape(rows, columns, height, width)
        .transpose(0, 2, 1, 3)
        .reshape(rows * height, columns * width)
    )
    left, top, right, bottom = grid.crop
    return joined[top:bottom, left:right]


def _linear(size: int, out: int) -> tuple[np.ndarray, np.ndarray]:
    """(source[out, 2], weight[out, 2]) of PyTorch's bilinear interpolation: align_corners=False, no antialias."""
    at = np.maximum((np.arange(out) + 0.5) * (size / out) - 0.5, 0)
    low = at.astype(np.int64)
    part = (at - low).astype(np.float32)
    return np.stack([low, np.minimum(low + 1, size - 1)], axis=1), np.stack([1 - part, part], axis=1)


def _windows(out: int, window: int) -> tuple[np.ndarray, np.ndarray]:
    """(source[out, window], weight[out, window]) of windows side by side; what fills none is dropped."""
    source = np.arange(out)[:, None] * window + np.arange(window)
    return source, np.full(source.shape, 1 / window, dtype=np.float32)
