"""Cutting a thing out: its edge is soft where the picture's is, and has nothing of the old background in it."""

import numpy as np

from llavakit.studio.cutting import cut_out, soften

OLD, THING, NEW = (250, 250, 250), (40, 90, 20), (10, 10, 60)


def coverage(side=120, radius=35.3):
    """float[h, w]: how much of each pixel a disc covers."""
    fine = 8
    y, x = (np.mgrid[: side * fine, : side * fine] + 0.5) / fine
    inside = (x - side / 2) ** 2 + (y - side / 2) ** 2 < radius**2
    return inside.reshape(side, fine, side, fine).mean(axis=(1, 3))


def laid(alpha, over):
    pixels = alpha[..., None] * np.array(THING) + (1 - alpha[..., None]) * np.array(over)
    return np.dstack((np.rint(pixels), np.full(alpha.shape, 255))).astype(np.uint8)


def test_a_thing_laid_on_another_ground_has_no_halo():
    alpha = coverage()
    picture, ground = laid(alpha, OLD), laid(alpha * 0, OLD)
    cut = cut_out(picture, np.uint8(255) * (alpha > 0.5), ground)
    left, top = cut.at
    share = cut.rgba[..., 3:] / 255
    on_new = cut.rgba[..., :3] * share + (1 - share) * np.array(NEW)
    wanted = laid(alpha, NEW)[top : top + share.shape[0], left : left + share.shape[1], :3]
    edge = (alpha > 0.02) & (alpha < 0.98)
    here = edge[top : top + share.shape[0], left : left + share.shape[1]]
    hard = np.where((alpha > 0.5)[..., None], picture[..., :3], np.array(NEW))
    error = np.abs(on_new - wanted)[here].mean()
    error_of_a_hard_cut = np.abs(hard - laid(alpha, NEW)[..., :3])[edge].mean()
    assert error < 12 < error_of_a_hard_cut
    assert (
        np.abs(cut.rgba[share[..., 0] > 0.3][:, :3].astype(int) - THING).max() < 45
    )  # the old ground is 210 away


def test_a_thing_laid_back_where_it_was_looks_as_before():
    alpha = coverage()
    picture, ground = laid(alpha, OLD), laid(alpha * 0, OLD)
    cut = cut_out(picture, np.uint8(255) * (alpha > 0.5), ground)
    left, top = cut.at
    share = cut.rgba[..., 3:] / 255
    again = ground[..., :3].astype(float)
    part = again[top : top + share.shape[0], left : left + share.shape[1]]
    part[:] = cut.rgba[..., :3] * share + (1 - share) * part
    assert np.abs(again - picture[..., :3]).mean() < 1.5


def test_an_edge_that_somebody_made_soft_stays_as_it_is():
    y, x = np.mgrid[:80, :80]
    soft = np.clip(255 - np.hypot(x - 40, y - 40) * 6, 0, 255).astype(np.uint8)
    assert np.array_equal(np.rint(soften(laid(soft / 255.0, OLD)[..., :3], soft) * 255), soft)
