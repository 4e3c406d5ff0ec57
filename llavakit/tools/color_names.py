"""Names of colours, and the one that a pixel has: the eleven basic colour words of English, each with examples.

Near and far are distances in CIE L*a*b*, which are about those that people see.
"""

import numpy as np

# Several examples of a word, as people use it for more than one point: dark red is red.
COLORS: dict[str, tuple[tuple[int, int, int], ...]] = {
    "black": ((0, 0, 0), (30, 30, 30)),
    "gray": ((128, 128, 128), (85, 85, 85), (170, 170, 170)),
    "white": ((255, 255, 255), (232, 232, 232)),
    "red": ((255, 0, 0), (200, 20, 30), (140, 0, 0), (230, 60, 60)),
    "orange": ((255, 140, 0), (255, 165, 0), (240, 110, 20)),
    "yellow": ((255, 255, 0), (250, 230, 60), (230, 200, 20)),
    "green": ((0, 128, 0), (0, 255, 0), (40, 90, 30), (100, 200, 90), (150, 230, 140)),
    "blue": ((0, 0, 255), (30, 80, 200), (0, 0, 128), (80, 150, 230), (0, 200, 255), (150, 200, 250)),
    "purple": ((128, 0, 128), (90, 40, 150), (160, 80, 200), (190, 140, 230)),
    "pink": ((255, 192, 203), (255, 105, 180), (255, 20, 147), (240, 150, 180), (255, 0, 255)),
    "brown": ((139, 69, 19), (101, 67, 33), (160, 110, 70), (80, 45, 20)),
}


def nearest_colors(pixels_N3: np.ndarray) -> np.ndarray:
    """int[N]: which of `COLORS` each pixel (uint8 RGB) is, by its place in the table."""
    examples = np.array([one for name in COLORS for one in COLORS[name]], np.uint8)
    owners = np.array([index for index, name in enumerate(COLORS) for _ in COLORS[name]])
    # 32 steps a channel are enough, and then there are at most 32,768 colours to look at.
    steps_N = (pixels_N3 >> 3).astype(np.int32) @ np.array([1024, 32, 1])
    kinds, where_N = np.unique(steps_N, return_inverse=True)
    middle_K3 = np.stack([kinds // 1024, kinds // 32 % 32, kinds % 32], axis=1) * 255 / 31
    distance_KE = ((_lab(middle_K3)[:, None] - _lab(examples)[None]) ** 2).sum(axis=2)
    found: np.ndarray = owners[distance_KE.argmin(axis=1)][where_N]
    return found


def _lab(colors_K3: np.ndarray) -> np.ndarray:
    """sRGB (0 to 255) to CIE L*a*b* under D65."""
    part = colors_K3 / 255
    linear = np.where(part <= 0.04045, part / 12.92, ((part + 0.055) / 1.055) ** 2.4)
    matrix = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = linear @ matrix.T / np.array([0.9505, 1.0, 1.089])
    root = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    x, y, z = root[:, 0], root[:, 1], root[:, 2]
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=1)
