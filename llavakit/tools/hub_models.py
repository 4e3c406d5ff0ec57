"""Tools whose weights come from the model hub, through `transformers`: `model` is a hub id or a directory.

Each loads on its first call, in a process of its own, onto the GPU if there is one. Weights are read from
safetensors only, and nothing of a repository is run.
"""

from colorsys import hsv_to_rgb
from functools import cache
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import PIL.Image
from pydantic import Field

from llavakit.core.errors import ConfigError, DataError
from llavakit.text.calls import ToolError, ToolUnavailable
from llavakit.tools.arguments import Answer, Drawn, Mask, Picture, Point, Region
from llavakit.tools.detection import LABELS
from llavakit.tools.opencv import apart, mask_box, region, shaded
from llavakit.vision.image import digest, load_image

if TYPE_CHECKING:
    from llavakit.tools.sam import Looks, Sam2, Sam3

Words = Annotated[str, Field(min_length=1, max_length=100)]
MOST_FILES = 100_000
PLACES = (
    "beach", "sea", "lake", "river", "mountain", "forest", "field", "garden", "street", "city", "building", "house",
    "bridge", "tower", "church", "shop", "restaurant", "kitchen", "bathroom", "bedroom", "office", "classroom",
    "airport", "station", "stadium", "sky", "snow", "rain", "sunset", "night", "grass", "tree", "flower", "food",
    "text", "drawing", "map", "chart", "crowd", "child", "portrait", "animal", "toy",
)  # fmt: skip
TAGS = (*LABELS, *PLACES)
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif"}


def ground(
    image: Picture,
    words: Annotated[
        list[Words], Field(min_length=1, max_length=40, description="What to find: cat, red car.")
    ],
    confidence: Annotated[float, Field(ge=0.01, le=1, description="Least confidence.")] = 0.3,
    *,
    model: str,
) -> Answer:
    """Find and count anything that words name in a picture: the box of each (Grounding DINO or OWLv2)."""
    import torch
    from transformers import AutoModelForZeroShotObjectDetection

    processor, net = _processor(model), _net(AutoModelForZeroShotObjectDetection, model)
    asked = [" ".join(word.replace(".", " ").split()).lower() for word in words]
    if not all(asked):
        raise ToolError("a word to find is empty")
    inputs = processor(images=PIL.Image.fromarray(image.pixels_HW3), text=[asked], return_tensors="pt")
    with torch.inference_mode():
        outputs = net(**inputs.to(net.device))
    # OWLv2 scores whole phrases, on the picture padded to a square; Grounding DINO scores tokens.
    padded = net.config.model_type in ("owlv2", "owlvit")
    scores_QT = outputs.logits[0].float().sigmoid().cpu().numpy()
    if not padded:
        scores_QT = _of_phrases(scores_QT, inputs["input_ids"][0].tolist(), processor.tokenizer)
    sides = np.array([max(image.size)] * 2 if padded else image.size)
    middle_Q2, size_Q2 = np.split(outputs.pred_boxes[0].float().cpu().numpy(), 2, axis=1)
    boxes_Q4 = np.concatenate([middle_Q2 - size_Q2 / 2, middle_Q2 + size_Q2 / 2], axis=1) * np.tile(sides, 2)
    found = []
    for column, word in enumerate(asked):
        mine = (scores_QT.argmax(axis=1) == column) & (scores_QT[:, column] > confidence)
        boxes, scores = boxes_Q4[mine], scores_QT[mine, column]
        found += [
            (float(scores[one]), word, region(boxes[one], image.size)) for one in apart(boxes, scores, 0.7)
        ]
    found.sort(key=lambda one: -one[0])
    labels = [word for _, word, _ in found]
    shown = [{"label": word, "box": box, "confidence": round(score, 3)} for score, word, box in found[:200]]
    return Answer({"counts": {word: labels.count(word) for word in sorted(set(labels))}, "found": shown})


def _of_phrases(scores_QT: np.ndarray, ids: list[int], tokenizer: Any) -> np.ndarray:
    """float[Q, W]: of the tokens of every phrase, which a dot ends, the best score."""
    dot, columns, start = tokenizer.convert_tokens_to_ids("."), [], 1  # behind [CLS]
    for place, token in enumerate(ids):
        if token == dot:
            columns.append(scores_QT[:, start:place].max(axis=1))
            start = place + 1
    return np.stack(columns, axis=1)


def segment(
    image: Picture,
    box: Region | None = None,
    inside: tuple[Point, ...] = (),
    outside: tuple[Point, ...] = (),
    words: Annotated[
        str, Field(max_length=100, description="What to select, in place of boxes and points; needs SAM 3.")
    ] = "",
    masks: Annotated[
        int, Field(ge=1, le=20, description="How many masks: a point may mean a part or a whole.")
    ] = 1,
    *,
    model: str,
) -> Answer:
    """Select one thing in a picture by a box around it and/or points on it and beside it: its mask (SAM 2 or 3)."""
    from llavakit.tools.sam import Pointed, Sam3

    net = _sam(model)
    if words and (box is not None or inside or outside):
        raise ToolError("say what to select either in words, or by a box and points")
    if words and not isinstance(net, Sam3):
        raise ToolError("this model knows no words: find the thing with ground, and give its box")
    if words and isinstance(net, Sam3):
        found = net.named(_seen(model, image, named=True), image.size, words, masks)
    elif box is None and not inside:
        raise ToolError("say what to select: a box around it, or points inside of it")
    else:
        marks = net.marks if isinstance(net, Sam3) else net
        said = Pointed((*inside, *outside), [1] * len(inside) + [0] * len(outside), box)
        found = marks.masks(_seen(model, image, named=False), image.size, said)[:masks]
    if not found:
        raise ToolError("nothing was found there; try a larger box, other points or other words")
    first, *others = [
        {
            "mask": Mask(each.inside_HW),
            "box": mask_box(each.inside_HW),
            "percent": round(100 * float(each.inside_HW.mean()), 2),
            "confidence": round(each.score, 3),
        }
        for each in found
    ]
    shown = tuple(Drawn(shaded(image.pixels_HW3, each.inside_HW), (0, 0)) for each in found)
    return Answer(first | ({"others": others} if others else {}), shown)


def _seen(model: str, image: Picture, *, named: bool) -> Any:
    """What the model has seen of a picture, which it looks at once for all that is asked about it."""
    key = blake2b(image.pixels_HW3.tobytes()).digest()
    return _looks(model, named).at((image.size, key), lambda: image.pixels_HW3)


@cache
def _looks(model: str, named: bool) -> "Looks":
    from llavakit.tools.sam import Looks, Sam3

    net = _sam(model)
    return Looks(net.marks.look if isinstance(net, Sam3) and not named else net.look)


@cache
def _sam(model: str) -> "Sam2 | Sam3":
    from llavakit.tools.sam import open_sam

    try:
        return open_sam(model)
    except ConfigError as error:  # in a tool it is the model's to hear
        raise ToolUnavailable(f"{model} cannot be opened: {error}") from None


def parts(image: Picture, *, model: str) -> Answer:
    """Divide a whole picture into its parts and name each (wall, person): its share, its box, a colored map."""
    import torch
    from torch.nn import functional as F
    from transformers import AutoModelForSemanticSegmentation

    processor, net = _processor(model), _net(AutoModelForSemanticSegmentation, model)
    inputs = processor(images=PIL.Image.fromarray(image.pixels_HW3), return_tensors="pt").to(net.device)
    with torch.inference_mode():
        logits = net(**inputs).logits.float()
    whole = F.interpolate(logits, image.size[::-1], mode="bilinear", align_corners=False)
    labels_HW = whole[0].argmax(dim=0).cpu().numpy()
    found, map_HW3 = [], np.zeros_like(image.pixels_HW3)
    for label in np.unique(labels_HW).tolist():
        inside_HW = labels_HW == label
        map_HW3[inside_HW] = _color(label)
        percent = round(100 * float(inside_HW.mean()), 2)
        found.append({"label": net.config.id2label[label], "percent": percent, "box": mask_box(inside_HW)})
    found.sort(key=lambda part: -part["percent"])
    return Answer({"parts": found}, (Drawn(map_HW3),))


def _color(label: int) -> tuple[int, int, int]:
    """Far from those of its neighbours in the list, and the same in every picture."""
    hue, value = label * 0.618 % 1, (1.0, 0.8, 0.6)[label % 3]
    red, green, blue = hsv_to_rgb(hue, 0.75, value)
    return round(255 * red), round(255 * green), round(255 * blue)


def caption(image: Picture, box: Region | None = None, *, model: str) -> Answer:
    """Describe a picture, or a box of it, in one sentence (BLIP)."""
    import torch
    from transformers import AutoModelForImageTextToText

    processor, net = _processor(model), _net(AutoModelForImageTextToText, model)
    pixels = image.pixels_HW3 if box is None else image.pixels_HW3[box.top : box.bottom, box.left : box.right]
    inputs = processor(images=PIL.Image.fromarray(pixels), return_tensors="pt").to(net.device)
    with torch.inference_mode():
        said = net.generate(**inputs, max_new_tokens=40, do_sample=False)
    return Answer({"caption": processor.batch_decode(said, skip_special_tokens=True)[0].strip()})


def search(
    words: Words,
    top: Annotated[int, Field(ge=1, le=8, description="How many pictures.")] = 3,
    *,
    model: str,
    folder: str,
) -> Answer:
    """Find the pictures of a collection that fit best to words (SigLIP): their names, and the pictures."""
    import torch
    from transformers import AutoModel

    processor, net = _processor(model), _net(AutoModel, model)
    inputs = processor(text=[words], padding="max_length", truncation=True, return_tensors="pt").to(
        net.device
    )
    with torch.inference_mode():
        asked_D = _unit(net.get_text_features(**inputs))[0]
    return _nearest(model, folder, asked_D, top)


def alike(
    image: Picture,
    top: Annotated[int, Field(ge=1, le=8, description="How many pictures.")] = 3,
    *,
    model: str,
    folder: str,
) -> Answer:
    """Find the pictures of a collection that look most like a picture (SigLIP): their names, and the pictures."""
    return _nearest(model, folder, _look(PIL.Image.fromarray(image.pixels_HW3), model), top)


def _nearest(model: str, folder: str, asked_D: np.ndarray, top: int) -> Answer:
    """The pictures whose vectors are nearest, all of them compared: by FAISS where it is, which does it faster."""
    names, vectors_ND = _indexed(model, folder)
    index = _index(model, folder)
    if index is None:
        scores_N = vectors_ND @ asked_D
        best = np.argsort(-scores_N, kind="stable")[:top]
        scores = scores_N[best]
    else:
        [scores], [best] = index.search(asked_D[None], min(top, len(names)))
    found = [
        {"name": names[one], "likeness": round(float(score), 4)}
        for one, score in zip(best, scores, strict=True)
    ]
    shown = tuple(Drawn(np.asarray(load_image(Path(folder) / names[one]))) for one in best)
    return Answer({"pictures_in_all": len(names), "found": found}, shown)


@cache
def _index(model: str, folder: str) -> Any:
    """An exact index of FAISS over the folder; None where FAISS is not installed."""
    try:
        import faiss
    except ImportError:
        return None
    _, vectors_ND = _indexed(model, folder)
    index = faiss.IndexFlatIP(vectors_ND.shape[1])
    index.add(vectors_ND)
    return index


def tag(
    image: Picture,
    words: Annotated[
        list[Words] | None,
        Field(max_length=500, description="Which tags there are; without them, everyday things and places."),
    ] = None,
    confidence: Annotated[float, Field(ge=0.001, le=1, description="Least confidence.")] = 0.05,
    *,
    model: str,
) -> Answer:
    """Name what a picture shows, as tags out of a list of words (SigLIP)."""
    import torch
    from transformers import AutoModel

    processor, net = _processor(model), _net(AutoModel, model)
    asked = list(dict.fromkeys(words or TAGS))
    said = [f"a photo of {word}" for word in asked]
    inputs = processor(
        text=said, images=PIL.Image.fromarray(image.pixels_HW3), padding="max_length", truncation=True,
        return_tensors="pt",
    ).to(net.device)  # fmt: skip
    with torch.inference_mode():
        scores_W = net(**inputs).logits_per_image[0].float().sigmoid().cpu().numpy()
    order = [one for one in np.argsort(-scores_W, kind="stable") if scores_W[one] >= confidence]
    found = [{"tag": asked[one], "confidence": round(float(scores_W[one]), 3)} for one in order[:40]]
    return Answer({"tags": [one["tag"] for one in found], "found": found})


@cache
def _indexed(model: str, folder: str) -> tuple[list[str], np.ndarray]:
    """Names below the folder and their vectors [N, D]; a picture that was seen before is not looked at again."""
    root = Path(folder)
    files = sorted(path for path in root.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    names, vectors, seen = [], [], dict[str, np.ndarray]()
    for path in files[:MOST_FILES]:
        try:
            known = digest(path)
            if known not in seen:
                seen[known] = _look(load_image(path), model)
        except DataError:  # not every file of a folder is a picture
            continue
        names.append(str(path.relative_to(root)))
        vectors.append(seen[known])
    if not names:
        raise ToolError("there is no picture in the collection")
    return names, np.stack(vectors)


def _look(image: PIL.Image.Image, model: str) -> np.ndarray:
    """float32[D]: what a picture is compared by."""
    import torch
    from transformers import AutoModel

    net = _net(AutoModel, model)
    inputs = _processor(model)(images=image, return_tensors="pt").to(net.device)
    with torch.inference_mode():
        return _unit(net.get_image_features(**inputs))[0]


def _unit(features: Any) -> np.ndarray:
    """float32[N, D] of length 1."""
    import torch

    vectors = features if isinstance(features, torch.Tensor) else features.pooler_output
    found: np.ndarray = torch.nn.functional.normalize(vectors.float(), dim=-1).cpu().numpy()
    return found


@cache
def _processor(model: str) -> Any:
    from transformers import AutoProcessor

    return _read(AutoProcessor, model)


@cache
def _net(kind: Any, model: str) -> Any:
    """The model on its device, to be asked and not trained."""
    import torch

    return _read(kind, model, use_safetensors=True).eval().to("cuda" if torch.cuda.is_available() else "cpu")


def _read(kind: Any, model: str, **how: Any) -> Any:
    try:
        return kind.from_pretrained(model, **how)
    except (OSError, ValueError, ImportError) as error:
        raise ToolUnavailable(f"{model} cannot be opened: {' '.join(str(error).split())[:300]}") from None
