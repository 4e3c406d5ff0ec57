"""A Hugging Face LLaVA directory in our words: what its config and processor files make of an image and a video.

Read are the directories of the four classes of the series (CLASSES in hf_config.py writes them). A setting that
llavakit cannot follow exactly is one clear line, never a near guess.
"""

import re
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig

from llavakit.core.errors import CheckpointError
from llavakit.core.files import read_json
from llavakit.model.formats.towers import TOWER_KINDS
from llavakit.model.rope import with_context

MODEL_TYPES = ("llava", "llava_next", "llava_next_video", "llava_onevision")
CONNECTORS = {"gelu": "mlp", "linear": "linear"}
BICUBIC = 3
PIXELS = {"do_resize": True, "do_rescale": True, "do_normalize": True, "resample": BICUBIC}
RESCALE = 1 / 255


def part_settings(config: dict[str, Any], folder: Path) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """The settings of decoder and tower in any config.json we read; the tower's may be None."""
    if config["model_type"] not in MODEL_TYPES:
        return with_context(config["text_config"]), config.get("vision_config")
    whole = _for_model(config, folder)
    whole.text_config.tie_word_embeddings = whole.tie_word_embeddings  # the class ties by its own word only
    return with_context(whole.text_config.to_dict()), whole.vision_config.to_dict()


def card_fields(config: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The fields of a Card; what is left out of config.json has the default of its class, as in transformers.

    Several images of one sample: LLaVA-NeXT lays each out by AnyRes; LLaVA-OneVision pads each to one tile, which
    is what its processor does with a nested list, one list per sample (in a flat list each image is a sample).
    """
    whole = _for_model(config, folder)
    vision, where = whole.vision_config, f"{folder}/config.json"
    _check_features(whole, where)
    pixels = _pixels(folder, "image_processor", "preprocessor_config.json")
    image = {
        "size": vision.image_size,
        "grid": vision.image_size // vision.patch_size,
        **_normalisation(pixels, vision.model_type, folder),
    }
    fields = {
        "tower": {"layer": _layer(whole, where)},
        "connector": {"kind": CONNECTORS[whole.projector_hidden_act]},
    }
    if whole.model_type == "llava":
        if pixels.get("do_pad"):
            _check_square(pixels, vision.image_size, folder)
            kind = "pad"
        else:
            kind = _kind(pixels, "square", vision.image_size, folder)
        return fields | {"image": image | {"kind": kind}}
    _check_square(pixels, vision.image_size, folder)
    anyres: dict[str, Any] = {"pinpoints": _pinpoints(whole, pixels, folder), "rule": "transformers"}
    image |= {"kind": "anyres", "anyres": anyres, "several": "same"}
    if whole.model_type == "llava_onevision":
        anyres["max_tiles"] = _max_tiles(whole, where)
        image["several"] = "pad"
    video = _video(whole, image, folder)
    return fields | {"image": image, "video": video}


def _for_model(config: dict[str, Any], folder: Path) -> Any:
    try:
        return AutoConfig.for_model(**config)
    except (StrictDataclassError, ValueError, TypeError) as error:
        raise CheckpointError(f"{folder}/config.json: {' '.join(str(error).split())}") from None


def _check_features(whole: Any, where: str) -> None:
    """Refuse what no plan of ours expresses: a class row among the image tokens, other connectors."""
    kind, strategy = whole.vision_config.model_type, whole.vision_feature_select_strategy
    if kind not in TOWER_KINDS:
        raise CheckpointError(f"{where}: the tower is a {kind}; llavakit reads {', '.join(TOWER_KINDS)}")
    if strategy != TOWER_KINDS[kind].strategy:
        what = (
            "keeps CLIP's class row as an image token" if strategy == "full" else "drops SigLIP's first patch"
        )
        raise CheckpointError(
            f"{where}: vision_feature_select_strategy={strategy} {what}; no released LLaVA does, "
            "and llavakit has no plan for it"
        )
    if whole.projector_hidden_act not in CONNECTORS or not whole.multimodal_projector_bias:
        raise CheckpointError(
            f"{where}: llavakit's connectors have biases and a gelu (or nothing) between their layers, not "
            f"projector_hidden_act={whole.projector_hidden_act}, "
            f"multimodal_projector_bias={whole.multimodal_projector_bias}"
        )


def _layer(whole: Any, where: str) -> int:
    layers = whole.vision_feature_layer
    layers = [layers] if isinstance(layers, int) else layers
    if len(layers) != 1:
        raise CheckpointError(
            f"{where}: vision_feature_layer={layers}: features of several layers are not read"
        )
    return int(layers[0])


def _pixels(folder: Path, section: str, file: str) -> dict[str, Any]:
    """A processor's settings: 5.x nests them in processor_config.json, and then those count; else its own file."""
    nested = folder / "processor_config.json"
    if nested.is_file():
        found = read_json(nested).get(section)
        if isinstance(found, dict):
            return found
    return read_json(folder / file) if (folder / file).is_file() else {}


def _normalisation(pixels: dict[str, Any], tower: str, folder: Path) -> dict[str, Any]:
    for name, value in PIXELS.items():
        if pixels.get(name, value) != value:
            raise CheckpointError(
                f"{folder}: its processor has {name}={pixels[name]}; llavakit has {value} only"
            )
    factor = pixels.get("rescale_factor", RESCALE)
    if abs(factor - RESCALE) > 1e-6:
        raise CheckpointError(f"{folder}: its processor has rescale_factor={factor}; llavakit has 1/255 only")
    kind = TOWER_KINDS[_default_kind(pixels, tower)]
    defaults = {"mean": kind.mean, "std": kind.std}
    return {name: tuple(pixels.get(f"image_{name}") or default) for name, default in defaults.items()}


def _default_kind(pixels: dict[str, Any], tower: str) -> str:
    """The kind of tower whose mean and deviation hold where none are named.

    Without a processor's file that is what the tower was trained with; with one, its class decides, as there.
    """
    named = str(pixels.get("image_processor_type") or pixels.get("video_processor_type") or "")
    if not named:
        return tower
    return "siglip_vision_model" if named.startswith("Siglip") else "clip_vision_model"


def _check_crop(pixels: dict[str, Any], wanted: int, folder: Path, *, needed: bool) -> None:
    """What is cut out must be the tower's square; `needed` says that a picture is no square before that."""
    cuts = pixels.get("do_center_crop", needed)
    crop = pixels.get("crop_size", wanted)
    sides = set(crop.values()) - {None} if isinstance(crop, dict) else {crop}
    if cuts and sides != {wanted}:
        raise CheckpointError(f"{folder}: its processor has crop_size={crop}, its tower takes {wanted} px")
    if needed and not cuts:
        raise CheckpointError(
            f"{folder}: its processor has do_center_crop={cuts} with size={pixels.get('size')}, which makes "
            f"pictures of any shape; its tower takes {wanted} x {wanted} px"
        )


def _kind(pixels: dict[str, Any], default: str, wanted: int, folder: Path) -> str:
    """`square` (shortest side, then the centre) or `squash`, from the processor's `size` and crop."""
    kind = _resized(pixels, default, wanted, folder)
    _check_crop(pixels, wanted, folder, needed=kind == "square")
    return kind


def _check_square(pixels: dict[str, Any], wanted: int, folder: Path) -> None:
    """Sizes of a processor that gets squares: padded pictures, or tiles."""
    _resized(pixels, "square", wanted, folder)
    _check_crop(pixels, wanted, folder, needed=False)


def _resized(pixels: dict[str, Any], default: str, wanted: int, folder: Path) -> str:
    size = pixels.get("size")
    if size is None:
        return default
    size = {"shortest_edge": size} if isinstance(size, int) else size
    sides = {value for value in size.values() if value is not None}
    if sides != {wanted}:
        raise CheckpointError(f"{folder}: its processor makes {size} pictures, its tower takes {wanted} px")
    return "squash" if size.get("height") is not None else "square"


def _pinpoints(whole: Any, pixels: dict[str, Any], folder: Path) -> tuple[tuple[int, int], ...]:
    """(width, height): transformers takes every pair as (height, width)."""
    pairs = [tuple(pair) for pair in whole.image_grid_pinpoints]
    if [tuple(pair) for pair in pixels.get("image_grid_pinpoints", pairs)] != pairs:
        raise CheckpointError(f"{folder}: image_grid_pinpoints of config.json and of the processor differ")
    return tuple((int(width), int(height)) for height, width in pairs)


def _max_tiles(whole: Any, where: str) -> int:
    match = re.fullmatch(r"anyres_max_(\d+)", whole.vision_aspect_ratio)
    if match is None:
        raise CheckpointError(
            f"{where}: vision_aspect_ratio={whole.vision_aspect_ratio!r}; LLaVA-OneVision needs anyres_max_N"
        )
    return int(match[1])


def _video(whole: Any, image: dict[str, Any], folder: Path) -> dict[str, Any] | None:
    """The class's rule for frames. Which frames: what the release looks at, 32 spread over the whole video."""
    if whole.model_type == "llava_next":
        return None
    pixels = _pixels(folder, "video_processor", "video_preprocessor_config.json")
    frames = _normalisation(pixels, whole.vision_config.model_type, folder)
    if pixels and any(frames[name] != image[name] for name in ("mean", "std")):
        raise CheckpointError(f"{folder}: videos are normalised by {frames}, images by other numbers")
    onevision = whole.model_type == "llava_onevision"
    kind = _kind(pixels, "squash" if onevision else "square", image["size"], folder)
    if onevision:
        return {"kind": kind, "pool": "bilinear", "stride": 2, "pool_first": False, "newline": "one_token"}
    if whole.spatial_pool_mode not in ("average", "max"):
        raise CheckpointError(
            f"{folder}/config.json: spatial_pool_mode={whole.spatial_pool_mode}: average and max are read"
        )
    return {
        "kind": kind,
        "pool": whole.spatial_pool_mode,
        "stride": whole.spatial_pool_stride,
        "pool_first": True,
        "newline": "no_token",
    }
