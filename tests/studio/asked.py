"""Any command, for property tests: as JSON, with numbers that mostly hit the picture."""

from hypothesis import strategies as st

x, y = st.floats(-20, 320), st.floats(-20, 290)
place = st.tuples(x, y)
layer = st.sampled_from([1, 1, 2, 3, 0])
maybe_layer = st.one_of(st.none(), layer)
corner = st.tuples(x, y, x, y)


def _command(do, **fields):
    return st.fixed_dictionaries({"do": st.just(do), **fields})


how = st.sampled_from(["new", "refine", "add", "subtract", "intersect"])
fill = st.sampled_from(["preview", "final"])
points = st.lists(st.tuples(st.floats(30, 260), st.floats(30, 230), st.booleans()), min_size=1, max_size=2)
SELECTING = st.one_of(
    _command("select", points=points, how=how),
    _command("select", points=points),
    _command("select", box=corner, how=how),
    _command(
        "paint", path=st.lists(place, min_size=1, max_size=4), width=st.floats(1, 60), erase=st.booleans()
    ),
    _command("invert"),
    _command("reselect"),
    _command("pick_object", object=layer),
)
# Most of these need a selection.
USING = st.one_of(
    _command("choose", candidate=st.integers(0, 1)),
    _command("grow", pixels=st.integers(-12, 12)),
    _command("feather", radius=st.floats(0.5, 9)),
    _command("keep_object", label=st.sampled_from(["cat", "<image>"])),
    _command("remove", fill=fill, grow=st.integers(0, 9), shadow=st.booleans()),
    _command("lift", fill=fill),
    _command("move", dx=st.floats(-90, 90), dy=st.integers(-90, 90), layer=maybe_layer),
    _command("resize", factor=st.floats(0.2, 3), layer=maybe_layer),
    _command("rotate", degrees=st.sampled_from([90, 180, 33.5, -7]), layer=maybe_layer),
    _command("duplicate", layer=maybe_layer),
    _command("replace", prompt=st.just("a dog"), count=st.integers(1, 3), seed=st.integers(0, 99)),
)
OTHERS = st.one_of(
    _command("deselect"),
    _command("drop_object", object=layer),
    _command("remove", layer=layer),
    _command("refine", engine=st.sampled_from(["", "plain"])),
    _command("layer", layer=layer, opacity=st.floats(0, 1), visible=st.booleans(), position=layer),
    _command("merge", layer=layer),
    _command("add", box=corner, prompt=st.just("a hat"), count=st.integers(1, 2)),
    _command("vary", variant=st.integers(0, 1)),
    _command("undo"),
    _command("redo"),
)
COMMANDS = st.one_of(SELECTING, USING, OTHERS)
PRELUDE = [
    {"do": "select", "points": [[120, 130, True]]},
    {"do": "move", "dx": 30, "fill": "preview"},  # layer 1
    {"do": "select", "box": [20, 20, 90, 80]},
    {"do": "keep_object", "label": "corner"},  # object 2
]
# Something is there to work on, and most commands find a selection.
SEQUENCES = st.lists(st.one_of(st.tuples(SELECTING, USING), st.tuples(OTHERS)), min_size=1, max_size=8).map(
    lambda groups: [*PRELUDE, *(command for group in groups for command in group)]
)
