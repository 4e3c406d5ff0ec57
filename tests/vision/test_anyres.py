"""AnyRes against the published vectors, against the plainest possible choice of a layout, and against the clock."""

import random
import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

import llavakit
from llavakit.core.errors import ConfigError, DataError
from llavakit.model.families import family
from llavakit.vision.anyres import (
    AnyresConfig,
    best_pinpoint,
    hd_grids,
    read_pinpoints,
    tile_grids,
    transpose,
    unpad,
)
from llavakit.vision.drawing import image_box
from llavakit.vision.layout import Place, Resize
from llavakit.vision.plan import ImageConfig, plan_image

NEXT = family("llava16-7b")
ONEVISION = family("llava-onevision-7b-ov")
ABLATION = family("llava-next-ablation-max4")
SIX = tile_grids((1, 1), (6, 6), 384)
EVERY_FOURTH = range(16, 2001, 4)  # 497: the sweep that compared the two rules


def canvas(plan):
    return image_box(plan.views[-1], (1, 1))[0]


# image -> canvas, kept map (columns, rows), tokens
CLIP_TABLE = [
    ((336, 336), (336, 672), (24, 24), 1176),
    ((640, 480), (672, 672), (48, 36), 2340),
    ((480, 640), (672, 672), (36, 48), 2352),
    ((1024, 1024), (672, 672), (48, 48), 2928),
    ((1344, 336), (1008, 336), (72, 18), 1890),
    ((2000, 300), (1008, 336), (72, 10), 1306),
    ((300, 2000), (336, 1008), (10, 72), 1368),
]
MAX_9_TABLE = [
    ((336, 336), (384, 384), (27, 27), 1485),
    ((384, 384), (384, 384), (27, 27), 1485),
    ((640, 480), (768, 768), (54, 40), 2929),
    ((480, 640), (768, 768), (40, 54), 2943),
    ((1024, 899), (1152, 1152), (81, 71), 6551),
    ((1280, 720), (1536, 768), (96, 54), 5967),
    ((1024, 1024), (1152, 1152), (81, 81), 7371),
    ((1536, 1536), (1536, 1536), (81, 81), 7371),
    ((1920, 1080), (1920, 1152), (108, 60), 7269),
    ((4000, 3000), (2304, 1920), (93, 70), 7309),
    ((2304, 768), (2304, 768), (140, 46), 7215),
    ((2304, 2304), (2304, 2304), (81, 81), 7371),
    ((4608, 4608), (2304, 2304), (81, 81), 7371),
    ((100, 1000), (384, 1152), (9, 81), 1539),
    ((954, 1162), (1152, 1152), (81, 98), 8765),
]


@pytest.mark.parametrize(("size", "layout", "grid", "tokens"), CLIP_TABLE)
def test_the_vectors_of_llava_next(size, layout, grid, tokens):
    plan = llavakit.plan("llava16-7b", *size)
    assert (canvas(plan), plan.grid, plan.num_tokens) == (layout, grid, tokens)
    assert plan.tiles == 1 + layout[0] * layout[1] // 336**2


@pytest.mark.parametrize(("size", "layout", "grid", "tokens"), MAX_9_TABLE)
def test_the_vectors_of_onevision(size, layout, grid, tokens):
    plan = llavakit.plan("llava-onevision-7b-ov", *size)
    if size == (954, 1162):
        layout = canvas(plan)  # the published row names the map only
    assert (canvas(plan), plan.grid, plan.num_tokens) == (layout, grid, tokens)


def test_the_vector_of_a_smaller_budget():
    plan = llavakit.plan("llava-next-ablation-max4", 384, 2304)
    assert (plan.grid, plan.num_tokens) == ((22, 132), 3765)


@pytest.mark.slow
def test_no_image_of_onevision_has_more_tokens_than_the_known_worst():
    """The slack of 1.1 lets a map be 1.21 times its budget."""
    steps = range(200, 2701, 13)
    tokens = {(w, h): llavakit.plan("llava-onevision-7b-ov", w, h).num_tokens for w in steps for h in steps}
    worst = max(tokens, key=tokens.__getitem__)
    assert (worst, tokens[worst]) == ((954, 1162), 8765)


def test_the_two_rules_place_a_small_image_differently():
    for size, (ours, theirs) in {(336, 336): (1176, 1176), (300, 100): (776, 1360)}.items():
        mine, hf = NEXT.plan(size), NEXT.plan(size, rule="transformers")
        assert (mine.num_tokens, hf.num_tokens) == (ours, theirs)
        assert (canvas(mine), canvas(hf)) == ((336, 672), (672, 336))


def test_the_two_rules_round_a_map_differently():
    assert NEXT.plan((704, 396)).grid == (48, 26)
    assert NEXT.plan((704, 396), rule="transformers").grid == (48, 28)


@pytest.mark.slow
def test_the_two_rules_choose_differently_for_small_images_only():
    ours = NEXT.card.image.anyres
    theirs = transpose(ours, "transformers").pinpoints
    differ = {
        (w, h)
        for w in EVERY_FOURTH
        for h in EVERY_FOURTH
        if best_pinpoint(ours.pinpoints, (w, h)) != best_pinpoint(theirs, (w, h))
    }
    small = range(16, 337, 4)
    assert differ == {(w, h) for w in small for h in small}
    assert len(differ) == 6561


@pytest.mark.slow
def test_the_two_rules_round_eighteen_of_the_tested_sizes_differently():
    differ = set()
    for width in EVERY_FOURTH:
        for height in EVERY_FOURTH:
            columns, rows = (
                side // 14 for side in best_pinpoint(NEXT.card.image.anyres.pinpoints, (width, height))
            )
            maps = [unpad((width, height), (columns, rows), rule) for rule in ("llava", "transformers")]
            if maps[0] != maps[1]:
                differ.add((width, height))
    assert (704, 396) in differ
    assert len(differ) == 18


def test_the_two_rules_agree_on_onevision():
    """Its list has every layout both ways round, and rounding does not bite at these sizes."""
    steps = range(200, 1981, 20)
    assert all(
        ONEVISION.plan((w, h)).num_tokens == ONEVISION.plan((w, h), rule="transformers").num_tokens
        for w in steps
        for h in steps
    )


def released_choice(pinpoints, size):
    """select_best_resolution of the released code, in our words."""
    best, most, least = None, 0, float("inf")
    for width, height in pinpoints:
        scale = min(width / size[0], height / size[1])
        kept = min(int(size[0] * scale) * int(size[1] * scale), size[0] * size[1])
        waste = width * height - kept
        if kept > most or (kept == most and waste < least):
            best, most, least = (width, height), kept, waste
    return best


LISTS = [
    NEXT.card.image.anyres.pinpoints,
    SIX,
    hd_grids(224),
    ((768, 384), (384, 768), (384, 768), (768, 384)),
]


@settings(derandomize=True, max_examples=400, deadline=None)
@given(
    size=st.tuples(st.integers(1, 4000), st.integers(1, 4000)),
    pinpoints=st.sampled_from(LISTS)
    | st.lists(st.tuples(*[st.integers(1, 6).map(lambda n: 336 * n)] * 2), min_size=1, max_size=9).map(tuple),
)
@example(size=(384, 384), pinpoints=SIX)
@example(size=(1, 1), pinpoints=SIX)
def test_the_layout_is_the_plain_loops(size, pinpoints):
    expected = released_choice(pinpoints, size)
    if (
        expected is not None
    ):  # an image so thin that no pixel of it survives anywhere has no best layout there
        assert best_pinpoint(pinpoints, size) == expected


def test_a_hair_of_an_image_still_has_a_layout():
    assert best_pinpoint(SIX, (100_000, 1)) in SIX


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("(1x1),...,(6x6)", SIX),
        ("(1x1), ..., (2x3)", ((384, 384), (384, 768), (384, 1152), (768, 384), (768, 768), (768, 1152))),
        ([[384, 768], [768, 384]], ((384, 768), (768, 384))),
        ("[(384, 768), (768, 384)]", ((384, 768), (768, 384))),
    ],
)
def test_released_lists_of_layouts_are_read(text, expected):
    assert read_pinpoints(text, 384) == expected


def test_the_width_is_the_outer_loop():
    assert SIX[:3] == ((384, 384), (384, 768), (384, 1152))
    assert len(SIX) == 36


@pytest.mark.parametrize("text", ["", "six", [], None, "(1x1)"])
def test_a_list_that_is_none_is_refused(text):
    with pytest.raises(ConfigError, match="image_grid_pinpoints"):
        read_pinpoints(text, 384)


# LLaVA-1.5-HD


def test_hd_has_every_layout_of_at_most_six_tiles():
    layouts = {(w // 224, h // 224) for w, h in hd_grids(224)}
    every = {(a, b) for a in range(1, 7) for b in range(1, 7) if a * b <= 6}
    assert layouts == every
    assert len(hd_grids(224)) == len(every)


@pytest.mark.parametrize("size", [(224, 224), (200, 150), (1, 1)])
def test_hd_does_not_enlarge_a_small_image(size):
    plan = llavakit.plan("llava15-hd-13b", *size)
    assert canvas(plan) == (224, 224)
    assert plan.tiles == 2


def test_hd_pads_its_global_view():
    base = llavakit.plan("llava15-hd-13b", 448, 224).views[0]
    assert base.steps == (Place((448, 448), (0, 112), (122, 116, 104)), Resize((224, 224)))


@pytest.mark.parametrize(
    ("size", "layout", "tokens"),
    [
        ((224, 224), (224, 224), 256 + 16 * 17),
        ((672, 448), (672, 448), 256 + 32 * 49),
        ((1344, 224), (1344, 224), 256 + 16 * 97),
    ],
)
def test_hd_counts_the_map_its_row_ends_and_the_global_view(size, layout, tokens):
    plan = llavakit.plan("llava15-hd-13b", *size)
    assert (canvas(plan), plan.num_tokens) == (layout, tokens)


# Other rules


def test_the_blog_shares_its_budget_among_all_tiles():
    """L = (a b + 1) T; beyond the threshold every tile, the base too, gets threshold / (a b + 1) tokens."""
    plan = llavakit.plan("llava-next-ablation-max9-paper", 2304, 2304)
    assert plan.tiles == 37
    assert {grid.size for grid in plan.grids} == {(14, 14)}  # 7290 / 37 = 197.03, and 14 is its whole root
    assert plan.num_tokens == 37 * 196 <= 7290


def test_the_blog_leaves_a_short_image_alone():
    plan = llavakit.plan("llava-next-ablation-max9-paper", 1152, 1152)  # (9 + 1) x 729, exactly the threshold
    assert plan.num_tokens == 7290
    assert {grid.resample for grid in plan.grids} == {"none"}


def test_several_images_are_one_tile_each():
    assert ONEVISION.plan((1920, 1080), alone=False).num_tokens == 729 + 1
    assert NEXT.plan((1920, 1080), alone=False).num_tokens == 576 + 1
    assert family("llava-next-interleave-7b").plan((1920, 1080), alone=False).num_tokens == 729
    fill = ONEVISION.plan((1920, 1080), alone=False).views[0].steps[0].fill
    assert fill == (127, 127, 127)


def test_highres_is_a_padded_square_of_the_largest_side_behind_a_squashed_view():
    config = ImageConfig(
        kind="highres",
        size=336,
        grid=24,
        anyres=AnyresConfig(pinpoints=((336, 336), (672, 672)), merge="flat"),
    )
    plan = plan_image(config, (640, 480))
    assert plan.num_tokens == 5 * 576
    assert plan.views[0].steps == (Resize((336, 336)),)
    assert plan.views[1].steps == (Place((640, 640), (0, 80), (122, 116, 104)), Resize((672, 672)))
    assert plan.views[1].corners == ((0, 0), (336, 0), (0, 336), (336, 336))


def test_highres_drops_what_only_saw_padding_where_the_merge_does():
    config = ImageConfig(
        kind="highres", size=336, grid=24, anyres=AnyresConfig(pinpoints=((336, 336), (672, 672)))
    )
    plan = plan_image(config, (640, 480))
    assert (plan.grid, plan.num_tokens) == ((48, 36), 576 + 36 * 49)


@pytest.mark.parametrize(
    ("size", "tile", "grid"),
    [
        ((640, 480), (298, 224), (21, 16)),  # the short side is 224
        ((1000, 100), (440, 44), (31, 3)),  # the long side would be more than 448: 448 / 10 = 44.8
        ((224, 224), (224, 224), (16, 16)),
    ],
)
def test_keep_keeps_the_shape_and_its_two_bounds(size, tile, grid):
    plan = plan_image(ImageConfig(kind="keep", size=224, grid=16), size)
    assert (plan.tile, plan.grid, plan.num_tokens) == (tile, grid, grid[0] * grid[1])


def test_keep_refuses_what_has_no_patch():
    with pytest.raises(DataError, match="too long and thin"):
        plan_image(ImageConfig(kind="keep", size=224, grid=16), (4000, 10))


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"pinpoints": ()}, "at least one"),
        ({"pinpoints": SIX, "max_tiles": 9, "max_tokens": 729}, "exclude"),
        ({"pinpoints": SIX, "max_tiles": 9, "merge": "spatial"}, "max_tiles needs merge=unpad"),
        ({"pinpoints": SIX, "max_tokens": 7290}, "max_tokens needs merge=flat"),
        ({"pinpoints": SIX, "max_pool": True, "merge": "flat"}, "max_pool needs"),
    ],
)
def test_rules_that_would_be_ignored_are_refused(settings, told):
    with pytest.raises(ValidationError, match=told):
        AnyresConfig(**settings)


def test_a_layout_of_half_tiles_is_refused():
    with pytest.raises(ValidationError, match="whole 336 px tiles"):
        ImageConfig(kind="anyres", anyres=AnyresConfig(pinpoints=((336, 500),)))


def test_a_million_images_are_planned_in_less_than_twenty_seconds():
    draw = random.Random(0)
    sizes = [(draw.randint(1, 4000), draw.randint(1, 4000)) for _ in range(20_000)]
    seconds = []
    for _ in range(3):  # the best of three: other programs share the core's caches
        began = time.process_time()
        for size in sizes:
            plan_image(ONEVISION.card.image, size)
        seconds.append(time.process_time() - began)
    assert min(seconds) * 1_000_000 / len(sizes) < 20
