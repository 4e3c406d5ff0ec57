"""Guesses for a click: what stands out in windows around it, and in the whole picture (U2-Net, the small one).

A window that holds the thing whole is a good one: its guess does not reach the window's border.
"""

from dataclasses import dataclass

import numpy as np

from llavakit.studio.engines import View
from llavakit.studio.tiles import Box, grown
from llavakit.tools.opencv import opencv
from llavakit.tools.saliency import saliency

WINDOWS = (0.16, 0.4)  # half the side of each, in parts of the picture's longer side
WINDOW_SIDE = 160  # pixels that the network sees of a window; 192 finds the same and costs half as much again
PICTURE_SIDE = 320  # and of the whole picture
SURE = 0.5
TOUCHING = 0.15  # of the square root of a guess's area: more of it on a window's border was cut off there
SAME = 0.9  # IoU of guesses of which one is enough


@dataclass(frozen=True)
class Guess:
    """What may be meant: float32[h, w] from 0 to 1, whose corner lies at `at` on a canvas."""

    name: str
    at: tuple[int, int]
    soft: np.ndarray

    def holds(self, x: float, y: float) -> bool:
        """Whether a point of the canvas is inside."""
        column, row = int(x) - self.at[0], int(y) - self.at[1]
        height, width = self.soft.shape
        return 0 <= column < width and 0 <= row < height and bool(self.soft[row, column] > SURE)


def whole_picture(view: View) -> np.ndarray:
    """float32[h, w] of a smaller version: how much each pixel of the picture stands out."""
    return saliency(view.rgb(level(max(view.size), PICTURE_SIDE)), PICTURE_SIDE)


def guesses(view: View, whole: np.ndarray, x: float, y: float) -> list[Guess]:
    """What a click may mean: the whole ones first, from the smallest window to the picture."""
    found: list[tuple[float, Guess]] = []
    longest = max(view.size)
    for part in WINDOWS:
        reach = max(8, int(longest * part))
        window = grown((int(x), int(y), int(x) + 1, int(y) + 1), reach, view.size)
        touched, guess = _guess_window(view, window, x, y)
        if guess is not None:
            found.append((touched, guess))
    over = _around(whole, x * whole.shape[1] / view.size[0], y * whole.shape[0] / view.size[1])
    if over is not None:
        found.append((0.0, Guess("salient", (0, 0), _sized(over, view.size))))
    good = [guess for touched, guess in found if touched < TOUCHING]
    if not good and found:
        good = [min(found, key=lambda pair: pair[0])[1]]
    return _different(good, view.size)


def guess_box(view: View, box: Box) -> Guess | None:
    """What stands out in a box; None where nothing does."""
    margin = max(4, round(0.15 * max(box[2] - box[0], box[3] - box[1])))
    window = grown(box, margin, view.size)
    soft = _sized(_window(view, window), (window[2] - window[0], window[3] - window[1]))
    left, top = box[0] - window[0], box[1] - window[1]
    soft = soft[top : top + box[3] - box[1], left : left + box[2] - box[0]]
    return Guess("object", box[:2], soft) if (soft > SURE).any() else None


def level(longest: int, wanted: int) -> int:
    """How often a picture may be halved and still have `wanted` pixels."""
    z = 0
    while longest >> (z + 1) >= wanted:
        z += 1
    return z


def _guess_window(view: View, window: Box, x: float, y: float) -> tuple[float, Guess | None]:
    """How much of a guess lies on the border of its window, and the guess; None where the click is in none."""
    small, size = _window(view, window), (window[2] - window[0], window[3] - window[1])
    small_x, small_y = (
        (x - window[0]) * small.shape[1] / size[0],
        (y - window[1]) * small.shape[0] / size[1],
    )
    found = _around(small, small_x, small_y)
    if found is None:
        return 0.0, None
    soft, sure = _sized(found, size), found > SURE
    inner = (window[1] > 0, window[3] < view.size[1], window[0] > 0, window[2] < view.size[0])
    sides = (sure[0], sure[-1], sure[:, 0], sure[:, -1])
    touched = sum(int(side.sum()) for side, counts in zip(sides, inner, strict=True) if counts)
    return touched / float(np.sqrt(sure.sum())), Guess("object", window[:2], soft)


def _window(view: View, window: Box) -> np.ndarray:
    """float32[h, w] of a smaller version: how much each pixel of a window stands out in it."""
    z = level(max(window[2] - window[0], window[3] - window[1]), WINDOW_SIDE)
    left, top, right, bottom = (edge >> z for edge in window)
    rgb = view.rgb(z, (left, top, max(right, left + 1), max(bottom, top + 1)))
    return saliency(rgb, WINDOW_SIDE)


def _around(soft: np.ndarray, x: float, y: float) -> np.ndarray | None:
    """What hangs together with a point; None where nothing is there."""
    column, row = min(max(int(x), 0), soft.shape[1] - 1), min(max(int(y), 0), soft.shape[0] - 1)
    if soft[row, column] <= SURE:
        return None
    _, parts = opencv().connectedComponents((soft > SURE).astype(np.uint8))
    return np.where(parts == parts[row, column], soft, 0)


def _sized(soft: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    if soft.shape[::-1] == size:
        return soft
    out: np.ndarray = opencv().resize(soft, size, interpolation=opencv().INTER_LINEAR)
    return out


def _different(found: list[Guess], size: tuple[int, int]) -> list[Guess]:
    """Without those that are nearly the same as one before; the first of several is a part."""
    kept: list[Guess] = []
    for guess in found:
        if all(_iou(guess, other, size) < SAME for other in kept):
            kept.append(guess)
    if len(kept) > 1:
        kept[0] = Guess("part", kept[0].at, kept[0].soft)
    return kept


def _iou(one: Guess, other: Guess, size: tuple[int, int]) -> float:
    step = 1 + max(size) // 512
    a, b = (_sampled(guess, size, step) for guess in (one, other))
    either = int((a | b).sum())
    return int((a & b).sum()) / either if either else 1.0


def _sampled(guess: Guess, size: tuple[int, int], step: int) -> np.ndarray:
    """bool[H / step, W / step]: every so many pixels of the canvas."""
    out = np.zeros((-(-size[1] // step), -(-size[0] // step)), bool)
    (x, y), first_x, first_y = guess.at, -guess.at[0] % step, -guess.at[1] % step
    part = guess.soft[first_y::step, first_x::step] > SURE
    top, left = (y + first_y) // step, (x + first_x) // step
    out[top : top + part.shape[0], left : left + part.shape[1]] = part
    return out
