"""LoRA adapters through `peft`, on the decoder and only where asked on the tower.

An adapter directory holds what a run learned and no more: `peft`'s own two files for the decoder (`tower/` has
two more where the tower has adapters), connector and newline rows, settings and tokenizer. It names the checkpoint
it belongs to, and is worth nothing without it. QLoRA is the same on a decoder that was loaded in four bits
(placement.py).
"""

import hashlib
import json
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from llavakit.core.config import make
from llavakit.core.errors import CheckpointError, ConfigError, nearest
from llavakit.model.formats.hub import fetch, hub_id_of, is_hub_id
from llavakit.model.formats.weights import open_file, read_all
from llavakit.model.llava import Llava, Newline, Score
from llavakit.model.rounding import add_fairly
from llavakit.model.settings import LoraSettings
from llavakit.model.tower import ViTTower

SECTION = "llavakit_adapter"  # of config.json: says that the directory holds adapters, and of what
WEIGHTS, PARTS_FILE = "adapter_model.safetensors", "connector.safetensors"
CONFIG = "adapter_config.json"  # peft's
TOWER_FOLDER = "tower"  # has the two files of peft for the tower, where it has adapters
FIRST = "default"  # peft's name for the adapters that a part had first
PEFT_PREFIX = "base_model.model."  # what peft puts before every name in an adapter file
CARRIED = ("connector", "newline", "score")  # parts that lie in PARTS_FILE as they are
SAMPLE = 65536  # bytes read at each end of a weight file to tell one base from another


@dataclass(frozen=True)
class Adapter:
    """Adapters, and the checkpoint whose weights they are added to."""

    lora: LoraSettings
    base: Path


def add_adapters(model: Llava, lora: LoraSettings) -> None:
    """Put fresh adapters into the decoder (and the tower, if asked): at first they change nothing.

    Never into the output head, the connector, or a tower that nobody asked for: peft matches layers by the last
    word of their names, which towers and decoders share, so it is only ever shown one part.
    """
    peft = _peft()
    head = next(
        name for name, m in model.language.named_modules() if m is model.language.get_output_embeddings()
    )
    config = peft.LoraConfig(
        target_modules=_targets(model.language.get_decoder(), lora.targets),
        exclude_modules=[head],
        **_shape(lora),
    )
    with torch.random.fork_rng(devices=[]):
        peft.inject_adapter_in_model(config, model.language)
    if lora.tower:
        tower = _vit(model)
        # Layers behind the features are never computed, so adapters there would never learn.
        config = peft.LoraConfig(
            target_modules=_targets(tower.vision.encoder, ()),
            layers_to_transform=list(range(tower.num_layers)),
            layers_pattern="layers",
            **_shape(lora),
        )
        with torch.random.fork_rng(devices=[]):
            peft.inject_adapter_in_model(config, tower.vision)
    for name in lora.parts:
        _draw(model.part(name))
        for parameter in adapter_parameters(model.part(name)).values():
            parameter.data = parameter.data.float()  # the base may be bf16, but what learns is float32


def _draw(part: nn.Module) -> None:
    """Fresh adapters' first numbers, the same whether the weights beside them have been read already or not.

    Beside weights without memory peft leaves adapters without memory; where everything is without, they stay so.
    """
    for _, layer in _layers(part):
        for tables in (layer.lora_A, layer.lora_B):
            if any(parameter.is_meta for parameter in tables.parameters()):
                tables.to_empty(device=torch.get_default_device())
        layer.reset_lora_parameters(FIRST, True)


def add_second_adapter(part: nn.Module, name: str) -> None:
    """Further adapters on the layers of a part that have some, of the same shape: at first they change nothing.

    Those that were there stay the ones in use.
    """
    peft = _peft()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that there are some already, which is what is wanted
        peft.inject_adapter_in_model(copy(vars(part)["peft_config"][FIRST]), part, adapter_name=name)
    for parameter in adapter_parameters(part, name).values():
        parameter.data = parameter.data.float()
        parameter.requires_grad_(True)
    use_adapter(part, FIRST)


def adapter_names(part: nn.Module) -> list[str]:
    """What the adapters of a part are called, in the order in which they came."""
    return list(vars(part)["peft_config"])


def use_adapter(part: nn.Module, name: str) -> None:
    """Compute with these adapters from now on. All keep learning that do: peft would freeze the others."""
    learning = [parameter.requires_grad for parameter in part.parameters()]
    for _, layer in _layers(part):
        layer.set_adapter(name)
    for parameter, learns in zip(part.parameters(), learning, strict=True):
        parameter.requires_grad_(learns)


@contextmanager
def without_adapters(part: nn.Module) -> Iterator[None]:
    """Compute with the part's own weights alone while the block runs. All keep learning that do."""
    learning = [parameter.requires_grad for parameter in part.parameters()]
    layers = [layer for _, layer in _layers(part)]
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)
        for parameter, learns in zip(part.parameters(), learning, strict=True):
            parameter.requires_grad_(learns)


def fresh_adapters(part: nn.Module) -> dict[str, nn.Parameter]:
    """The adapters' weights by name if they change nothing yet; none where they do, or where there are none."""
    if any(layer.lora_B[FIRST].weight.any() for _, layer in _layers(part)):
        return {}
    return adapter_parameters(part)


def adapter_parameters(part: nn.Module, adapter: str = FIRST) -> dict[str, nn.Parameter]:
    """The adapters' own weights in a part, by name; empty where it has none."""
    return {
        f"{name}.{key}": parameter
        for name, layer in _layers(part)
        for key, parameter in layer.named_parameters()
        if not key.startswith("base_layer.") and key.split(".")[-2] == adapter
    }


def merged_weights(part: nn.Module, gather: Callable[[Tensor], Tensor]) -> Iterator[tuple[str, Tensor]]:
    """The part's weights by their names without adapters, what the adapters add included.

    `gather` puts a sharded tensor together. One tensor is made at a time, in the type of the base's.
    """
    layers = dict(_layers(part))
    adapted = {f"{name}.{key}" for name, layer in layers.items() for key in layer.state_dict()}
    for key, tensor in part.state_dict().items():
        if key not in adapted:
            yield key, gather(tensor)
    for name, layer in layers.items():
        for key, tensor in layer.base_layer.state_dict().items():
            whole = gather(tensor)
            if key == "weight":
                down, up = (gather(each[FIRST].weight) for each in (layer.lora_A, layer.lora_B))
                whole = add_fairly(whole, layer.scaling[FIRST] * (up @ down))
            yield f"{name}.{key}", whole


def plain_name(name: str) -> str:
    """The name of a weight in a model without adapters."""
    return name.replace(".base_layer.", ".")


def learn_adapters_only(part: nn.Module) -> None:
    """Freeze the part's own weights and let its adapters learn."""
    part.requires_grad_(False)
    for parameter in adapter_parameters(part).values():
        parameter.requires_grad_(True)


def adapter_config(adapter: Adapter, folder: Path) -> dict[str, Any]:
    """What config.json of an adapter directory has beside the settings of the model itself."""
    return {
        "model_type": "llavakit",  # no class of transformers would find the connector
        "architectures": [],
        SECTION: {
            "base": hub_id_of(adapter.base.resolve()) or str(adapter.base.resolve()),
            "base_from_here": os.path.relpath(adapter.base.resolve(), folder.resolve()),
            "fingerprint": fingerprint(adapter.base),
            "lora": adapter.lora.model_dump(mode="json"),
        },
    }


def adapter_tensors(model: Llava, adapter: Adapter) -> dict[str, dict[str, Tensor]]:
    """The weights of an adapter directory by file, wherever they lie (those of a sharded model stay sharded)."""
    files = {
        str(Path(folder) / WEIGHTS): {
            PEFT_PREFIX + _stored(name): parameter.detach()
            for name, parameter in adapter_parameters(part).items()
        }
        for folder, part in _peft_parts(model, adapter.lora).items()
    }
    files[PARTS_FILE] = {
        f"{part}.{key}": tensor.detach()
        for part in CARRIED
        for key, tensor in model.part(part).state_dict().items()
    }
    return files


def write_adapter(model: Llava, adapter: Adapter, files: dict[str, dict[str, Tensor]], folder: Path) -> None:
    """Everything of an adapter directory but settings and tokenizer; `files` are its adapter_tensors, whole."""
    for name, part in _peft_parts(model, adapter.lora).items():
        (folder / name).mkdir(exist_ok=True)
        _write_peft_config(part, adapter, folder / name)
    for file, tensors in files.items():
        here = {key: tensor.cpu().contiguous() for key, tensor in tensors.items()}
        save_file(here, folder / file, metadata={"format": "pt"})


def write_foreign_adapter(folder: Path, target: Path) -> None:
    """The decoder's adapters of an adapter directory as vLLM loads them onto the whole model: peft's two files."""
    target.mkdir()
    tensors = {
        f"{PEFT_PREFIX}language_model.{key.removeprefix(PEFT_PREFIX)}": tensor
        for key, tensor in _load(folder / WEIGHTS).items()
    }
    save_file(tensors, target / WEIGHTS, metadata={"format": "pt"})
    settings = json.loads((folder / CONFIG).read_text())
    settings.pop("exclude_modules", None)  # names of modules of the decoder alone
    (target / CONFIG).write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n")


def read_adapter(config: dict[str, Any], folder: Path) -> Adapter | None:
    """The adapter that a config.json speaks of, its base found and checked; None for an ordinary checkpoint."""
    if SECTION not in config:
        return None
    section = config[SECTION]
    lora = make(LoraSettings, section["lora"], where=f"{folder}/config.json: {SECTION}.lora")
    places = (Path(section["base"]), folder / section["base_from_here"])
    base = next((place for place in places if (place / "config.json").is_file()), None)
    if base is None and is_hub_id(section["base"]):
        base = fetch(section["base"])
    if base is None:
        raise CheckpointError(
            f"{folder}: holds adapters for {places[0]}, which is not there; put it back, "
            f"or write where it is into 'base' in {folder}/config.json"
        )
    if fingerprint(base) != section["fingerprint"]:
        raise CheckpointError(
            f"{folder}: holds adapters for {base}, but the weights there are not those it was trained on"
        )
    return Adapter(lora, base)


def load_adapter(
    model: Llava, adapter: Adapter, folder: Path, newline: Newline, score: Score, *, dtype: torch.dtype | None
) -> None:
    """Put the adapters of a directory on the base's model, and what else it carries in place.

    `newline` and `score` are what the model has of them, to be filled. All is brought to `dtype` if it is given.
    """
    add_adapters(model, adapter.lora)
    for place, layers in _peft_parts(model, adapter.lora).items():
        _fill(layers, folder / place / WEIGHTS)
    model.newline, model.score = newline, score
    for part in CARRIED:
        mine = read_carried(folder, part)
        module = model.part(part)
        _check(folder / PARTS_FILE, module.state_dict(), mine)
        module.load_state_dict(mine, assign=True)
        module.to(device=model.device, dtype=dtype)


def fingerprint(folder: Path) -> str:
    """A name for a checkpoint's weights, from the sizes and both ends of its files: milliseconds for gigabytes."""
    seen = hashlib.sha256()
    for path in sorted([*folder.glob("*.safetensors"), *folder.glob("*.bin")]):
        size = path.stat().st_size
        seen.update(f"{path.name} {size}\n".encode())
        with path.open("rb") as file:
            seen.update(file.read(SAMPLE))
            file.seek(max(0, size - SAMPLE))
            seen.update(file.read(SAMPLE))
    return seen.hexdigest()


def _peft_parts(model: Llava, lora: LoraSettings) -> dict[str, nn.Module]:
    """Folder in an adapter directory -> the module that peft knows."""
    parts: dict[str, nn.Module] = {"": model.language}
    if lora.tower:
        parts[TOWER_FOLDER] = _vit(model).vision
    return parts


def _vit(model: Llava) -> ViTTower:
    if not isinstance(model.tower, ViTTower):
        raise ConfigError("model.lora.tower=true needs a CLIP or SigLIP tower; this one is convolutional")
    return model.tower


def _write_peft_config(part: nn.Module, adapter: Adapter, folder: Path) -> None:
    config = vars(part)["peft_config"][FIRST]  # put there by peft, whose classes do not declare it
    config.base_model_name_or_path = hub_id_of(adapter.base.resolve()) or str(adapter.base)
    config.save_pretrained(folder)
    settings = json.loads((folder / CONFIG).read_text())
    for key in ("target_modules", "exclude_modules"):  # peft keeps them in sets, whose order changes
        settings[key] = sorted(settings[key] or [])
    text = json.dumps(settings | {"inference_mode": True}, indent=2, sort_keys=True)
    (folder / CONFIG).write_text(text + "\n")


def fill_second_adapter(part: nn.Module, name: str, folder: Path) -> None:
    """Give adapters of a decoder the weights of an adapter directory, whose shapes and base must be theirs."""
    _fill(part, folder / WEIGHTS, name)


def read_carried(folder: Path, part: str) -> dict[str, Tensor]:
    """The weights of a part that an adapter directory carries whole, by their names in it."""
    tensors = _load(folder / PARTS_FILE)
    return {key.removeprefix(f"{part}."): each for key, each in tensors.items() if key.startswith(f"{part}.")}


def _fill(part: nn.Module, file: Path, adapter: str = FIRST) -> None:
    mine = {PEFT_PREFIX + _stored(name, adapter): p for name, p in adapter_parameters(part, adapter).items()}
    tensors = _load(file)
    _check(file, mine, tensors)
    with torch.no_grad():
        for name, parameter in mine.items():
            parameter.copy_(tensors[name])


def _load(file: Path) -> dict[str, Tensor]:
    if not file.is_file():
        raise CheckpointError(f"{file}: not there; an adapter directory is incomplete without it")
    return read_all(open_file(file))


def _check(file: Path, expected: Any, found: dict[str, Tensor]) -> None:
    """One line if names or shapes are not what the model has."""
    missing, unknown = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    other = [key for key in expected.keys() & found.keys() if expected[key].shape != found[key].shape]
    if missing or unknown or other:
        raise CheckpointError(
            f"{file}: does not fit the model: missing {missing[:2]}, unknown {unknown[:2]}, other shape {other[:2]}"
        )


def _stored(name: str, wanted: str = FIRST) -> str:
    """peft leaves its own name of the adapter out of files: `...lora_A.default.weight` -> `...lora_A.weight`."""
    *before, adapter, leaf = name.split(".")
    assert adapter == wanted, name
    return ".".join((*before, leaf))


def _shape(lora: LoraSettings) -> dict[str, Any]:
    return {"r": lora.r, "lora_alpha": lora.alpha, "lora_dropout": lora.dropout, "bias": "none"}


def _targets(part: nn.Module, wanted: tuple[str, ...]) -> list[str]:
    """The last words of the names of the part's linear layers: all, or the wanted ones."""
    found = sorted(
        {name.rpartition(".")[2] for name, module in part.named_modules() if isinstance(module, nn.Linear)}
    )
    for name in wanted:
        if name not in found:
            raise ConfigError(f"model.lora.targets: no linear layer {name!r}{nearest(name, found)}")
    return list(wanted) or found


def _layers(part: nn.Module) -> Iterator[tuple[str, Any]]:
    from peft.tuners.lora import LoraLayer

    for name, module in part.named_modules():
        if isinstance(module, LoraLayer):
            yield name, module


def _peft() -> Any:
    # Where bitsandbytes is installed, peft imports it, and it warns of kernels that it did not fetch.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    try:
        import peft
    except ImportError:
        raise ConfigError("model.lora needs peft: pip install 'llavakit[lora]'") from None
    return peft
