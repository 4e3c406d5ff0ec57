"""Our models in the words of `transformers`: LlavaForConditionalGeneration's config, key names and processor."""

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from llavakit.core.errors import CheckpointError
from llavakit.model.card import Card
from llavakit.model.llava import MARKS, Llava
from llavakit.model.tower import ViTTower
from llavakit.text.tokenizer import IMAGE_TOKEN
from llavakit.version import __version__


def hf_config(model: Llava, card: Card, image_token_id: int) -> dict[str, Any]:
    """config.json. `model_type` is `llava` where their class computes the same, else `llavakit`."""
    language: Any = model.language.config
    config: dict[str, Any] = {
        "model_type": "llavakit",
        "text_config": language.to_diff_dict()
        | {"model_type": language.model_type, "vocab_size": language.vocab_size},
        "tie_word_embeddings": bool(language.tie_word_embeddings),
        "dtype": str(model.language.dtype).removeprefix("torch."),
        "llavakit": {"version": __version__, **card.model_dump(mode="json")},
    }
    tower = _vit(model, card)
    if tower is None:
        return config
    vision = tower.vision.config
    return config | {
        "model_type": "llava",
        "architectures": ["LlavaForConditionalGeneration"],
        "vision_config": vision.to_diff_dict() | {"model_type": vision.model_type},
        "image_token_index": image_token_id,
        "image_seq_length": tower.num_rows,
        "projector_hidden_act": "linear" if card.connector.kind == "linear" else "gelu",
        "multimodal_projector_bias": True,
        "vision_feature_layer": card.tower.layer,
        "vision_feature_select_strategy": _select(tower),
    }


def _vit(model: Llava, card: Card) -> ViTTower | None:
    """The tower, if LlavaForConditionalGeneration can be this model: a ViT, and nothing before the connector."""
    return model.tower if isinstance(model.tower, ViTTower) and not card.connector.standardize else None


def processor_files(model: Llava, card: Card) -> dict[str, dict[str, Any]]:
    """The two files from which AutoProcessor makes a LlavaProcessor with our pixels and token counts."""
    tower = _vit(model, card)
    if tower is None:
        return {}
    image = card.image
    return {
        "preprocessor_config.json": {
            "image_processor_type": "LlavaImageProcessor",
            "processor_class": "LlavaProcessor",
            "do_convert_rgb": True,
            "do_pad": image.kind == "pad",
            "do_resize": True,
            "resample": 3,  # bicubic
            "size": {"shortest_edge": image.size},
            "do_center_crop": True,
            "crop_size": {"height": image.size, "width": image.size},
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": list(image.mean),
            "image_std": list(image.std),
        },
        "processor_config.json": {
            "processor_class": "LlavaProcessor",
            "image_token": IMAGE_TOKEN,
            "patch_size": image.size // image.grid,
            "num_additional_image_tokens": tower.num_cls,
            "vision_feature_select_strategy": _select(tower),
        },
    }


def hf_tensors(model: Llava, card: Card) -> dict[str, Tensor]:
    """All weights under the names of the released hub files, wherever they lie (a sharded one stays sharded)."""
    out: dict[str, Tensor] = {}
    for key, tensor in model.state_dict().items():
        part, _, rest = key.partition(".")
        if part == "tower":
            out["vision_tower.vision_model." + rest.removeprefix("vision.")] = tensor
        elif part == "connector":
            out["multi_modal_projector." + rest] = tensor
        elif part == "newline":
            out[rest] = tensor
        elif not (rest == "lm_head.weight" and model.language.config.tie_word_embeddings):
            out["language_model." + rest] = tensor
    if card.connector.kind == "linear":
        weight = out["multi_modal_projector.linear_1.weight"]
        out["multi_modal_projector.linear_2.weight"] = torch.eye(len(weight), dtype=weight.dtype)
        out["multi_modal_projector.linear_2.bias"] = torch.zeros(len(weight), dtype=weight.dtype)
    return {key: tensor.detach() for key, tensor in out.items()}


def our_tensors(stored: dict[str, Tensor], model: Llava, card: Card) -> dict[str, Tensor]:
    """Stored tensors under our names, from any spelling that `transformers` has written for LLaVA."""
    tensors = {_our_key(key, model.language): tensor for key, tensor in stored.items()}
    if model.language.config.tie_word_embeddings and "language.model.embed_tokens.weight" in tensors:
        tensors.setdefault("language.lm_head.weight", tensors["language.model.embed_tokens.weight"])
    if card.connector.kind == "linear":
        weight = tensors.pop("connector.linear_2.weight", None)
        bias = tensors.pop("connector.linear_2.bias", None)
        if weight is not None and not weight.equal(torch.eye(len(weight), dtype=weight.dtype)):
            raise CheckpointError("connector.kind is linear, but the stored second layer is not an identity")
        if bias is not None and bias.any():
            raise CheckpointError("connector.kind is linear, but the stored second layer has a bias")
    return tensors


def _select(tower: ViTTower) -> str:
    """Their word for what happens to the class row: `default` drops it, `full` keeps all rows."""
    return "full" if tower.num_cls == 0 else "default"


def _our_key(key: str, language: PreTrainedModel) -> str:
    """Our name for a stored tensor, from any spelling that `transformers` has written for LLaVA."""
    direct = key.removeprefix("language_model.")
    if direct != key and direct.partition(".")[0] in dict(language.named_children()):
        return "language." + direct
    key = key.removeprefix("model.")
    if key.startswith("vision_tower."):
        rest = key.removeprefix("vision_tower.").removeprefix("vision_model.")
        return "tower." + (rest if rest.startswith("net.") else "vision." + rest)
    if key.startswith("multi_modal_projector."):
        return "connector." + key.removeprefix("multi_modal_projector.")
    if key in MARKS:
        return "newline." + key
    if key == "lm_head.weight":
        return "language.lm_head.weight"
    return f"language.{language.base_model_prefix}." + key.removeprefix("language_model.")
