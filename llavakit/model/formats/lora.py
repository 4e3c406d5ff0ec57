"""LoRA adapters merged, and delta weights added, tensor by tensor as the model streams by. No peft needed."""

import math
from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from llavakit.core.errors import CheckpointError
from llavakit.core.files import read_json
from llavakit.model.formats.hub import locate
from llavakit.model.formats.keys import from_original
from llavakit.model.formats.vocabulary import EMBEDDING, HEAD
from llavakit.model.formats.weights import Stored, Weights, first_existing, open_file

ADAPTER = "adapter_config.json"
BESIDE = "non_lora_trainables.bin"
NAME_BASE = "use `llavakit convert` and name the language model's directory or hub id with --base"
BROUGHT = ("connector.", "newline.")  # trained beside an adapter of a language model, which has no such part
WRAPPING = ("default", "modules_to_save", "base_layer")  # words that peft puts into names
# Settings of peft that change the merge: what is here is the plain rule; anything else is refused.
PLAIN: dict[str, tuple[object, ...]] = {
    "peft_type": ("LORA",), "fan_in_fan_out": (None, False), "use_dora": (None, False),
    "init_lora_weights": (None, True, False, "gaussian"), "rank_pattern": (None, {}), "alpha_pattern": (None, {}),
    "lora_bias": (None, False),
}  # fmt: skip


def named_base(folder: Path) -> Path:
    """The directory of the model that an adapter names as its base; from the hub, if it is an id."""
    named = read_json(folder / ADAPTER).get("base_model_name_or_path")
    try:
        return locate(str(named))
    except CheckpointError as error:
        raise CheckpointError(f"{folder} is a LoRA adapter of {named}, but {error}; {NAME_BASE}") from None


def merge_lora(
    weights: Weights, folder: Path, rename: Callable[[str], str | None] = from_original
) -> Weights:
    """`weights` (our names) with the adapter in `folder` and the whole tensors that were trained beside it.

    `rename` gives our name for one in the model that peft wrapped.

    W + scale * B A, with scale = alpha / r (alpha / sqrt(r) for rank-stabilised LoRA), computed in float32 and
    stored in W's own type.
    """
    settings = read_json(folder / ADAPTER)
    for name, fine in PLAIN.items():
        if settings.get(name) not in fine:
            raise CheckpointError(f"{folder / ADAPTER}: {name}={settings.get(name)!r} cannot be merged here")
    rank, alpha = settings.get("r"), settings.get("lora_alpha")
    if not isinstance(rank, int) or rank < 1 or not isinstance(alpha, int | float):
        raise CheckpointError(
            f"{folder / ADAPTER}: r={rank!r} and lora_alpha={alpha!r} are no rank and scale"
        )
    scale = alpha / (math.sqrt(rank) if settings.get("use_rslora") else rank)
    file = first_existing(folder, "adapter_model.safetensors", "adapter_model.bin")
    pairs, whole = _split(open_file(file), file, rename)
    beside = folder / BESIDE
    for key, stored in (open_file(beside) if beside.is_file() else {}).items():
        kept = rename(_strip(key))
        if kept is not None:
            whole[kept] = stored
    strange = sorted(name for name in whole if name not in weights and not name.startswith(BROUGHT))
    if strange:
        raise CheckpointError(
            f"{file}: holds {strange[0]}, which the base model does not have{_why(strange[0])}"
        )
    merged = weights | whole
    for name, pair in pairs.items():
        if name not in weights:
            raise CheckpointError(f"{file}: adapts {name}, which the base model does not have{_why(name)}")
        if len(pair) != 2 or pair["lora_A"].shape[0] != rank or pair["lora_B"].shape[1] != rank:
            raise CheckpointError(f"{file}: {name} does not have two matrices of rank {rank}")
        shape = (pair["lora_B"].shape[0], pair["lora_A"].shape[1])
        if shape != weights[name].shape:
            raise CheckpointError(
                f"{file}: the adapter of {name} is for {list(shape)}, the base model has "
                f"{list(weights[name].shape)}; is this the base it was trained on?"
            )
        merged[name] = _low_rank(name, merged[name], pair["lora_A"], pair["lora_B"], scale)
    return merged


def _why(name: str) -> str:
    return " (it is tied to the embeddings, which would change with it)" if name == HEAD else ""


def _low_rank(name: str, base: Stored, down: Stored, up: Stored, scale: float) -> Stored:
    def change(weight: Tensor) -> Tensor:
        total = (weight.float() + scale * (up.read().float() @ down.read().float())).to(weight.dtype)
        if not total.isfinite().all():
            raise CheckpointError(
                f"{name}: base and adapter add up to numbers that {weight.dtype} does not hold"
            )
        return total

    return base.then(change)


def _split(
    adapter: Weights, file: Path, rename: Callable[[str], str | None]
) -> tuple[dict[str, Weights], Weights]:
    """Pairs of low-rank matrices by the weight they change, and tensors that replace a whole weight."""
    pairs: dict[str, Weights] = {}
    whole: Weights = {}
    for key, stored in adapter.items():
        words = [word for word in _strip(key).split(".") if word not in WRAPPING]
        kinds = [word for word in words if word.startswith("lora_")]
        name = rename(".".join(word for word in words if not word.startswith("lora_")))
        if name is None:
            continue
        if not kinds:
            whole[name] = stored
        elif kinds[0] in ("lora_A", "lora_B"):
            pairs.setdefault(name, {})[kinds[0]] = stored
        else:
            raise CheckpointError(f"{file}: {key}: {kinds[0]} cannot be merged here (only lora_A and lora_B)")
    return pairs, whole


def _strip(key: str) -> str:
    """A name without what peft's wrapper put in front: `base_model.model.`, or a doubled `model.`."""
    direct = key.removeprefix("base_model.")
    if direct != key:
        return direct.removeprefix("model.")
    return key.removeprefix("model.") if key.startswith("model.model.") else key


def add_delta(weights: Weights, base: Weights, folder: Path) -> Weights:
    """Released v0 weights are differences to LLaMA: every tensor that the base has is added to.

    Embeddings and head have more rows here than in the base; only the block they share is added.
    """
    absent = sorted(base.keys() - weights.keys())
    if absent or not base:
        raise CheckpointError(f"{folder}: no base of these delta weights: it has {absent[:1]}, they have not")
    return {
        key: _sum(stored, base[key], key, folder) if key in base else stored
        for key, stored in weights.items()
    }


def _sum(delta: Stored, base: Stored, key: str, folder: Path) -> Stored:
    shared = (
        key in (EMBEDDING, HEAD) and base.shape[1:] == delta.shape[1:] and base.shape[0] <= delta.shape[0]
    )
    if not shared and base.shape != delta.shape:
        raise CheckpointError(
            f"{folder}: {key} is {list(base.shape)} there, {list(delta.shape)} in the delta"
        )

    def change(tensor: Tensor) -> Tensor:
        total = tensor.float()
        total = total.clone() if total is tensor else total  # what was read may be mapped from the file
        total[: base.shape[0]] += base.read().float()
        return total.to(tensor.dtype)

    return delta.then(change)
