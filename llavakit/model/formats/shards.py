"""Writing a table of stored tensors as safetensors shards, one tensor in memory at a time.

A safetensors file begins with a header that says where each tensor lies, which is known when the last one is read.
So room is left for it: the format allows blanks behind the header's text.
"""

import json
from contextlib import nullcontext
from pathlib import Path
from typing import IO

import torch
from torch import Tensor

from llavakit.core.progress import bar
from llavakit.model.formats.weights import Weights

SHARD_BYTES = 5 * 10**9
INDEX = "model.safetensors.index.json"
ALIGNED = 8  # bytes: every number begins at a multiple of its size if large tensors end at a multiple of this
DTYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8",
    torch.bool: "BOOL", torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2",
}  # fmt: skip


def write_shards(
    weights: Weights, folder: Path, shard_bytes: int = SHARD_BYTES, *, title: str | None = None
) -> None:
    """`weights` into files of at most `shard_bytes` (a larger tensor gets one of its own), then the index.

    A single file is called model.safetensors and needs no index. A bar is shown under `title`.
    """
    drafts: list[list[str]] = []
    total = 0
    room = _room_for_header(weights)
    shard = _Shard(folder / _draft(0), room)
    with nullcontext() if title is None else bar(title, len(weights)) as shown:
        for key, stored in weights.items():
            tensor = stored.read().cpu().contiguous()
            size = tensor.numel() * tensor.element_size()
            if shard.bytes and shard.bytes + size > shard_bytes:
                drafts.append(shard.end())
                shard = _Shard(folder / _draft(len(drafts)), room)
            shard.add(key, tensor)
            del tensor
            total += size
            if shown is not None:
                shown.advance(note=f"{total / 1e9:.2f} GB")
        drafts.append(shard.end())
    names = [_final(number, len(drafts)) for number in range(1, len(drafts) + 1)]
    for number, name in enumerate(names):
        (folder / _draft(number)).rename(folder / name)
    if len(drafts) > 1:
        where = {key: name for keys, name in zip(drafts, names, strict=True) for key in keys}
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(where.items()))}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")


class _Shard:
    """One file that is being written."""

    def __init__(self, path: Path, room: int) -> None:
        """`room` bytes stay free in front of the tensors, for the header."""
        self.path, self.room = path, room
        self.bytes = 0  # of tensors, those that wait included
        self._written = 0
        self._header: dict[str, object] = {"__metadata__": {"format": "pt"}}
        self._odd: list[tuple[str, Tensor]] = []  # small ones, which would put those behind them out of line
        with path.open("wb") as file:
            file.write(bytes(room))

    def add(self, key: str, tensor: Tensor) -> None:
        """Write a tensor behind the others."""
        size = tensor.numel() * tensor.element_size()
        self.bytes += size
        if size % ALIGNED:
            self._odd.append((key, tensor))
            return
        with self.path.open("ab") as file:
            self._write(file, key, tensor)

    def end(self) -> list[str]:
        """Finish the file; returns the names of its tensors."""
        with self.path.open("ab") as file:
            for key, tensor in sorted(self._odd, key=lambda item: -item[1].element_size()):
                self._write(file, key, tensor)
        text = json.dumps(self._header).encode()
        with self.path.open("r+b") as file:
            file.write((self.room - 8).to_bytes(8, "little") + text.ljust(self.room - 8))
        del self._header["__metadata__"]
        return list(self._header)

    def _write(self, file: IO[bytes], key: str, tensor: Tensor) -> None:
        size = tensor.numel() * tensor.element_size()
        self._header[key] = _entry(DTYPES[tensor.dtype], tuple(tensor.shape), self._written, size)
        if size:
            file.write(tensor.reshape(-1).view(torch.uint8).numpy().data)
        self._written += size


def _entry(dtype: str, shape: tuple[int, ...], start: int, size: int) -> dict[str, object]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, start + size]}


def _room_for_header(weights: Weights) -> int:
    """Bytes that the header needs at most, whichever of these tensors a file will have, and of whatever type."""
    longest = max(DTYPES.values(), key=len)
    most = {key: _entry(longest, stored.shape, 10**15, 10**15) for key, stored in weights.items()}
    return -(-len(json.dumps({"__metadata__": {"format": "pt"}, **most})) // 64) * 64 + 64


def _draft(number: int) -> str:
    """The name until the number of shards is known."""
    return f"shard-{number}.safetensors"


def _final(number: int, count: int) -> str:
    return "model.safetensors" if count == 1 else f"model-{number:05}-of-{count:05}.safetensors"
