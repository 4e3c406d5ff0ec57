"""Words to a mask without a hub: the name of one of the 80 classes of COCO, found as a box, cut out in it."""

from dataclasses import dataclass

from llavakit.core.errors import nearest
from llavakit.studio.engines import View
from llavakit.studio.scene import EditError
from llavakit.studio.segment.standing_out import level
from llavakit.studio.tiles import Box
from llavakit.tools.arguments import Picture
from llavakit.tools.detection import LABELS, detect

LOOKED_AT = 832  # pixels of the longer side of what is searched


@dataclass(frozen=True)
class Noticed:
    """A thing that was seen in a picture before anybody asked: its name and where it is."""

    label: str
    box: Box


def notice(view: View) -> list[Noticed]:
    """The things of COCO's classes in a picture, the surest first. ToolUnavailable where weights are missing."""
    return _detected(view, None)


def named_boxes(view: View, words: str) -> list[Box]:
    """Where things of this name are, the surest first. EditError for a name that is not known, or not found."""
    label = words.strip().lower().removeprefix("the ").removeprefix("a ").removeprefix("an ")
    if label not in LABELS:
        raise EditError(
            f"{words!r}: without a model from the hub only the 80 classes of COCO are known by name"
            f"{nearest(label, LABELS)}; or click on it"
        )
    found = _detected(view, [label])
    if not found:
        raise EditError(f"no {label} was found; a click on it selects it")
    return [each.box for each in found]


def _detected(view: View, labels: list[str] | None) -> list[Noticed]:
    z = level(max(view.size), LOOKED_AT)
    said = detect(Picture("canvas", view.rgb(z)), labels).value
    noticed = []
    for row in said["found"] if isinstance(said, dict) else []:
        left, top, right, bottom = (int(edge) << z for edge in row["box"])
        box = (left, top, min(right, view.size[0]), min(bottom, view.size[1]))
        noticed.append(Noticed(str(row["label"]), box))
    return noticed
