"""Filling with texture: every patch over the hole is like one beside it (Wexler 2007, PatchMatch of Barnes 2009).

From coarse to fine: patches of the hole look for their nearest ones outside, by what their neighbours found and by
chance; then each pixel becomes the mean of what the patches over it say. Whole arrays at once instead of a scan, so
it needs no compiler.
"""

from itertools import product

import numpy as np

from llavakit.tools.flow import Flow
from llavakit.tools.opencv import opencv

RADIUS = 3  # of a patch, in pixels
SMALLEST = 48  # pixels of the shorter side of the coarsest version
WIDTH = 8  # of the hole in it
FULL_ROUNDS = 8  # at the coarsest version; each finer one needs fewer
SHARPNESS = 3.0  # how much better patches count
LARGEST = (
    50_000  # pixels of a hole that patches are searched for; larger ones are filled smaller, then made sharp
)
PARTS = slice(2, 5), slice(0, 2), slice(5, 7)  # rows of a patch in the order in which they are compared
STEPS = ((0, 1), (0, -1), (1, 0), (-1, 0))


class PatchMatch:
    """Fills for good. The same picture, hole and seed give the same pixels."""

    def fill(self, rgb: np.ndarray, hole: np.ndarray, prompt: str = "", seed: int = 0) -> np.ndarray:
        """uint8[h, w, 3]. The prompt must be empty: nothing is invented here."""
        factor = int(np.ceil(np.sqrt(hole.sum() / LARGEST)))
        if factor <= 1:
            return _complete(rgb, hole, prompt, seed)[0]
        cv2 = opencv()
        size = -(-hole.shape[1] // factor), -(-hole.shape[0] // factor)
        small = _shrunk(rgb.astype(np.float32), hole, size)
        done, found = _complete(np.rint(small.image).astype(np.uint8), small.hole, prompt, seed)
        smooth = cv2.resize(done, hole.shape[::-1], interpolation=cv2.INTER_LINEAR)
        return _with_detail(rgb, hole, smooth, found)


def _with_detail(
    rgb: np.ndarray, hole: np.ndarray, smooth: np.ndarray, found: np.ndarray | None
) -> np.ndarray:
    """A hole filled at a smaller size: what its sources have beside their smooth version is added.

    `found` is the map of the smaller search: the source (row, column) of every pixel of the hole.
    """
    out = np.where(hole[..., None], smooth, rgb)
    if found is None:
        return out
    cv2 = opencv()
    height, width = hole.shape
    scale_y, scale_x = height / found.shape[0], width / found.shape[1]
    y, x = np.nonzero(hole)
    small_y, small_x = (y / scale_y).astype(np.int64), (x / scale_x).astype(np.int64)
    source_y = (y + np.rint((found[small_y, small_x, 0] - small_y) * scale_y)).astype(np.int64)
    source_x = (x + np.rint((found[small_y, small_x, 1] - small_x) * scale_x)).astype(np.int64)
    known = (found[small_y, small_x, 0] >= 0) & (source_y >= 0) & (source_y < height)
    known &= (source_x >= 0) & (source_x < width)
    y, x, source_y, source_x = y[known], x[known], source_y[known], source_x[known]
    outside = ~hole[source_y, source_x]
    y, x, source_y, source_x = y[outside], x[outside], source_y[outside], source_x[outside]
    calm = cv2.resize(rgb, found.shape[1::-1], interpolation=cv2.INTER_AREA)
    calm = cv2.resize(calm, (width, height), interpolation=cv2.INTER_LINEAR)
    detail = rgb[source_y, source_x].astype(np.int16) - calm[source_y, source_x]
    out[y, x] = np.clip(smooth[y, x] + detail, 0, 255)
    return out


def _complete(
    rgb: np.ndarray, hole: np.ndarray, prompt: str, seed: int
) -> tuple[np.ndarray, np.ndarray | None]:
    """The filled picture, and the source of every pixel of the hole; None where nothing could be searched."""
    filled = Flow().fill(rgb, hole, prompt)
    levels = [_Level(rgb.astype(np.float32), hole)]
    while min(levels[-1].hole.shape) > 2 * SMALLEST and _width(levels[-1].hole) > 2 * WIDTH:
        levels.append(_halved(levels[-1]))
    if not levels[0].sources.any():
        return filled, None  # no whole patch is left outside: smooth is all there can be
    levels = [level for level in levels if level.sources.any()]
    cv2, random = opencv(), np.random.default_rng(seed)
    size = levels[-1].hole.shape[::-1]
    image = cv2.resize(filled, size, interpolation=cv2.INTER_AREA).astype(np.float32)
    found: np.ndarray | None = None
    for depth, level in zip(range(len(levels) - 1, -1, -1), reversed(levels), strict=True):
        image = np.where(level.hole[..., None], image, level.image)
        search = _Search(level, image, found, random)
        rounds = max(2 if depth else 1, FULL_ROUNDS - 3 * (len(levels) - 1 - depth))
        for number in range(rounds):
            search.look(random, far=number < rounds - 1 or depth > 0)
            search.vote()
        image, found = search.image, search.map()
        if depth:
            image = cv2.resize(image, levels[depth - 1].hole.shape[::-1], interpolation=cv2.INTER_LINEAR)
    return np.where(hole[..., None], np.clip(np.rint(image), 0, 255).astype(np.uint8), rgb), found


class _Level:
    """One version of the picture: float32[h, w, 3], its hole, and where whole patches lie outside of it."""

    def __init__(self, image: np.ndarray, hole: np.ndarray) -> None:
        self.image, self.hole = image, hole
        cv2 = opencv()
        kernel = np.ones((2 * RADIUS + 1, 2 * RADIUS + 1), np.uint8)
        near = cv2.dilate(hole.astype(np.uint8), kernel).astype(bool)
        inner = np.zeros(hole.shape, bool)
        inner[RADIUS : hole.shape[0] - RADIUS, RADIUS : hole.shape[1] - RADIUS] = True
        self.sources, self.targets = inner & ~near, inner & near


class _Search:
    """The nearest source of every target patch of a level, as flat places in the picture."""

    def __init__(
        self, level: _Level, image: np.ndarray, found: np.ndarray | None, random: np.random.Generator
    ) -> None:
        self.level, self.image = level, np.ascontiguousarray(image, np.float32)
        self.height, self.width = level.hole.shape
        self.targets = np.flatnonzero(level.targets)
        self.all_sources = np.flatnonzero(level.sources)
        self.is_source = level.sources.ravel()
        self.row = np.full(self.height * self.width, -1, np.int64)  # of a place in `targets`
        self.row[self.targets] = np.arange(len(self.targets))
        self.corner = RADIUS * self.width + RADIUS  # from the middle of a patch back to its first pixel
        side, strides = 2 * RADIUS + 1, self.image.strides
        self.every = np.lib.stride_tricks.as_strided(  # the patch at each place, as rows of whole pixels
            self.image, (self.height * self.width - 2 * self.corner, side, 3 * side),
            (strides[1], strides[0], strides[2]), writeable=False,
        )  # fmt: skip
        self.nearest = self._start(found, random)
        self._patches()

    def _start(self, found: np.ndarray | None, random: np.random.Generator) -> np.ndarray:
        chance = self.all_sources[random.integers(0, len(self.all_sources), len(self.targets))]
        if found is None:
            return chance
        y, x = self.targets // self.width, self.targets % self.width
        coarse_y, coarse_x = np.minimum(y // 2, found.shape[0] - 1), np.minimum(x // 2, found.shape[1] - 1)
        sy, sx = found[coarse_y, coarse_x, 0] * 2 + y % 2, found[coarse_y, coarse_x, 1] * 2 + x % 2
        known = (sy >= 0) & (sy < self.height) & (sx >= 0) & (sx < self.width)
        place = np.where(known, sy * self.width + sx, 0)
        return np.where(known & self.is_source[place], place, chance)

    def look(self, random: np.random.Generator, *, far: bool) -> None:
        """One round: what the neighbours found, moved along; then places at random, nearer and nearer."""
        for dy, dx in STEPS:
            step = dy * self.width + dx
            neighbour = self.row[self.targets + step]
            self._try(np.where(neighbour >= 0, self.nearest[neighbour] - step, 0))
        reach = max(self.height, self.width) if far else 4
        while reach >= 1:
            y, x = self.nearest // self.width, self.nearest % self.width
            y = y + random.integers(-reach, reach + 1, len(y))
            x = x + random.integers(-reach, reach + 1, len(x))
            inside = (y >= 0) & (y < self.height) & (x >= 0) & (x < self.width)
            self._try(np.where(inside, y * self.width + x, 0))
            reach //= 4

    def vote(self) -> None:
        """Each pixel of the hole becomes the mean of what patches over it say, the better ones counting more."""
        scale = float(np.percentile(self.cost, 75)) + 1e-3
        weight_T1 = np.exp(-SHARPNESS * self.cost / scale)[:, None]
        said_T7C = self._around(self.nearest)
        total = np.full((self.height * self.width, 1), 1e-12, np.float32)
        colour = np.zeros((self.height * self.width, 3), np.float32)
        first = self.targets - self.corner
        for row, column in product(range(2 * RADIUS + 1), repeat=2):
            pixels = first + (row * self.width + column)  # no two targets have the same pixel there
            total[pixels] += weight_T1
            colour[pixels] += weight_T1 * said_T7C[:, row, 3 * column : 3 * column + 3]
        holes = np.flatnonzero(self.level.hole)
        holes = holes[total[holes, 0] > 1e-9]
        self.image.reshape(-1, 3)[holes] = colour[holes] / total[holes]
        self._patches()

    def map(self) -> np.ndarray:
        """int[h, w, 2]: the source (row, column) of every target; -9 elsewhere."""
        out = np.full((self.height * self.width, 2), -9, np.int64)
        out[self.targets, 0], out[self.targets, 1] = self.nearest // self.width, self.nearest % self.width
        return out.reshape(self.height, self.width, 2)

    def _patches(self) -> None:
        self.patches_T7C = self._around(self.targets)
        self.cost = _apart(self._around(self.nearest), self.patches_T7C)

    def _around(self, places: np.ndarray, rows: slice = slice(None)) -> np.ndarray:
        """float32[n, 7 or fewer, 21]: rows of the patches there, each in one piece."""
        found: np.ndarray = self.every[:, rows][places - self.corner]
        return found

    def _try(self, places: np.ndarray) -> None:
        """Take the places that are nearer; most are not, and the middle of their patches tells that already."""
        rows = np.flatnonzero(self.is_source[places] & (places != self.nearest))
        cost = np.zeros(len(rows), np.float32)
        for part in PARTS:
            cost += _apart(self._around(places[rows], part), self.patches_T7C[:, part][rows])
            near = cost < self.cost[rows]
            rows, cost = rows[near], cost[near]
        self.nearest[rows], self.cost[rows] = places[rows], cost


def _apart(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """float32[n]: the sums of squares between patches."""
    apart = one - other
    return np.einsum("nyx,nyx->n", apart, apart)


def _halved(level: _Level) -> _Level:
    return _shrunk(level.image, level.hole, (level.hole.shape[1] // 2, level.hole.shape[0] // 2))


def _shrunk(image: np.ndarray, hole: np.ndarray, size: tuple[int, int]) -> _Level:
    """Smaller; a pixel that is partly hole is hole, and what is known of it is the mean of its known ones."""
    cv2 = opencv()
    known = (~hole).astype(np.float32)
    weight = cv2.resize(known, size, interpolation=cv2.INTER_AREA)
    image = cv2.resize(image * known[..., None], size, interpolation=cv2.INTER_AREA)
    return _Level(image / np.maximum(weight, 1e-6)[..., None], weight < 0.999)


def _width(hole: np.ndarray) -> float:
    """The diameter of the largest circle inside."""
    cv2 = opencv()
    return 2 * float(cv2.distanceTransform(np.pad(hole, 1).astype(np.uint8), cv2.DIST_L2, 3).max())
