"""LLaVA-Plus' tools (arXiv 2311.05437) by the names that its released weights call, over tools of ours.

Values are what its web server told the model: boxes are parts of the picture with two decimals, masks and pictures
are left out, and where nothing is left it is said that the picture was processed. Its model calls them by heart and
is told of none. The engines behind the names are others than the release's.
"""

from collections.abc import Callable
from typing import Any, Literal

from llavakit.text.calls import Json, ToolError
from llavakit.tools.aliases import Alias, Behind
from llavakit.tools.desk import PREFIXES

MASKS = ("segment", "segment_like", "select", "salient")  # tools of ours whose texts are masks
MAPS = ("edges",)  # tools whose pictures are layouts
GRAINS = 3  # masks of one thing: a part of it, more of it, the whole

TEXT: Json = {"type": "string"}
NUMBER: Json = {"type": "number"}
CAPTION: Json = {"type": "string", "description": "What to find, with dots between: cat . dog"}
ADDED: Json = {"box_threshold": NUMBER, "text_threshold": NUMBER, "image": {}}


def _ground(behind: Behind, caption: str, threshold: float = 0.3) -> Json:
    words = [word.strip() for word in caption.split(".")]
    found = behind.ask("ground", words=[word for word in words if word], confidence=threshold)["found"]
    return {
        "boxes": [_rounded(one["box"]) for one in found],
        "logits": [round(one["confidence"], 2) for one in found],
        "phrases": [one["label"] for one in found],
    }


def _rounded(box: list[float]) -> list[float]:
    return [round(number, 2) for number in box]


def grounding_dino(arguments: Json, behind: Behind) -> Json:
    return _ground(behind, str(arguments["caption"]), arguments.get("box_threshold", 0.3))


def sam(arguments: Json, behind: Behind) -> Json:
    """A mask for each box, or for each set of points."""
    if ("boxes" in arguments) == ("points" in arguments):
        raise ToolError("give either boxes, or points with point_labels")
    if "boxes" in arguments:
        prompts = [{"box": box} for box in _list(arguments["boxes"], "boxes")]
    else:
        points = _list(arguments["points"], "points")
        labels = _list(arguments.get("point_labels", [[1] * len(some) for some in points]), "point_labels")
        prompts = [
            {
                name: [point for point, mark in zip(some, marks, strict=False) if mark == value]
                for name, value in (("inside", 1), ("outside", 0))
            }
            for some, marks in zip(points, labels, strict=False)
        ]
    found = [behind.ask("segment", **prompt) for prompt in prompts]
    return {"boxes": [_rounded(one["box"]) for one in found]}


def _list(value: Any, name: str) -> list[Any]:
    if not isinstance(value, list) or not all(isinstance(each, list) for each in value):
        raise ToolError(f"{name} must be a list of lists")
    return value


def grounded_sam(arguments: Json, behind: Behind) -> Json:
    said = grounding_dino(arguments, behind)
    for box in said["boxes"]:
        behind.ask("segment", box=box)
    return said


def ram(arguments: Json, behind: Behind) -> Json:
    """Its tags stand between bars. The release tells them in Chinese too, which nothing here does."""
    return {"tags": " | ".join(behind.ask("tag")["tags"])}


def ram_and_dino(arguments: Json, behind: Behind) -> Json:
    said = ram(arguments, behind)
    return _ground(behind, said["tags"].replace(" | ", " . ")) | said


def blip2(arguments: Json, behind: Behind) -> Json:
    return {"caption": behind.ask("caption")["caption"]}


def blip2_and_dino(arguments: Json, behind: Behind) -> Json:
    said = blip2(arguments, behind)
    return _ground(behind, said["caption"]) | said


def easyocr(arguments: Json, behind: Behind) -> Json:
    return {"texts": [line["text"] for line in behind.ask("ocr")["lines"]]}


def ocr(arguments: Json, behind: Behind) -> Json:
    lines = behind.ask("ocr")["lines"]
    return {
        "texts": [line["text"] for line in lines],
        "boxes": [_rounded(line["box"]) for line in lines],
        "scores": [round(line["confidence"], 2) for line in lines],
    }


def retrieval(arguments: Json, behind: Behind) -> Json:
    """The release asks a service that knows captions; here it is a folder of pictures, and the names of files."""
    found = behind.ask("alike", top=8)["found"]
    return {
        "retrieval_results": [
            {"caption": one["name"].rpartition(".")[0], "similarity": round(one["likeness"], 2)}
            for one in found
        ]
    }


def openseed(arguments: Json, behind: Behind) -> Json:
    """Every part of the picture in a color of its own. The release's model names 150 kinds, and so does ours."""
    behind.ask("parts")
    return _done("openseed")


def _semantic_sam(name: str) -> Callable[[Json, Behind], Json]:
    def run(arguments: Json, behind: Behind) -> Json:
        """What a point or a box means, from a part to the whole: a mask for each, as pictures."""
        if ("boxes" in arguments) == ("point" in arguments):
            raise ToolError("give either boxes, or a point")
        key, way = ("boxes", "box") if "boxes" in arguments else ("point", "inside")
        said = arguments[key]
        flat = isinstance(said, list) and all(isinstance(each, int | float) for each in said)
        for one in [said] if flat else _list(said, key):
            behind.ask("segment", masks=GRAINS, **{way: one if way == "box" else [one]})
        return _done(name)

    return run


def seem(arguments: Json, behind: Behind) -> Json:
    """What is like an example: the newest mask on the second picture that was brought, if there are two."""
    mask = _newest(behind, "text", MASKS, "seem needs an example: call sam on a thing first")
    brought = [name for name in behind.desk.pictures() if not behind.desk.find(name).made_by]
    behind.ask("segment_like", example=brought[1 if len(brought) > 1 else 0], mask=mask, image=brought[0])
    return _done("seem")


def _processed(name: str, target: str) -> Callable[[Json, Behind], Json]:
    """A tool that makes a picture: the model is told that it did."""

    def run(arguments: Json, behind: Behind) -> Json:
        given: Json = {"prompt": arguments["prompt"]}
        if target == "paint":
            given["mask"] = _newest(behind, "text", MASKS, f"{name} needs a mask: call sam first")
        behind.ask(target, **given)
        return _done(name)

    return run


def controlnet(arguments: Json, behind: Behind) -> Json:
    """Along the newest outlines, drawn where there are none. The release's follows the map of openseed."""
    if not any(behind.desk.find(name).made_by in MAPS for name in behind.desk.pictures()):
        behind.ask("edges")
    behind.ask("redraw", prompt=arguments["prompt"], image=_newest(behind, "image", MAPS, "no outlines"))
    return _done("controlnet")


def _done(name: str) -> Json:
    """What is said where nothing else of a result is told."""
    return {"message": f"The {name} has processed the image."}


def _newest(behind: Behind, kind: Literal["image", "text"], makers: tuple[str, ...], missing: str) -> str:
    """The newest mask or layout on the desk, which the release keeps in its server."""
    for name in reversed(behind.desk.names):
        if name.startswith(PREFIXES[kind]) and behind.desk.find(name, kind).made_by in makers:
            return name
    raise ToolError(missing)


def _plus(
    name: str, targets: tuple[str, ...], description: str, run: Callable[[Json, Behind], Json],
    properties: Json | None = None, required: tuple[str, ...] = (),
) -> Alias:  # fmt: skip
    """A row. What the release's server adds to a call or takes out of it may stand there, and says nothing."""
    return Alias(name, targets, description, run, (properties or {}) | ADDED, required)


def _maker(name: str, target: str, description: str) -> Alias:
    return _plus(name, (target,), description, _processed(name, target), {"prompt": TEXT}, ("prompt",))


_FOUND, _CAPTION = "Find things in the picture by words", {"caption": CAPTION}
_MASKS, _MEANT = (
    "Find things by words, and select each",
    "Select what a point or a box may mean, part or whole",
)
_STATE = ("refimg", "refmask")  # what the release's page adds to calls of SEEM
PLUS: tuple[Alias, ...] = (
    _plus("grounding_dino", ("ground",), f"{_FOUND}.", grounding_dino, _CAPTION, ("caption",)),
    _plus(
        "sam", ("segment",), "Select things by boxes or points.", sam,
        {name: {"type": "array"} for name in ("boxes", "points", "point_labels")},
    ),
    _plus("grounding_dino+sam", ("ground", "segment"), f"{_MASKS}.", grounded_sam, _CAPTION, ("caption",)),
    _plus("grounded_sam", ("ground", "segment"), f"{_MASKS}.", grounded_sam, _CAPTION, ("caption",)),
    _plus("ram", ("tag",), "Name what the picture shows.", ram),
    _plus("ram+grounding_dino", ("tag", "ground"), "Name what the picture shows, and find it.", ram_and_dino),
    _plus("blip2", ("caption",), "Describe the picture in a sentence.", blip2),
    _plus("blip2+grounding_dino", ("caption", "ground"), "Describe the picture, and find it.", blip2_and_dino),
    _plus("easyocr", ("ocr",), "Read the text in the picture.", easyocr),
    _plus("ocr+boxes", ("ocr",), "Read the text in the picture, with boxes.", ocr),
    _plus("retrieval", ("alike",), "Find pictures that look alike.", retrieval),
    _plus("clip", ("alike",), "Find pictures that look alike.", retrieval),
    _maker("stable-diffusion", "generate", "Make a picture from words."),
    _maker("sd", "generate", "Make a picture from words."),
    _maker("generation", "generate", "Make a picture from words."),
    _maker("instruct-pix2pix", "edit", "Change the picture as an instruction says."),
    _maker("instruct_pix2pix", "edit", "Change the picture as an instruction says."),
    _maker("ip2p", "edit", "Change the picture as an instruction says."),
    _maker("inpainting", "paint", "Paint into the newest mask."),
    _plus(
        "controlnet", ("redraw", "edges"), "Make a picture along the outlines of one.", controlnet,
        {"prompt": TEXT}, ("prompt",),
    ),
    _plus("openseed", ("parts",), "Divide the picture into its parts.", openseed),
    *(
        _plus(name, ("segment",), f"{_MEANT}.", _semantic_sam(name), {each: {} for each in ("boxes", "point")})
        for name in ("semantic_sam", "semantic-sam")
    ),
    _plus("seem", ("segment_like",), "Select what is like an example.", seem, {each: {} for each in _STATE}),
)  # fmt: skip
ALIAS_NAMES = frozenset(alias.name for alias in PLUS)
