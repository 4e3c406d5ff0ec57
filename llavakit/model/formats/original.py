"""config.json of released LLaVA code (LLaVA, LLaVA-Med, LLaVA-NeXT, OneVision, LLaVA-Video), in our words.

Unknown settings are ignored, as released code did; those that change what the model computes and that we cannot
express are refused with the reason. Nothing is guessed from the directory's name.
"""

from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, PreTrainedConfig

from llavakit.core.errors import CheckpointError, ConfigError, pick
from llavakit.model.formats.hub import locate
from llavakit.model.formats.towers import TOWER_KINDS, TOWERS
from llavakit.vision.anyres import read_pinpoints

DECODERS = {  # the released class, else (stage-1 files kept the language model's class) its model_type
    "LlavaLlamaForCausalLM": "llama", "LlavaMistralForCausalLM": "mistral", "LlavaQwenForCausalLM": "qwen2",
    "llava": "llama", "llava_llama": "llama", "llava_mistral": "mistral", "llava_qwen": "qwen2",
}  # fmt: skip
TYPES = {"llama": "llava_llama", "mistral": "llava_mistral", "qwen2": "llava_qwen"}  # model_type by decoder
SENSIBLE = {  # templates that released models with this decoder were trained with
    "llama": "vicuna_v1 (LLaVA-1.5, NeXT), llava_v1 or v0 (LLaVA, LLaVA-Med), llava_llama_2, llava_llama_3, "
    "chatml_direct (34B)",
    "mistral": "mistral_instruct (NeXT, LLaVA-Med 1.5)",
    "qwen2": "qwen_1_5 (NeXT, OneVision, LLaVA-Video), qwen_2_5",
}
PROJECTORS = {"linear": "linear", "mlp2x_gelu": "mlp"}
MERGES: dict[str, dict[str, Any]] = {
    "flat": {"merge": "flat"}, "spatial": {"merge": "spatial"}, "unpad": {"merge": "unpad"},
    "maxpool2x2": {"max_pool": True}, "nobase": {"base": "none"},
}  # fmt: skip


def is_original(config: dict[str, Any]) -> bool:
    """Whether a config.json was written by released LLaVA code: it names the tower, and has no parts."""
    return "mm_vision_tower" in config and not {"llavakit", "text_config"} & config.keys()


def decoder_kind(config: dict[str, Any], where: str) -> str:
    """The `transformers` model_type of the language model."""
    names = [*(config.get("architectures") or []), str(config.get("model_type"))]
    for name in names:
        if name in DECODERS:
            return DECODERS[name]
    raise CheckpointError(
        f"{where}: {names[0]} is not a LLaVA that llavakit reads (its decoders: llama, mistral, qwen2)"
    )


def need_template(config: dict[str, Any], where: str) -> CheckpointError:
    """The error of an original directory for which no template was named."""
    kind = decoder_kind(config, where)
    return CheckpointError(
        f"{where}: an original LLaVA directory does not say which prompt template it was trained with; "
        f"name one (--template, in a run model.template; all: llavakit models --templates): {SENSIBLE[kind]}"
    )


def text_settings(config: dict[str, Any], where: str) -> dict[str, Any]:
    """The language model's own settings, complete, with its model_type."""
    kind = decoder_kind(config, where)
    known = AutoConfig.for_model(kind).to_dict().keys() | {"rope_theta", "rope_scaling"}
    known -= PreTrainedConfig().to_dict().keys()
    given = {
        key: value
        for key, value in config.items()
        if key in known and (value is not None or _means_null(kind, key))
    }
    try:
        settings: dict[str, Any] = AutoConfig.for_model(kind, **given).to_dict()
    except (StrictDataclassError, ValueError, TypeError) as error:
        raise CheckpointError(f"{where}: {' '.join(str(error).split())}") from None
    return settings


def _means_null(kind: str, key: str) -> bool:
    """Whether null is a value of its own for this key (no window), not another word for the class's default."""
    try:
        return AutoConfig.for_model(kind, **{key: None}).to_dict().get(key, key) is None
    except (StrictDataclassError, ValueError, TypeError):
        return False


def vision_settings(config: dict[str, Any], where: str, tower: str | None = None) -> dict[str, Any]:
    """The tower's own settings as its checkpoint has them, from a directory, the released ones, or the hub."""
    name = tower or config.get("mm_vision_tower")
    if not isinstance(name, str):
        raise CheckpointError(
            f"{where}: mm_vision_tower={name!r} names no vision tower; name one with --tower of `llavakit convert`"
        )
    if name in TOWERS and not Path(name).is_dir():
        settings = TOWERS[name].fresh_config()
    else:
        try:
            found = AutoConfig.from_pretrained(locate(name, weights=False))
        except (CheckpointError, OSError, ValueError) as error:
            raise CheckpointError(f"{where}: {_no_tower(name, error)}") from None
        found = found.vision_config if "vision_config" in found.sub_configs else found
        settings = found.to_diff_dict() | {"model_type": found.model_type}
        settings.pop("transformers_version", None)
    if settings["model_type"] not in TOWER_KINDS:
        raise CheckpointError(f"{where}: the vision tower {name!r} is neither CLIP nor SigLIP")
    if TOWER_KINDS[settings["model_type"]].cut:
        layers = AutoConfig.for_model(**settings).num_hidden_layers
        settings |= {"num_hidden_layers": layers - 1, "vision_use_head": False}
    return settings


def tower_folder(config: dict[str, Any], where: str, tower: str | None) -> Path:
    """The directory with the tower's weights; a hub id is fetched (or found in the cache)."""
    name = str(tower or config["mm_vision_tower"])
    try:
        return locate(name)
    except CheckpointError as error:
        raise CheckpointError(
            f"{where}: its weights are without the tower, and {_no_tower(name, error)}"
        ) from None


def _no_tower(name: str, error: Exception) -> str:
    return (
        f"the vision tower {name!r} cannot be read ({str(error).splitlines()[0]}); "
        "name its directory with --tower of `llavakit convert`"
    )


def card_settings(config: dict[str, Any], vision: dict[str, Any], where: str) -> dict[str, Any]:
    """Everything of a Card but its template."""
    _refuse(config, where)
    tower = TOWER_KINDS[vision["model_type"]]
    kind = config.get("mm_projector_type") or "linear"  # the first release had no such setting
    if kind not in PROJECTORS:
        raise CheckpointError(
            f"{where}: mm_projector_type={kind!r} is not supported; llavakit has {', '.join(PROJECTORS)}"
        )
    image = _image(config, vision, where)
    return {
        "tower": {
            "path": str(config["mm_vision_tower"]),
            "layer": -1 if tower.cut else config.get("mm_vision_select_layer", -2),
        },
        "connector": {"kind": PROJECTORS[kind]},
        "image": image,
        "video": _video(config, image, tower.frame, where),
        "im_start_end": bool(config.get("mm_use_im_start_end")),
    }


def _refuse(config: dict[str, Any], where: str) -> None:
    """Settings that change the result and that we cannot express."""
    bad = {
        "mm_vision_select_feature": (None, "patch"),
        "mm_resampler_type": (None, "identity", "spatial_pool"),
        "s2": (None, False),
    }
    for name, fine in bad.items():
        if config.get(name) not in fine:
            known = ", ".join(str(value) for value in fine if value is not None)
            raise CheckpointError(f"{where}: {name}={config[name]!r} is not supported (only {known})")
    pool = config.get("mm_spatial_pool_mode")
    if config.get("mm_resampler_type") == "spatial_pool" and pool not in (None, "average", "max"):
        raise CheckpointError(f"{where}: mm_spatial_pool_mode={pool!r} with mm_resampler_type=spatial_pool is "
                              "not supported (only average, max)")  # fmt: skip


def _image(config: dict[str, Any], vision: dict[str, Any], where: str) -> dict[str, Any]:
    settings = AutoConfig.for_model(**vision)
    tower = TOWER_KINDS[vision["model_type"]]
    size = settings.image_size
    image: dict[str, Any] = {
        "size": size, "grid": size // settings.patch_size, "mean": tower.mean, "std": tower.std
    }  # fmt: skip
    aspect = config.get("image_aspect_ratio") or "square"
    merge = _merge(config, where)
    plain = {"square": tower.frame, "pad": "pad", "keep": "keep"}
    if aspect in plain:
        if merge.get("merge") == "unpad":
            raise CheckpointError(
                f"{where}: image_aspect_ratio={aspect} with mm_patch_merge_type={config['mm_patch_merge_type']} "
                "puts a newline behind every image, which llavakit can only do beside anyres"
            )
        return image | {"kind": plain[aspect]}
    head, mark, number = str(aspect).partition("anyres_max_")
    if mark and not head and number.isdigit() and merge.get("merge") == "unpad" and "max_pool" not in merge:
        merge["max_tiles"] = int(number)  # elsewhere released code ignores the number
    elif aspect not in ("anyres", "highres") and not (mark and not head and number.isdigit()):
        raise CheckpointError(
            f"{where}: image_aspect_ratio={aspect!r} is not supported "
            "(square, pad, keep, anyres, anyres_max_N, highres)"
        )
    try:
        pinpoints = read_pinpoints(config.get("image_grid_pinpoints"), size)
    except ConfigError as error:
        raise CheckpointError(f"{where}: {error}") from None
    return image | {
        "kind": "highres" if aspect == "highres" else "anyres",
        "anyres": {"pinpoints": pinpoints, **merge},
    }


def _merge(config: dict[str, Any], where: str) -> dict[str, Any]:
    """mm_patch_merge_type: words joined by `_`, such as spatial_unpad or spatial_maxpool2x2."""
    text = config.get("mm_patch_merge_type") or "flat"
    merge: dict[str, Any] = {}
    for word in str(text).split("_"):
        meaning: dict[str, Any] = pick(MERGES, word, f"part of mm_patch_merge_type={text!r} in {where}:")
        merge |= meaning
    return merge


def _video(config: dict[str, Any], image: dict[str, Any], frame: str, where: str) -> dict[str, Any] | None:
    """How a video is read; None where the config has no pooling, which released code needs for one."""
    pool_first = config.get("mm_resampler_type") == "spatial_pool"
    pool = config.get("mm_spatial_pool_mode") or ("average" if pool_first else None)
    if pool is None:
        return None
    unpad = image.get("anyres", {}).get("merge") == "unpad"
    # NeXT-Video (resampler) was trained before there were newlines in videos; later code falls back to one.
    newline = config.get("mm_newline_position") or ("no_token" if pool_first else "one_token")
    video = {
        "kind": frame,
        "fps": config.get("video_fps") or 1.0,
        "max_frames": config.get("frames_upbound") or 32,
        "uniform": config.get("force_sample", True),  # released evaluation spreads the frames
        "pool": pool,
        "stride": config.get("mm_spatial_pool_stride") or 2,
        "pool_first": pool_first,
        "newline": newline if unpad else "no_token",  # without unpad there is no such row
        "time_instruction": bool(config.get("add_time_instruction")),
    }
    if config.get("add_faster_video"):
        if video["newline"] != "grid":
            raise CheckpointError(f"{where}: add_faster_video is defined for mm_newline_position=grid only")
        video["slow_fast"] = {"every": config.get("faster_token_stride") or 10}
    return video
