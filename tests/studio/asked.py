"""Any command, for property tests: as JSON, with numbers that mostly hit the picture."""

from hypothesis import strategies as st

x, y = st.floats(-20, 320), st.floats(-20, 290)
place = st.tuples(x, y)
layer = st.integers(0, 6)
maybe_layer = st.one_of(st.none(), layer)
corner = st.tuples(x, y, x, y)


def _command(do, **fields):
    return st.fixed_dictionaries({"do": st.just(do), **fields})


how = st.sampled_from(["new", "refine", "add", "subtract", "intersect"])
fill = st.sampled_from(["preview", "final"])
points = st.lists(st.tuples(st.floats(30, 260), st.floats(30, 230), st.booleans()), min_size=1, max_size=2)
COMMANDS = st.one_of(
    _command("select", points=points, how=how),
    _command("select", points=points),
    _command("select", box=corner, how=how),
    _command("choose", candidate=st.integers(0, 2)),
    _command("paint", path=st.lists(place, min_size=1, max_size=4), width=st.floats(1, 60), erase=st.booleans()),
    _command("grow", pixels=st.integers(-12, 12)),
    _command("feather", radius=st.floats(0.5, 9)),
    _command("invert"),
    _command("deselect"),
    _command("reselect"),
    _command("keep_object", label=st.sampled_from(["cat", "<image>"])),
    _command("pick_object", object=layer),
    _command("drop_object", object=layer),
    _command("remove", fill=fill, grow=st.integers(0, 9), shadow=st.booleans()),
    _command("remove", layer=layer),
    _command("refine"),
    _command("lift", fill=fill),
    _command("move", dx=st.floats(-90, 90), dy=st.integers(-90, 90), layer=maybe_layer),
    _command("resize", factor=st.floats(0.2, 3), layer=maybe_layer),
    _command("rotate", degrees=st.sampled_from([90, 180, 33.5, -7]), layer=maybe_layer),
    _command("duplicate", layer=maybe_layer),
    _command("layer", layer=layer, opacity=st.floats(0, 1), visible=st.booleans(), position=layer),
    _command("merge", layer=layer),
    _command("replace", prompt=st.just("a dog"), count=st.integers(1, 3), seed=st.integers(0, 99)),
    _command("add", box=corner, prompt=st.just("a hat")),
    _command("vary", variant=st.integers(0, 2)),
    _command("undo"),
    _command("redo"),
)  # fmt: skip
