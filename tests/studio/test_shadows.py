"""The shadow of a thing is taken away with it, where that is asked for."""

import numpy as np

from llavakit.studio.document import Document
from llavakit.studio.shadows import shadow_of
from tests.studio.pictures import bench, png


def ball_on_a_table(shadow):
    """uint8[h, w, 3], the ball and its shadow as bool[h, w]."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:200, :240]
    ground = np.full((200, 240, 3), (190, 150, 110)) + rng.integers(-5, 6, (200, 240, 3))
    dark = ((x - 135) / 50) ** 2 + ((y - 132) / 14) ** 2 < 1
    ball = (x - 110) ** 2 + (y - 100) ** 2 < 32**2
    if shadow:
        ground[dark] = ground[dark] * 0.6
    ground[ball] = (30, 60, 200)
    return np.clip(ground, 0, 255).astype(np.uint8), ball, dark & ~ball


def test_the_shadow_is_found_and_nothing_else():
    rgb, ball, dark = ball_on_a_table(shadow=True)
    found = shadow_of(rgb, ball)
    assert (found & dark).sum() > 0.95 * dark.sum() and (found & ~dark).sum() < 0.6 * dark.sum()
    rgb, ball, _ = ball_on_a_table(shadow=False)
    assert not shadow_of(rgb, ball).any()


def test_a_removal_takes_the_shadow_along_where_it_is_asked_to():
    rgb, _, dark = ball_on_a_table(shadow=True)
    for shadow in (False, True):
        document = Document.open(png(rgb), bench=bench()).do("paint", path=[[110, 100]], width=66)
        document.do("remove", fill="preview", shadow=shadow)
        left = np.asarray(document.picture().convert("L"))[dark].mean()
        assert (left > 140) == shadow
        document.undo()
        assert np.array_equal(np.asarray(document.picture())[..., :3], rgb)
