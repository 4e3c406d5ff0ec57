"""A card in the words of released LLaVA code: the config.json it reads, or the reason why there is none."""

from typing import Any

from transformers import PreTrainedConfig

from llavakit.core.errors import CheckpointError
from llavakit.model.card import Card
from llavakit.model.formats.original import DECODERS, TYPES
from llavakit.model.formats.towers import TOWER_KINDS, TOWERS
from llavakit.model.rope import as_stored, classic_rope
from llavakit.vision.frames import VideoConfig

CLASSES = {kind: name for name, kind in DECODERS.items() if name[0] == "L"}
SHARED = ("bos_token_id", "eos_token_id", "pad_token_id", "tie_word_embeddings")


def original_config(
    card: Card, language: PreTrainedConfig, vision: PreTrainedConfig, tower_name: str, dtype: str
) -> dict[str, Any]:
    """config.json of the original layout. What it cannot express is refused."""
    _refuse(card, language, vision)
    tower, anyres = TOWER_KINDS[vision.model_type], card.image.anyres
    config = _language(language) | {
        "architectures": [CLASSES[language.model_type]],
        "model_type": TYPES[language.model_type],
        "torch_dtype": dtype,
        "mm_vision_tower": tower_name,
        "mm_hidden_size": vision.hidden_size,
        "mm_projector_type": "linear" if card.connector.kind == "linear" else "mlp2x_gelu",
        "mm_vision_select_layer": -2 if tower.cut else card.tower.layer,
        "mm_vision_select_feature": "patch",
        "mm_use_im_start_end": card.im_start_end,
        "mm_use_im_patch_token": False,
        "mm_patch_merge_type": _merge(card),
        "image_aspect_ratio": _aspect(card, tower.frame),
        # Without this released code loads the tower from the hub, over the weights in this directory.
        "unfreeze_mm_vision_tower": True,
        "use_mm_proj": True,
        "tokenizer_padding_side": "right",
    }
    if anyres is not None:
        config["image_grid_pinpoints"] = [list(pair) for pair in anyres.pinpoints]
    return config | ({} if card.video is None else _video(card.video))


def differences(card: Card, tower_name: str, *, siglip: bool) -> list[str]:
    """What released code will do differently with this model, where no setting of it can help."""
    notes = []
    if card.image.anyres is not None and card.image.anyres.rule != "llava":
        notes.append(
            "the model was read by transformers' rounding of AnyRes maps; released code has its own, "
            "which keeps other rows for about one image size in ten thousand"
        )
    if card.image.anyres is not None and card.image.several == "same":
        notes.append(
            "released training code pads each of several images to one tile; here each is laid out by AnyRes"
        )
    if card.video is not None and card.video.stride != 2:
        notes.append(
            f"the newest released code pools videos by 2, whatever is set (here {card.video.stride})"
        )
    if siglip and "siglip" not in tower_name:
        notes.append(
            f"released code knows a SigLIP tower by `siglip` in its name, which {tower_name!r} lacks"
        )
    return notes


def tower_name(vision: PreTrainedConfig) -> str | None:
    """The hub id of the released tower with this shape."""
    shape = (vision.model_type, vision.hidden_size, vision.image_size, vision.patch_size)
    for name, row in TOWERS.items():
        if shape == (row.model_type, row.hidden_size, row.image_size, row.patch_size):
            return name
    return None


def _refuse(card: Card, language: PreTrainedConfig, vision: PreTrainedConfig) -> None:
    tower = TOWER_KINDS[vision.model_type]
    image, video, anyres = card.image, card.video, card.image.anyres
    kinds = (tower.frame, "pad", "keep", "anyres", "highres")
    unpad = anyres is not None and anyres.merge == "unpad"
    layers = vision.num_hidden_layers
    faults = {
        f"language model {language.model_type} (it has {', '.join(CLASSES)})": language.model_type
        not in CLASSES,
        "connector.standardize": card.connector.standardize,
        "a reward model": card.grading is not None,
        f"image.kind={image.kind} with this tower": image.kind not in kinds,
        "image.mean and std other than the tower's": (image.mean, image.std) != (tower.mean, tower.std),
        # It cuts SigLIP's last layer off, and takes what then comes last.
        f"tower.layer={card.tower.layer}": tower.cut
        and card.tower.layer % (layers + 1) not in (layers - 1, layers),
    }
    if anyres is not None:
        faults |= {
            f"anyres.base={anyres.base} with merge={anyres.merge}": anyres.base == "pad"
            or (anyres.base == "none" and anyres.merge == "flat"),
            "anyres.max_tokens (the blog's rule)": anyres.max_tokens is not None,
        }
    if video is not None:
        faults |= {
            f"video.kind={video.kind} with this tower": video.kind != tower.frame,
            f"video.newline={video.newline} without anyres.merge=unpad": video.newline != "no_token"
            and not unpad,
            f"video.newline={video.newline} with pool_first": video.pool_first
            and video.newline != "no_token",
            "video.pool=bilinear with pool_first": video.pool_first and video.pool == "bilinear",
            "video.slow_fast without newline=grid": video.slow_fast is not None and video.newline != "grid",
        }
    for what, wrong in faults.items():
        if wrong:
            raise CheckpointError(
                f"released LLaVA code cannot express {what}; --to llavakit keeps everything"
            )


def _language(language: PreTrainedConfig) -> dict[str, Any]:
    """The language model's settings as versions of `transformers` spelled them that released code runs on."""
    every = as_stored(language.to_dict())
    generic = PreTrainedConfig().to_dict().keys() - set(SHARED)
    rope = classic_rope(every)
    every.pop("rope_parameters", None)
    out = {key: value for key, value in every.items() if key not in generic and key != "layer_types"}
    scaling = rope["rope_scaling"]
    if scaling is not None:  # the oldest versions have another word for its kind
        scaling = {("type" if key == "rope_type" else key): value for key, value in scaling.items()}
    return out | rope | {"rope_scaling": scaling}


def _merge(card: Card) -> str:
    anyres = card.image.anyres
    if anyres is None:
        return "flat"
    words = {"flat": ["flat"], "spatial": ["spatial"], "unpad": ["spatial", "unpad"]}[anyres.merge]
    words += ["maxpool2x2"] * anyres.max_pool + ["nobase"] * (anyres.base == "none")
    return "_".join(words)


def _aspect(card: Card, frame: str) -> str:
    if card.image.kind == frame:
        return "square"  # their word for the tower's own processor, whatever that does
    anyres = card.image.anyres
    if anyres is not None and anyres.max_tiles is not None:
        return f"anyres_max_{anyres.max_tiles}"
    return card.image.kind


def _video(video: VideoConfig) -> dict[str, Any]:
    out: dict[str, Any] = {
        "mm_spatial_pool_mode": video.pool,
        "mm_spatial_pool_stride": video.stride,
        "mm_newline_position": video.newline,
        "mm_resampler_type": "spatial_pool" if video.pool_first else None,
        "frames_upbound": video.max_frames,
        "force_sample": video.uniform,
        "video_fps": video.fps,
        "add_time_instruction": video.time_instruction,
        "add_faster_video": video.slow_fast is not None,
    }
    if video.slow_fast is not None:
        out["faster_token_stride"] = video.slow_fast.every
    return out
