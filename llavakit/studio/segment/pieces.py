"""A part of a picture in pieces of about one colour (SLIC), and numbers that spread between alike neighbours.

Spreading is the random walker (Grady 2006) with a prior (Grady 2005): every piece is pulled to what was thought of
it before, neighbours that look alike are pulled to each other, and marked pieces are fixed.
"""

from dataclasses import dataclass

import numpy as np

from llavakit.studio.tiles import Box, Pixels
from llavakit.tools.opencv import opencv, superpixels

SIDE = 512  # pixels of the longer side of what is cut into pieces
PIECE = 10  # pixels of the side of one
LIKENESS = 1.0  # how fast differences part neighbours
LEAK = 1e-4  # of likeness between any neighbours: no piece is alone
STEPS, CLOSE = 200, 1e-8  # of the conjugate gradients


@dataclass(frozen=True)
class Pieces:
    """N pieces and their E borders; `size_N` and lengths relative to the mean piece."""

    labels: np.ndarray  # int32[h, w]
    scale: float  # pixels of `labels` in one pixel of the part
    size_N: np.ndarray
    pairs_2E: np.ndarray
    likeness_E: np.ndarray
    side: float  # pixels of `labels` in the side of a mean piece

    def at(self, x: float, y: float) -> int:
        """The piece at a pixel of the part."""
        height, width = self.labels.shape
        column, row = (
            min(max(int(x * self.scale), 0), width - 1),
            min(max(int(y * self.scale), 0), height - 1),
        )
        return int(self.labels[row, column])

    def near(self, x: float, y: float, distance: float) -> list[int]:
        """The pieces that lie whole within a distance of a pixel of the part, both in its pixels."""
        if distance * self.scale < self.side:
            return []
        height, width = self.labels.shape
        rows = np.arange(height, dtype=np.float32)[:, None] - y * self.scale
        columns = np.arange(width, dtype=np.float32) - x * self.scale
        far_HW = rows**2 + columns**2 > (distance * self.scale) ** 2
        touched_N = np.bincount(self.labels.ravel(), far_HW.ravel(), len(self.size_N))
        return [int(piece) for piece in np.flatnonzero(touched_N == 0)]

    def means(self, inside_HW: np.ndarray) -> np.ndarray:
        """float[N]: how much of each piece is inside, for bool[H, W] of the part's size."""
        cv2 = opencv()
        size = self.labels.shape[::-1]
        small = cv2.resize(np.uint8(255) * inside_HW, size, interpolation=cv2.INTER_AREA)
        count = len(self.size_N)
        return np.bincount(self.labels.ravel(), small.ravel(), count) / (
            255 * np.bincount(self.labels.ravel(), minlength=count)
        )

    def image(self, values_N: np.ndarray, window: Box, room: Box) -> np.ndarray:
        """float32[h, w]: a value for each pixel of `room`, a part of the `window` that these are the pieces of."""
        cv2 = opencv()
        size = (room[2] - room[0], room[3] - room[1])
        across, down = (
            self.labels.shape[1] / (window[2] - window[0]),
            self.labels.shape[0] / (window[3] - window[1]),
        )
        # Middles of pixels lie on middles of pixels: where a pixel of the room lies in `labels`.
        back = np.array([
            [across, 0, (room[0] - window[0] + 0.5) * across - 0.5],
            [0, down, (room[1] - window[1] + 0.5) * down - 0.5],
        ])  # fmt: skip
        small = values_N[self.labels].astype(np.float32)
        how = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        found: np.ndarray = cv2.warpAffine(small, back, size, flags=how, borderMode=cv2.BORDER_REPLICATE)
        return found

    def spread(self, prior_N: np.ndarray, pull: float, fixed: dict[int, float]) -> np.ndarray:
        """float[N]: `prior_N` after spreading. `pull`: how strongly pieces stay what they were."""
        count = len(prior_N)
        first, second = self.pairs_2E
        weight, stay_N = self.likeness_E, pull * self.size_N
        degree_N = np.bincount(first, weight, count) + np.bincount(second, weight, count) + stay_N
        free_N = np.ones(count, bool)
        known_N = np.zeros(count)
        for piece, value in fixed.items():
            free_N[piece], known_N[piece] = False, value

        def pulled(x_N: np.ndarray) -> np.ndarray:
            there = np.bincount(first, weight * x_N[second], count)
            return degree_N * x_N - there - np.bincount(second, weight * x_N[first], count)

        x_N = np.where(free_N, prior_N, 0.0)
        rest_N = (stay_N * prior_N - pulled(known_N) - pulled(x_N)) * free_N
        step_N = ahead_N = rest_N / degree_N
        error = float(rest_N @ step_N)
        for _ in range(STEPS):
            if error < CLOSE:
                break
            moved_N = pulled(ahead_N) * free_N
            share = error / float(ahead_N @ moved_N)
            x_N, rest_N = x_N + share * ahead_N, rest_N - share * moved_N
            step_N = rest_N / degree_N
            error, before = float(rest_N @ step_N), error
            ahead_N = step_N + error / before * ahead_N
        return x_N + known_N


def cut_pieces(rgb: Pixels) -> Pieces:
    """The pieces of a part of a picture."""
    cv2 = opencv()
    scale = min(1.0, SIDE / max(rgb.shape[:2]))
    size = max(2, round(rgb.shape[1] * scale)), max(2, round(rgb.shape[0] * scale))
    small = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)
    lab = cv2.cvtColor(small.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    calm = cv2.cvtColor(cv2.GaussianBlur(small, (0, 0), 0.7), cv2.COLOR_RGB2LAB)
    labels, count = superpixels(calm, PIECE, adapts=False)
    pixels_N = np.bincount(labels.ravel(), minlength=count)
    colour_NC = np.stack(
        [np.bincount(labels.ravel(), lab[..., c].ravel(), count) / pixels_N for c in range(3)], axis=1
    )
    pairs_2E, length_E, edge_E = _borders(labels, count, _edges(lab))
    apart_E = np.linalg.norm(colour_NC[pairs_2E[0]] - colour_NC[pairs_2E[1]], axis=1)
    unlike_E = (apart_E / (_middle(apart_E)) + edge_E / (_middle(edge_E))) / 2
    side = float(np.sqrt(pixels_N.mean()))
    likeness_E = np.exp(-LIKENESS * unlike_E**2) * length_E / side + LEAK
    return Pieces(labels, scale, pixels_N / pixels_N.mean(), pairs_2E, likeness_E, side)


def _middle(values: np.ndarray) -> float:
    return float(np.median(values)) + 1e-6 if len(values) else 1.0


def _edges(lab: np.ndarray) -> np.ndarray:
    """float32[h, w]: how fast colours change, at two scales."""
    cv2 = opencv()
    found = np.zeros(lab.shape[:2], np.float32)
    for sigma in (1.0, 2.0):
        calm = cv2.GaussianBlur(lab, (0, 0), sigma)
        across, down = cv2.Sobel(calm, cv2.CV_32F, 1, 0) / 8, cv2.Sobel(calm, cv2.CV_32F, 0, 1) / 8
        found = np.maximum(found, np.sqrt((across**2 + down**2).sum(axis=-1)) * sigma)
    return found


def _borders(labels: np.ndarray, count: int, edges: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(pairs of pieces that touch, the length of each border in pixels, the mean strength of edges on it)."""
    keys, strengths = [], []
    for here, there in (
        ((slice(None), slice(1, None)), (slice(None), slice(-1))),
        ((slice(1, None),), (slice(-1),)),
    ):
        a, b = labels[here], labels[there]
        differ = a != b
        low, high = np.minimum(a[differ], b[differ]), np.maximum(a[differ], b[differ])
        keys.append(low.astype(np.int64) * count + high)
        strengths.append(np.maximum(edges[here][differ], edges[there][differ]))
    pairs, which, lengths = np.unique(np.concatenate(keys), return_inverse=True, return_counts=True)
    strength = np.bincount(which, np.concatenate(strengths), len(pairs)) / lengths
    return np.stack((pairs // count, pairs % count)), lengths, strength
