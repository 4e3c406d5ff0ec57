"""A Card in the words of `transformers`: which class can be this model, its config.json and its processor's files.

The class is chosen by what the card asks for, never by a name. Where no class computes it, config.json says
`model_type: llavakit`, and nothing loads it wrongly. `hf_fit` also says what a class that can hold the model would
do differently, so that an export can tell.
"""

from typing import Any, NamedTuple

from llavakit.core.errors import CheckpointError
from llavakit.model.card import VIDEO_TOKEN, Card
from llavakit.model.hf_card import BICUBIC
from llavakit.model.llava import Llava
from llavakit.model.rope import as_stored, classic_rope
from llavakit.model.tower import ViTTower
from llavakit.text.tokenizer import IMAGE_TOKEN, Tokenizer
from llavakit.version import __version__
from llavakit.vision.anyres import AnyresConfig
from llavakit.vision.frames import VideoConfig, pooled
from llavakit.vision.plan import ImageConfig


class HFClass(NamedTuple):
    """The classes of `transformers` that make one family."""

    model: str
    processor: str
    image_processor: str
    video_processor: str | None = None


CLASSES = {
    "llava": HFClass("LlavaForConditionalGeneration", "LlavaProcessor", "LlavaImageProcessor"),
    "llava_next": HFClass(
        "LlavaNextForConditionalGeneration", "LlavaNextProcessor", "LlavaNextImageProcessor"
    ),
    "llava_next_video": HFClass(
        "LlavaNextVideoForConditionalGeneration",
        "LlavaNextVideoProcessor",
        "LlavaNextImageProcessor",
        "LlavaNextVideoVideoProcessor",
    ),
    "llava_onevision": HFClass(
        "LlavaOnevisionForConditionalGeneration",
        "LlavaOnevisionProcessor",
        "LlavaOnevisionImageProcessor",
        "LlavaOnevisionVideoProcessor",
    ),
}


class Fit(NamedTuple):
    """Which class can hold a model (None: none can), and what is lost with it, a sentence each."""

    model_type: str | None
    lost: tuple[str, ...] = ()


def hf_fit(card: Card) -> Fit:
    """The class for a card. With a class, `lost` is what it does differently; without, why there is none."""
    nearest = _nearest(card)
    reasons = _refusals(card, nearest)
    return Fit(None, reasons) if reasons else Fit(nearest, _differences(card, nearest))


def why_not_hf(card: Card) -> str | None:
    """What a Hugging Face class cannot do as this card says, in one line; None if one is exactly this model."""
    return "; ".join(hf_fit(card).lost) or None


def _nearest(card: Card) -> str:
    if card.image.anyres is None:
        return "llava"
    if card.video is not None:
        return "llava_next_video" if card.video.pool_first else "llava_onevision"
    return "llava_next" if card.image.anyres.max_tiles is None else "llava_onevision"


def _refusals(card: Card, nearest: str) -> tuple[str, ...]:
    """What no class computes."""
    checks = [
        (card.grading is not None, "a reward model: their classes answer, and score nothing"),
        (
            card.tower.kind != "transformers",
            f"tower.kind={card.tower.kind}: their towers are CLIP and SigLIP",
        ),
        (card.connector.standardize, "connector.standardize: theirs takes the tower's rows as they are"),
    ]
    image, anyres = card.image, card.image.anyres
    if anyres is None:
        one_tile = image.kind in ("square", "pad", "squash")
        checks += [
            (not one_tile, f"image.kind={image.kind}: theirs are square, pad and squash"),
            (card.video is not None, "video: their class for images of one tile takes no videos"),
        ]
    else:
        checks += _anyres_checks(image, anyres, nearest)
        if card.video is not None:
            checks += _video_checks(card.video, image.grid, nearest)
    return tuple(reason for wrong, reason in checks if wrong)


def _anyres_checks(image: ImageConfig, anyres: AnyresConfig, nearest: str) -> list[tuple[bool, str]]:
    shrunk = anyres.max_tiles is not None and nearest == "llava_next_video"
    return [
        (image.kind != "anyres", f"image.kind={image.kind}: their tiles follow the image's shape"),
        (
            anyres.merge != "unpad" and anyres.max_tokens is None,
            f"image.anyres.merge={anyres.merge}: theirs is unpad, with newlines",
        ),
        (anyres.base != "squash", f"image.anyres.base={anyres.base}: theirs is squash"),
        (
            anyres.max_tokens is not None,
            "image.anyres.max_tokens: they shrink the joined map, not every tile",
        ),
        (anyres.max_pool, "image.anyres.max_pool: they shrink by interpolation"),
        (
            shrunk,
            "image.anyres.max_tiles: their class that pools frames before the connector never shrinks images",
        ),
    ]


def _video_checks(video: VideoConfig, side: int, nearest: str) -> list[tuple[bool, str]]:
    wanted = {"llava_next_video": "no_token", "llava_onevision": "one_token"}[nearest]
    checks = [
        (video.kind == "pad", "video.kind=pad: their frames are cut or squashed"),
        (video.slow_fast is not None, "video.slow_fast: all their frames are pooled alike"),
        (
            video.newline != wanted,
            f"video.newline={video.newline}: with pool_first={video.pool_first} theirs is {wanted}",
        ),
    ]
    how = f"video.pool={video.pool}, stride={video.stride}"
    if nearest == "llava_onevision":
        same = video.pool == "bilinear" and video.stride == 2
        return [*checks, (not same, f"{how}: behind the connector they pool bilinear with stride 2")]
    # Their processor counts a quarter of the patches, whatever the model then makes.
    counted = pooled(side, video.pool, video.stride) ** 2 == side**2 // 4
    return [
        *checks,
        (video.pool == "bilinear", f"{how}: before the connector they pool average or max"),
        (
            not counted,
            f"{how}: their processor counts {side**2 // 4} tokens a frame of {side} x {side} patches",
        ),
    ]


def _differences(card: Card, nearest: str) -> tuple[str, ...]:
    """What the class does otherwise with a few inputs, or leaves to the caller."""
    image, anyres = card.image, card.image.anyres
    if anyres is None:
        return ()
    several = "padded to one tile" if image.several == "pad" else "laid out by AnyRes"
    checks = [
        (
            image.several == "pad" and nearest != "llava_onevision",
            f"image.several=pad: several images of one sample are {several} here, laid out by AnyRes there",
        ),
        (
            image.several == "same" and nearest == "llava_onevision",
            f"image.several=same: images are {several}; give the processor a flat list of images, not nested ones",
        ),
    ]
    return (*shared_differences(card), *(what for differs, what in checks if differs))


def shared_differences(card: Card) -> tuple[str, ...]:
    """What every program that reads the classes' layout does otherwise, or leaves to the caller."""
    anyres = card.image.anyres
    checks = [
        (
            anyres is not None and anyres.rule == "llava",
            "image.anyres.rule=llava: a kept map is cut, not rounded to 7 digits first; images such as 704 x 396 "
            "on a 672 px square get two rows or columns more there",
        ),
        (
            card.video is not None and card.video.time_instruction,
            "video.time_instruction: the caller has to write the sentence about the frames into the prompt",
        ),
    ]
    return tuple(what for differs, what in checks if differs)


def hf_config(model: Llava, card: Card, tokenizer: Tokenizer, *, half: bool = False) -> dict[str, Any]:
    """config.json: that of the class that can be this model, else `model_type: llavakit`; always with the card.

    `half`: float32 weights are written in bf16.
    """
    language: Any = model.language.config
    dtype = str(model.language.dtype).removeprefix("torch.")
    dtype = "bfloat16" if half and dtype == "float32" else dtype
    text = language.to_diff_dict() | {"model_type": language.model_type, "vocab_size": language.vocab_size}
    config: dict[str, Any] = {
        "model_type": "llavakit",
        "text_config": as_stored(text) | classic_rope(text),
        "tie_word_embeddings": bool(language.tie_word_embeddings),
        "dtype": dtype,
        "torch_dtype": dtype,  # the word of transformers 4
        "llavakit": {"version": __version__, **card.model_dump(mode="json")},
    }
    if isinstance(model.tower, ViTTower):
        vision = model.tower.vision.config
        config["vision_config"] = vision.to_diff_dict() | {"model_type": vision.model_type}
    kind = hf_fit(card).model_type
    if kind is None:
        return config
    tower = _vit(model)
    image_id = _row(tokenizer, IMAGE_TOKEN, language.vocab_size)
    config |= {
        "model_type": kind,
        "architectures": [CLASSES[kind].model],
        "image_token_index": image_id,
        "projector_hidden_act": "linear" if card.connector.kind == "linear" else "gelu",
        "multimodal_projector_bias": True,
        "vision_feature_layer": card.tower.layer,
        "vision_feature_select_strategy": tower.kind.strategy,
    }
    if kind != "llava_onevision":
        config["image_seq_length"] = tower.num_rows
    if card.image.anyres is not None:
        config["image_grid_pinpoints"] = image_grid_pinpoints(card.image.anyres)
    if kind == "llava_onevision":
        config["vision_aspect_ratio"] = _aspect_ratio(card)
    if CLASSES[kind].video_processor is not None:
        # Without videos the class still wants a number; no text holds that token by itself.
        has_videos = card.video is not None
        config["video_token_index"] = (
            _row(tokenizer, VIDEO_TOKEN, language.vocab_size) if has_videos else image_id
        )
    if kind == "llava_next_video" and card.video is not None:
        config["spatial_pool_mode"], config["spatial_pool_stride"] = card.video.pool, card.video.stride
    return config


def processor_files(model: Llava, card: Card) -> dict[str, dict[str, Any]]:
    """The files from which AutoProcessor makes a processor with our pixels and token counts."""
    kind = hf_fit(card).model_type
    if kind is None:
        return {}
    tower, names, image = _vit(model), CLASSES[kind], card.image
    pictures = {
        "image_processor_type": names.image_processor,
        "processor_class": names.processor,
        **_pixels(image, "squash" if kind == "llava_onevision" else image.kind),
        # Plain LLaVA pads pictures; the others mean by it that a batch gets equally many tiles.
        "do_pad": image.kind in ("pad", "anyres"),
    }
    processor: dict[str, Any] = {
        "processor_class": names.processor,
        "image_token": IMAGE_TOKEN,
        "vision_feature_select_strategy": tower.kind.strategy,
    }
    if image.anyres is not None:
        pictures["image_grid_pinpoints"] = image_grid_pinpoints(image.anyres)
    if kind == "llava_onevision":
        processor |= {
            "num_image_tokens": tower.num_rows + tower.kind.num_cls,
            "vision_aspect_ratio": _aspect_ratio(card),
        }
    else:
        processor |= {
            "patch_size": tower.vision.config.patch_size,
            "num_additional_image_tokens": tower.kind.num_cls,
        }
    files = {"preprocessor_config.json": pictures, "processor_config.json": processor}
    if names.video_processor is not None:
        processor["video_token"] = VIDEO_TOKEN
        files["video_preprocessor_config.json"] = {
            "video_processor_type": names.video_processor,
            "processor_class": names.processor,
            **_pixels(image, "squash" if card.video is None else card.video.kind),
            "do_sample_frames": False,  # the caller chooses frames, as VideoConfig says
        }
    return files


def _vit(model: Llava) -> ViTTower:
    assert isinstance(model.tower, ViTTower)  # a class was chosen, so the card's tower is one
    return model.tower


def _row(tokenizer: Tokenizer, token: str, rows: int) -> int:
    """The id of a slot token; it needs a row in the embedding table, which transformers looks up."""
    index = tokenizer.hf.get_vocab().get(token)
    if index is None or index >= rows:
        raise CheckpointError(
            f"the embedding table has no row for {token}, which other programs need; build the model from a "
            "ModelConfig with this card (llavakit.model.build), which adds it"
        )
    return int(index)


def image_grid_pinpoints(anyres: AnyresConfig) -> list[list[int]]:
    """(height, width), in the same order: the first of two equally good layouts is the same one there."""
    return [[height, width] for width, height in anyres.pinpoints]


def _aspect_ratio(card: Card) -> str:
    """`anyres_max_N`; where nothing is shrunk, N is the largest number of tiles, which no map exceeds."""
    anyres, tile = card.image.anyres, card.image.size
    assert anyres is not None
    tiles = max((width // tile) * (height // tile) for width, height in anyres.pinpoints)
    return f"anyres_max_{tiles if anyres.max_tiles is None else anyres.max_tiles}"


def _pixels(image: ImageConfig, kind: str) -> dict[str, Any]:
    """What image and video processors have in common; `squash` ignores the aspect, the others cut the centre."""
    size: dict[str, Any] = {"size": {"shortest_edge": image.size}, "do_center_crop": True}
    if kind == "squash":
        size = {"size": {"height": image.size, "width": image.size}, "do_center_crop": False}
    return {
        "do_convert_rgb": True,
        "do_resize": True,
        "resample": BICUBIC,
        **size,
        "crop_size": {"height": image.size, "width": image.size},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(image.mean),
        "image_std": list(image.std),
    }
