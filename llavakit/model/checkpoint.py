"""The directory a model lives in: a `transformers` model directory with a `llavakit` section in its config.json.

Where a Hugging Face class can express the model (a CLIP or SigLIP tower), config and key names are those of
`LlavaForConditionalGeneration`, in the spelling of the released hub files, which every version reads. A linear
connector is written as its exact equal in that class: an identity second layer with a linear activation. A
convolutional tower (or a standardizing connector) has no such class: the directory then says model_type
`llavakit` and loads only here.
Weights are safetensors only.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import save_torch_state_dict
from pydantic import Field
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.initialization import no_init_weights

from llavakit.core.config import Config, make
from llavakit.core.errors import CheckpointError, ConfigError
from llavakit.core.files import atomic_directory
from llavakit.model.connector import ConnectorConfig, build_connector, match_scale
from llavakit.model.convert.gguf import read_gguf
from llavakit.model.llava import Llava
from llavakit.model.tower import TowerConfig, ViTTower, empty_tower, load_tower
from llavakit.text.templates import template
from llavakit.text.tokenizer import Tokenizer
from llavakit.version import __version__
from llavakit.vision.plan import ImageConfig

LATEST = "latest"  # a text file in a run directory that names the newest checkpoint beside it
HF_SELECT = {False: "default", True: "full"}  # Hugging Face's words for dropping and keeping the class row
VISION_DEFAULTS = {"model_type": "clip_vision_model"}


class Card(Config):
    """What must be the same wherever the weights are used. The `llavakit` section of config.json."""

    tower: TowerConfig = TowerConfig()
    connector: ConnectorConfig = ConnectorConfig()
    image: ImageConfig = ImageConfig()
    template: str = "vicuna_v1"


class LanguageConfig(Config):
    """The decoder: any causal language model of `transformers`, by directory or hub id, or a GGUF file."""

    path: str = "lmsys/vicuna-7b-v1.5"
    gguf: Path | None = None


class ModelConfig(Config):
    """Where a run's model comes from: `start` (a checkpoint), or fresh parts joined by a new connector.

    What is left out is taken from `start`, else from Card's defaults. Template and image rule may differ from
    the start's (stages do); tower and connector may not.
    """

    start: Path | None = None
    language: LanguageConfig = Field(default_factory=LanguageConfig)
    tower: TowerConfig | None = None
    connector: ConnectorConfig | None = None
    image: ImageConfig | None = None
    template: str | None = None

    def card(self) -> Card:
        """The complete card; reads the start's config.json where something is left out."""
        chosen = {
            "tower": self.tower, "connector": self.connector, "image": self.image, "template": self.template
        }  # fmt: skip
        given = {name: value for name, value in chosen.items() if value is not None}
        if len(given) == len(chosen) or self.start is None:
            return Card(**given)
        return load_card(self.start).model_copy(update=given)


@dataclass
class Checkpoint:
    """A model with all that is needed to speak to it."""

    model: Llava
    tokenizer: Tokenizer
    card: Card


def build(config: ModelConfig) -> Checkpoint:
    """The model a run starts from. The connector's initialisation uses PyTorch's global seed."""
    card = config.card()
    template(card.template)  # an unknown name should fail before gigabytes are read
    if config.start is not None:
        started = load(config.start)
        for name in ("tower", "connector"):
            mine, theirs = card.model_dump()[name], started.card.model_dump()[name]
            if mine != theirs:
                raise ConfigError(f"model.{name} is {mine}, but {config.start} has {theirs}")
        return Checkpoint(started.model, started.tokenizer, card)
    language, tokenizer = load_language(config.language)
    tower = load_tower(card.tower, card.image)
    connector = build_connector(card.connector, tower.width, language.config.hidden_size)
    if card.connector.match_embeddings:
        match_scale(connector, float(_tables(language)[0].weight.detach().std()), tower.width)
    return Checkpoint(Llava(tower, connector, language), tokenizer, card)


def load_language(config: LanguageConfig) -> tuple[PreTrainedModel, Tokenizer]:
    """Decoder and tokenizer, with `<image>` in the vocabulary (other programs need an id for image slots)."""
    if config.gguf is not None:
        if not config.gguf.is_file():
            raise ConfigError(f"model.language.gguf={config.gguf}: no such file")
        language: PreTrainedModel = read_gguf(config.gguf)
        tokenizer = Tokenizer.load(config.gguf.parent, gguf_file=config.gguf.name)
    else:
        try:
            language = AutoModelForCausalLM.from_pretrained(config.path, dtype=torch.float32)
        except (OSError, ValueError) as error:
            raise ConfigError(f"model.language.path={config.path!r}: {_first_line(error)}") from None
        tokenizer = Tokenizer.load(config.path)
    old = len(_tables(language)[0].weight)
    if tokenizer.image_token_id >= old:
        language.resize_token_embeddings(len(tokenizer), pad_to_multiple_of=64, mean_resizing=False)
        with torch.no_grad():
            for table in _tables(language):
                table.weight[old:] = table.weight[:old].mean(dim=0)
    return language, tokenizer


def _tables(language: PreTrainedModel) -> list[Any]:
    """Input and output embeddings: one and the same module's weight where they are tied."""
    return [language.get_input_embeddings(), language.get_output_embeddings()]


def save(checkpoint: Checkpoint, path: Path) -> None:
    """Write the directory, all or nothing."""
    with atomic_directory(path) as draft:
        write(checkpoint, draft)


def write(checkpoint: Checkpoint, folder: Path) -> None:
    """Write model, settings and tokenizer into an existing folder."""
    tensors = {key: tensor.detach().cpu() for key, tensor in _hf_tensors(checkpoint).items()}
    config = _hf_config(checkpoint)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    stops = sorted(checkpoint.tokenizer.stop_ids(template(checkpoint.card.template)))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": stops}, indent=2) + "\n")
    checkpoint.tokenizer.hf.save_pretrained(folder)
    save_torch_state_dict(tensors, folder, metadata={"format": "pt"})


def resolve(path: Path) -> Path:
    """The directory with the weights: `path` itself, or what the run directory's `latest` file names."""
    for _ in range(4):
        if (path / "config.json").is_file():
            return path
        pointer = path / LATEST
        if not pointer.is_file():
            break
        path = path / pointer.read_text().strip()
    what = "is not a checkpoint (no config.json and no 'latest' file)" if path.exists() else "does not exist"
    raise CheckpointError(f"{path} {what}")


def load(path: Path, *, template_name: str | None = None, dtype: torch.dtype | None = None) -> Checkpoint:
    """A checkpoint written by `save`, or a Hugging Face LLaVA directory (then `template_name` is needed to talk).

    Weights keep the type they are stored in unless `dtype` says otherwise.
    """
    folder = resolve(path)
    config = _read_json(folder / "config.json")
    card = load_card(folder, template_name)
    with no_init_weights():
        settings = dict(config["text_config"])
        language = AutoModelForCausalLM.from_config(
            AutoConfig.for_model(settings.pop("model_type"), **settings)
        )
    vision = {**VISION_DEFAULTS, **config["vision_config"]} if "vision_config" in config else None
    tower = empty_tower(card.tower, card.image, vision)
    connector = build_connector(card.connector, tower.width, language.config.hidden_size)
    model = Llava(tower, connector, language)
    _fill(model, _read_tensors(folder), folder)
    return Checkpoint(
        model if dtype is None else model.to(dtype), Tokenizer.load(folder, ours="llavakit" in config), card
    )


def _fill(model: Llava, stored: dict[str, Tensor], folder: Path) -> None:
    """Move stored tensors into the model; a missing, unknown or misshaped one is one clear line."""
    tensors = {_our_key(key, model.language): tensor for key, tensor in stored.items()}
    if model.language.config.tie_word_embeddings:
        tensors.setdefault("language.lm_head.weight", tensors["language.model.embed_tokens.weight"])
    if "linear_2" not in dict(model.connector.named_children()):
        _drop_identity(tensors, folder)
    expected = model.state_dict()
    missing, unknown = sorted(expected.keys() - tensors.keys()), sorted(tensors.keys() - expected.keys())
    if missing or unknown:
        raise CheckpointError(
            f"{folder}: the weights do not fit config.json: {len(missing)} missing {missing[:2]}, "
            f"{len(unknown)} unknown {unknown[:2]}"
        )
    for key, tensor in tensors.items():
        if tensor.shape != expected[key].shape:
            shapes = f"{list(tensor.shape)} in the file, {list(expected[key].shape)} by config.json"
            raise CheckpointError(f"{folder}: {key} is {shapes}")
    model.load_state_dict(tensors, assign=True)
    model.language.tie_weights()


def _drop_identity(tensors: dict[str, Tensor], folder: Path) -> None:
    """A linear connector is stored with an identity second layer; make sure that it is one, then forget it."""
    weight, bias = (
        tensors.pop("connector.linear_2.weight", None),
        tensors.pop("connector.linear_2.bias", None),
    )
    if weight is not None and (not weight.equal(torch.eye(len(weight), dtype=weight.dtype)) or bias.any()):  # type: ignore[union-attr]
        raise CheckpointError(f"{folder}: connector.kind is linear but the second layer is not an identity")


def _hf_tensors(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """All weights under the names of the released hub files."""
    out: dict[str, Tensor] = {}
    for key, tensor in checkpoint.model.state_dict().items():
        part, _, rest = key.partition(".")
        if part == "tower":
            out["vision_tower.vision_model." + rest.removeprefix("vision.")] = tensor
        elif part == "connector":
            out["multi_modal_projector." + rest] = tensor
        elif not (rest == "lm_head.weight" and checkpoint.model.language.config.tie_word_embeddings):
            out["language_model." + rest] = tensor
    if checkpoint.card.connector.kind == "linear":
        weight = out["multi_modal_projector.linear_1.weight"]
        out["multi_modal_projector.linear_2.weight"] = torch.eye(len(weight), dtype=weight.dtype)
        out["multi_modal_projector.linear_2.bias"] = torch.zeros(len(weight), dtype=weight.dtype)
    return out


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
    if key == "lm_head.weight":
        return "language.lm_head.weight"
    return f"language.{language.base_model_prefix}." + key.removeprefix("language_model.")


def _hf_config(checkpoint: Checkpoint) -> dict[str, Any]:
    card, model = checkpoint.card, checkpoint.model
    text = model.language.config.to_diff_dict() | {"model_type": model.language.config.model_type}
    text["vocab_size"] = model.language.config.vocab_size
    config: dict[str, Any] = {
        "model_type": "llavakit",
        "text_config": text,
        "tie_word_embeddings": bool(model.language.config.tie_word_embeddings),
        "dtype": str(model.language.dtype).removeprefix("torch."),
        "llavakit": {"version": __version__, **card.model_dump(mode="json")},
    }
    if isinstance(model.tower, ViTTower) and not card.connector.standardize:
        config |= {
            "model_type": "llava",
            "architectures": ["LlavaForConditionalGeneration"],
            "vision_config": model.tower.vision.config.to_diff_dict()
            | {"model_type": model.tower.vision.config.model_type},
            "image_token_index": checkpoint.tokenizer.image_token_id,
            "image_seq_length": model.tower.num_rows,
            "projector_hidden_act": "linear" if card.connector.kind == "linear" else "gelu",
            "multimodal_projector_bias": True,
            "vision_feature_layer": card.tower.layer,
            "vision_feature_select_strategy": HF_SELECT[card.tower.cls or model.tower.num_cls == 0],
        }
    return config


def load_card(path: Path, template_name: str | None = None) -> Card:
    """The llavakit section; for a plain Hugging Face directory, what its config says in other words."""
    folder = resolve(path)
    config = _read_json(folder / "config.json")
    chosen = {} if template_name is None else {"template": template_name}
    if "llavakit" in config:
        section = {key: value for key, value in config["llavakit"].items() if key != "version"} | chosen
        return make(Card, section, where=f"{folder}/config.json: llavakit")
    if config.get("model_type") != "llava":
        raise CheckpointError(
            f"{folder}: model_type {config.get('model_type')!r} is not a LLaVA that llavakit reads"
        )
    if template_name is None:
        raise CheckpointError(
            f"{folder}: a Hugging Face directory does not say which prompt template it was trained with; name one"
        )
    vision = AutoConfig.for_model(**{**VISION_DEFAULTS, **config["vision_config"]})
    processor = folder / "preprocessor_config.json"
    pixels = _read_json(processor) if processor.is_file() else {}
    image = {
        "kind": "pad" if pixels.get("do_pad") else "square",
        "size": vision.image_size,
        "grid": vision.image_size // vision.patch_size,
        "mean": pixels.get("image_mean", ImageConfig().mean),
        "std": pixels.get("image_std", ImageConfig().std),
    }
    full = config.get("vision_feature_select_strategy", "default") == "full"
    tower = {
        "layer": config.get("vision_feature_layer", -2),
        "cls": full and vision.model_type == "clip_vision_model",
    }
    return make(Card, {"tower": tower, "image": image, **chosen}, where=f"{folder}/config.json")


def _read_tensors(folder: Path) -> dict[str, Tensor]:
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise CheckpointError(f"{folder}: no .safetensors file")
    tensors: dict[str, Tensor] = {}
    for file in files:
        tensors |= load_file(file)
    return tensors


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{path}: cannot be read: {_first_line(error)}") from None
    if not isinstance(found, dict):
        raise CheckpointError(f"{path}: not a JSON object")
    return found


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
