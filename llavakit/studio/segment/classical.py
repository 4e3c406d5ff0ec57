"""The segmenter of the box: guesses by what stands out, corrections by what looks alike. No hub is needed.

The first click picks among guesses. Each further one that the mask contradicts changes it around itself only: as
far as things look alike, and about as far as the click lies from the mask's edge, for people click in the middle of
what is wrong. A mark that the mask agrees with changes nothing.
"""

from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from threading import Lock

import numpy as np

from llavakit.studio.engines import Found, Mark, Prompts, Step, View
from llavakit.studio.masks import draw_path
from llavakit.studio.scene import EditError
from llavakit.studio.segment.naming import named_boxes
from llavakit.studio.segment.pieces import Pieces, cut_pieces
from llavakit.studio.segment.standing_out import Guess, guess_box, guesses, level, whole_picture
from llavakit.studio.tiles import Box, Pixels, grown, intersect, nonzero_box
from llavakit.tools.opencv import opencv

REACH = 0.05  # of a correction: smaller reaches farther
SURE_SHARE = 0.7  # of the mark's distance: so far around it everything is what it says
ROUND = 3.0  # times the mark's distance: no correction reaches farther, so none costs much
FAR = 0.25  # of the square root of the mask's area: a mark as far as that from its edge means another thing
SWITCHES = 3  # marks up to which another guess may be taken; later ones would undo what was corrected
NEAREST = 3.0  # pixels
FARTHEST = 0.25  # of the picture's longer side
CANDIDATES = 3
KEPT = 8  # pictures, windows, first marks


@dataclass
class _Known:
    """What was found out about one picture, each thing when it is first needed.

    Two locks: a correction needs pieces only, and does not wait for what stands out.
    """

    whole: np.ndarray | None = None  # what stands out in all of it
    guesses: OrderedDict[tuple[int, int], list[Guess]] = field(default_factory=OrderedDict)
    guessing: Lock = field(default_factory=Lock)
    pieces: OrderedDict[Box, Pieces] = field(default_factory=OrderedDict)
    cutting: Lock = field(default_factory=Lock)


class Classical:
    """A PromptSegmenter. Any thread may ask."""

    def __init__(self) -> None:
        self._known: OrderedDict[Hashable, _Known] = OrderedDict()
        self._lock = Lock()

    def steps(self, view: View) -> Sequence[Step]:
        """The picture's pieces, which corrections need; then what stands out in it, for first clicks."""
        known = self._of(view)
        return (
            Step("pieces", partial(self._pieces, view, known, (0, 0, *view.size))),
            Step("what stands out", partial(self._standing_out, view, known)),
        )

    def segment(self, view: View, prompts: Prompts) -> list[Found]:
        """Candidates for a first mark, a box or a name; one corrected mask where there was one."""
        known = self._of(view)
        marks = list(prompts.marks)
        if prompts.before is not None:
            return [_found("corrected", self._correct_all(view, known, marks, prompts.before >= 128))]
        first = self._first(view, known, prompts)
        masks = [_whole(guess, view.size) for guess in first] or [np.zeros(view.size[::-1], bool)]
        names = [guess.name for guess in first] or ["object"]
        found = [
            _found(name, self._correct_all(view, known, marks, mask, switch=False))
            for name, mask in zip(names, masks, strict=True)
        ]
        return [each for each in found if each.mask.any()]

    def _first(self, view: View, known: _Known, prompts: Prompts) -> list[Guess]:
        if prompts.box is not None:
            return [guess_box(view, prompts.box) or _oval(prompts.box)]
        if prompts.text:
            boxes = named_boxes(view, prompts.text)[:CANDIDATES]
            return [replace(guess_box(view, box) or _oval(box), name=prompts.text) for box in boxes]
        start = next((mark for mark in prompts.marks if mark.inside), None)
        if start is None:
            raise EditError("mark something that is inside first")
        return self._guesses(view, known, start)[:CANDIDATES]

    def _of(self, view: View) -> _Known:
        with self._lock:
            known = self._known.setdefault(view.key, _Known())
            self._known.move_to_end(view.key)
            while len(self._known) > KEPT:
                self._known.popitem(last=False)
            return known

    def _standing_out(self, view: View, known: _Known) -> np.ndarray:
        with known.guessing:
            if known.whole is None:
                known.whole = whole_picture(view)
            return known.whole

    def _guesses(self, view: View, known: _Known, mark: Mark) -> list[Guess]:
        x, y = _middle(mark)
        place, whole = (int(x), int(y)), self._standing_out(view, known)
        with known.guessing:
            if place not in known.guesses:
                known.guesses[place] = guesses(view, whole, x, y)
                while len(known.guesses) > KEPT:
                    known.guesses.popitem(last=False)
            return known.guesses[place]

    def _correct_all(
        self, view: View, known: _Known, marks: list[Mark], mask: np.ndarray, *, switch: bool = True
    ) -> np.ndarray:
        """The mask after every mark that it contradicts, in their order."""
        for mark in marks:
            wrong = _contradicted(mark, mask)
            if wrong is None:
                continue
            x, y, distance = wrong
            if switch and 1 < len(marks) <= SWITCHES and distance > FAR * np.sqrt(np.count_nonzero(mask) + 1):
                other = self._other_guess(view, known, marks)
                if other is not None:
                    return other
            mask = self._correct(view, known, marks, mask, (x, y), distance, mark.inside)
        return mask

    def _other_guess(self, view: View, known: _Known, marks: list[Mark]) -> np.ndarray | None:
        """The first guess that agrees with every mark."""
        if not marks[0].inside:
            return None
        for guess in self._guesses(view, known, marks[0]):
            if all(guess.holds(*_middle(mark)) == mark.inside for mark in marks):
                return _whole(guess, view.size)
        return None

    def _correct(
        self,
        view: View,
        known: _Known,
        marks: list[Mark],
        mask: np.ndarray,
        place: tuple[int, int],
        distance: float,
        inside: bool,
    ) -> np.ndarray:
        x, y = place
        distance = min(max(distance, NEAREST), FARTHEST * max(view.size))
        room = grown((x, y, x + 1, y + 1), int(ROUND * distance) + 1, view.size)
        window, pieces = self._pieces(view, known, room)
        left, top, right, bottom = window
        part = mask[top:bottom, left:right]
        prior_N = 2 * pieces.means(part) - 1
        fixed: dict[int, float] = {}
        for mark in marks:
            for px, py in _along(mark):
                if left <= px < right and top <= py < bottom:
                    fixed[pieces.at(px - left, py - top)] = 1.0 if mark.inside else -1.0
        value = 1.0 if inside else -1.0
        # People click in the middle of what is wrong: so is what lies near.
        for piece in pieces.near(x - left, y - top, SURE_SHARE * distance):
            fixed.setdefault(piece, value)
        fixed[pieces.at(x - left, y - top)] = value
        reach = distance * pieces.scale / pieces.side
        now = pieces.image(pieces.spread(prior_N, REACH / reach**2, fixed), window, room) > 0
        left, top, right, bottom = room
        part = mask[top:bottom, left:right]
        changed = (now & ~part) if inside else (part & ~now)
        if not changed[y - top, x - left]:  # a mark smaller than a piece: at least the mark is heeded
            spot = draw_path(((x + 0.5, y + 0.5),), max(3.0, distance), room) > 0
            changed = spot & (part != inside)
        rows, columns = (
            np.float32(np.arange(top, bottom)[:, None] - y),
            np.float32(np.arange(left, right) - x),
        )
        changed &= rows**2 + columns**2 <= (ROUND * distance) ** 2
        here = _together(changed, x - left, y - top)
        out = mask.copy()
        out[top:bottom, left:right] = (part | here) if inside else (part & ~here)
        return out

    def _pieces(self, view: View, known: _Known, room: Box) -> tuple[Box, Pieces]:
        """A window around `room` that is not much larger, and its pieces."""
        area = (room[2] - room[0]) * (room[3] - room[1])
        with known.cutting:
            for window, pieces in known.pieces.items():
                whole = intersect(window, room) == room
                if whole and (window[2] - window[0]) * (window[3] - window[1]) < 6 * area:
                    return window, pieces
            border = max(96, int(0.35 * max(room[2] - room[0], room[3] - room[1])))
            z = level(max(room[2] - room[0], room[3] - room[1]) + 2 * border, 512)
            left, top, right, bottom = grown(room, border, view.size)
            left, top = left >> z << z, top >> z << z
            small = (left >> z, top >> z, -(-right >> z), -(-bottom >> z))
            window = (left, top, min(small[2] << z, view.size[0]), min(small[3] << z, view.size[1]))
            pieces = known.pieces[window] = cut_pieces(view.rgb(z, small))
            # Places are asked for in pixels of the canvas.
            pieces = known.pieces[window] = _at_full_size(pieces, z)
            while len(known.pieces) > KEPT:
                known.pieces.popitem(last=False)
            return window, pieces


def _together(changed: np.ndarray, x: int, y: int) -> np.ndarray:
    """The part that hangs together with (x, y), which is in it."""
    step = 1 + max(changed.shape) // 1024  # what hangs together is seen at that size too
    cv2, small = opencv(), np.ascontiguousarray(changed[y % step :: step, x % step :: step]).astype(np.uint8)
    _, parts = cv2.connectedComponents(small)
    mine = (parts == parts[y // step, x // step]).astype(np.uint8)
    if step == 1:
        return mine.astype(bool) & changed
    mine = cv2.dilate(mine, np.ones((3, 3), np.uint8))
    large = cv2.resize(mine, None, fx=step, fy=step, interpolation=cv2.INTER_NEAREST)
    out = np.zeros_like(changed)
    height, width = changed.shape
    left, top = x % step, y % step
    out[top:, left:] = large[: height - top, : width - left] > 0
    return out & changed


def _at_full_size(pieces: Pieces, z: int) -> Pieces:
    return Pieces(
        pieces.labels, pieces.scale / 2**z, pieces.size_N, pieces.pairs_2E, pieces.likeness_E, pieces.side
    )


def _contradicted(mark: Mark, mask: np.ndarray) -> tuple[int, int, float] | None:
    """The point of a mark that lies deepest in what it says is wrong, and how deep in pixels; None: nothing is."""
    height, width = mask.shape
    points = [(int(x), int(y)) for x, y in _along(mark) if 0 <= x < width and 0 <= y < height]
    wrong = [(x, y) for x, y in points if bool(mask[y, x]) != mark.inside]
    if not wrong:
        return None
    box = nonzero_box(mask)
    near = (0, 0, width, height) if box is None else _with_points(box, wrong, (width, height))
    left, top, right, bottom = near
    shrink = max(1, max(right - left, bottom - top) // 1024)  # a distance needs no more pixels than that
    part = np.pad(mask[top:bottom:shrink, left:right:shrink] != mark.inside, 1)
    cv2 = opencv()
    away = cv2.distanceTransform(part.view(np.uint8), cv2.DIST_L2, 3)
    depth = [float(away[(y - top) // shrink + 1, (x - left) // shrink + 1]) * shrink for x, y in wrong]
    deepest = int(np.argmax(depth))
    return (*wrong[deepest], max(depth[deepest], 1.0))


def _with_points(box: Box, points: list[tuple[int, int]], size: tuple[int, int]) -> Box:
    xs, ys = [x for x, _ in points], [y for _, y in points]
    whole = (min(box[0], *xs), min(box[1], *ys), max(box[2], max(xs) + 1), max(box[3], max(ys) + 1))
    return grown(whole, 1, size)


def _along(mark: Mark) -> list[tuple[float, float]]:
    """Points of a mark, a few pixels apart."""
    points: list[tuple[float, float]] = [mark.path[0]]
    for (x0, y0), (x1, y1) in zip(mark.path, mark.path[1:], strict=False):
        steps = max(1, int(max(abs(x1 - x0), abs(y1 - y0)) / 4))
        points += [(x0 + (x1 - x0) * i / steps, y0 + (y1 - y0) * i / steps) for i in range(1, steps + 1)]
    return points


def _middle(mark: Mark) -> tuple[float, float]:
    return mark.path[len(mark.path) // 2]


def _oval(box: Box) -> Guess:
    """Where nothing stands out in a box: what fills most of it."""
    height, width = box[3] - box[1], box[2] - box[0]
    y, x = np.mgrid[:height, :width]
    inside = ((x + 0.5) / width * 2 - 1) ** 2 + ((y + 0.5) / height * 2 - 1) ** 2 < 1
    return Guess("object", box, inside.astype(np.float32))


def _whole(guess: Guess, size: tuple[int, int]) -> np.ndarray:
    """bool[H, W] of the canvas."""
    out = np.zeros(size[::-1], bool)
    left, top, right, bottom = guess.box
    out[top:bottom, left:right] = guess.inside()
    return out


def _found(name: str, mask: np.ndarray) -> Found:
    box = nonzero_box(mask)
    if box is None:
        return Found(name, (0, 0), np.zeros((1, 1), np.uint8), 0.0)
    left, top, right, bottom = box
    cut: Pixels = np.uint8(255) * mask[top:bottom, left:right]
    return Found(name, (left, top), cut)
