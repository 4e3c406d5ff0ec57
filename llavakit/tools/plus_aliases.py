"""LLaVA-Plus' tools (arXiv 2311.05437) by the names that its released weights call, over tools of ours.

Values are what its web server told the model: boxes are parts of the picture with two decimals, masks and pictures
are left out, and where nothing is left it is said that the picture was processed. Its model calls them by heart and
is told of none. The engines behind the names are others than the release's; three of its tools have none here.
"""

from collections.abc import Callable
from typing import Any, Literal, NoReturn

from llavakit.text.calls import Json, ToolError, ToolUnavailable
from llavakit.tools.aliases import Alias, Behind
from llavakit.tools.desk import PREFIXES

MASKS = ("segment", "select", "salient")  # tools of ours whose texts are masks
MAPS = ("edges",)  # tools whose pictures are layouts

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


def _processed(name: str, target: str) -> Callable[[Json, Behind], Json]:
    """A tool that makes a picture: the model is told that it did."""

    def run(arguments: Json, behind: Behind) -> Json:
        given: Json = {"prompt": arguments["prompt"]}
        if target == "paint":
            given["mask"] = _newest(behind, "text", MASKS, f"{name} needs a mask: call sam first")
        if target == "redraw":
            given["image"] = _newest(behind, "image", MAPS, f"{name} needs a layout: call edges first")
        behind.ask(target, **given)
        return {"message": f"The {name} has processed the image."}

    return run


def _newest(behind: Behind, kind: Literal["image", "text"], makers: tuple[str, ...], missing: str) -> str:
    """The newest mask or layout on the desk, which the release keeps in its server."""
    for name in reversed(behind.desk.names):
        if name.startswith(PREFIXES[kind]) and behind.desk.find(name, kind).made_by in makers:
            return name
    raise ToolError(missing)


def _without(name: str, engine: str) -> Callable[[Json, Behind], NoReturn]:
    def run(arguments: Json, behind: Behind) -> NoReturn:
        raise ToolUnavailable(f"{name} needs {engine}, which is not here")

    return run


def _plus(
    name: str, targets: tuple[str, ...], description: str, run: Callable[[Json, Behind], Json],
    properties: Json | None = None, required: tuple[str, ...] = (),
) -> Alias:  # fmt: skip
    """A row. What the release's server adds to a call or takes out of it may stand there, and says nothing."""
    return Alias(name, targets, description, run, (properties or {}) | ADDED, required)


def _maker(name: str, target: str, description: str) -> Alias:
    return _plus(name, (target,), description, _processed(name, target), {"prompt": TEXT}, ("prompt",))


_FOUND, _CAPTION = "Find things in the picture by words", {"caption": CAPTION}
_MASKS = "Find things by words, and select each"
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
    _maker("controlnet", "redraw", "Make a picture along the newest layout."),
    *(
        _plus(name, (), f"{engine}: not here.", _without(name, engine), {each: {} for each in ("boxes", "point")})
        for name, engine in (
            ("openseed", "OpenSeeD"), ("semantic_sam", "Semantic-SAM"), ("semantic-sam", "Semantic-SAM"),
            ("seem", "SEEM"),
        )
    ),
)  # fmt: skip
ALIAS_NAMES = frozenset(alias.name for alias in PLUS)
