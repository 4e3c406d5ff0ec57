"""Writing a table of stored tensors as safetensors shards, one shard in memory at a time."""

import json
from contextlib import nullcontext
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from llavakit.core.progress import bar
from llavakit.model.formats.weights import Weights

SHARD_BYTES = 5 * 10**9
INDEX = "model.safetensors.index.json"


def write_shards(
    weights: Weights, folder: Path, shard_bytes: int = SHARD_BYTES, *, title: str | None = None
) -> None:
    """`weights` into files of at most `shard_bytes` (a larger tensor gets one of its own), then the index.

    A single file is called model.safetensors and needs no index. A bar is shown under `title`.
    """
    drafts: list[list[str]] = []
    shard: dict[str, Tensor] = {}
    held = total = 0
    with nullcontext() if title is None else bar(title, len(weights)) as shown:
        for key, stored in weights.items():
            tensor = stored.read().contiguous()
            size = tensor.numel() * tensor.element_size()
            if shard and held + size > shard_bytes:
                _flush(shard, folder, drafts)
                held = 0
            shard[key] = tensor
            del tensor
            held += size
            total += size
            if shown is not None:
                shown.advance(note=f"{total / 1e9:.2f} GB")
        _flush(shard, folder, drafts)
    names = [_final(number, len(drafts)) for number in range(1, len(drafts) + 1)]
    for number, name in enumerate(names):
        (folder / _draft(number)).rename(folder / name)
    if len(drafts) > 1:
        where = {key: name for keys, name in zip(drafts, names, strict=True) for key in keys}
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(where.items()))}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")


def _flush(shard: dict[str, Tensor], folder: Path, drafts: list[list[str]]) -> None:
    save_file(shard, folder / _draft(len(drafts)), metadata={"format": "pt"})
    drafts.append(list(shard))
    shard.clear()


def _draft(number: int) -> str:
    """The name until the number of shards is known."""
    return f"shard-{number}.safetensors"


def _final(number: int, count: int) -> str:
    return "model.safetensors" if count == 1 else f"model-{number:05}-of-{count:05}.safetensors"
