"""Guesses for a click: what stands out in windows around it, and in the whole picture (U2-Net, the small one).

A window that holds the thing whole is a good one: its guess does not reach the window's border.
"""

from dataclasses import dataclass, replace

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
    """What may be meant: float32[h, w] from 0 to 1, spread over a box of the canvas that may have more pixels."""

    name: str
    box: Box
    soft: np.ndarray

    def holds(self, x: float, y: float) -> bool:
        """Whether a point of the canvas is inside."""
        left, top, right, bottom = self.box
        if not (left <= x < right and top <= y < bottom):
            return False
        height, width = self.soft.shape
        row, column = int((y - top) * height / (bottom - top)), int((x - left) * width / (right - left))
        return bool(self.soft[row, column] > SURE)

    def inside(self) -> np.ndarray:
        """bool[h, w] of its box, in pixels of the canvas."""
        size = (self.box[2] - self.box[0], self.box[3] - self.box[1])
        if self.soft.shape[::-1] == size:
            return self.soft > SURE
        # Bytes: at the size of the canvas floats cost four times as much, and the edge is where they cross SURE.
        found: np.ndarray = _sized(np.rint(255 * self.soft).astype(np.uint8), size) > 255 * SURE
        return found


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
        found.append((0.0, Guess("salient", (0, 0, *view.size), over)))
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
    return Guess("object", box, soft) if (soft > SURE).any() else None


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
    sure = found > SURE
    inner = (window[1] > 0, window[3] < view.size[1], window[0] > 0, window[2] < view.size[0])
    sides = (sure[0], sure[-1], sure[:, 0], sure[:, -1])
    touched = sum(int(side.sum()) for side, counts in zip(sides, inner, strict=True) if counts)
    return touched / float(np.sqrt(sure.sum())), Guess("object", window, found)


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
        kept[0] = replace(kept[0], name="part")
    return kept


def _iou(one: Guess, other: Guess, size: tuple[int, int]) -> float:
    step = 1 + max(size) // 512
    a, b = (_sampled(guess, size, step) for guess in (one, other))
    either = int((a | b).sum())
    return int((a & b).sum()) / either if either else 1.0


def _sampled(guess: Guess, size: tuple[int, int], step: int) -> np.ndarray:
    """bool[H / step, W / step]: every so many pixels of the canvas."""
    out = np.zeros((-(-size[1] // step), -(-size[0] // step)), bool)
    left, top, right, bottom = guess.box
    height, width = guess.soft.shape
    y, x = np.arange(-(-top // step), -(-bottom // step)), np.arange(-(-left // step), -(-right // step))
    rows, columns = (y * step - top) * height // (bottom - top), (x * step - left) * width // (right - left)
    out[y[:, None], x] = guess.soft[rows[:, None], columns] > SURE
    return out
