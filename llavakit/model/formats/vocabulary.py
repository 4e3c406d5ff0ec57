"""Rows of the embedding tables: added for tokens that `transformers` needs, cut where released code has none."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llavakit.core.errors import CheckpointError
from llavakit.model.formats.weights import Stored, Weights
from llavakit.text.tokenizer import Tokenizer, classic_settings

EMBEDDING = "language.model.embed_tokens.weight"
HEAD = "language.lm_head.weight"
ADDED = ("<image>", "<video>", "<pad>")  # what conversions to transformers put behind the vocabulary
BLOCK = 64  # and the multiple that they round its size up to
TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "tokenizer.model",
    "vocab.json", "merges.txt", "chat_template.jinja", "chat_template.json",
)  # fmt: skip


def grow(weights: Weights, tokens: int, *, block: int = 1) -> Weights:
    """Tables with a row for each of `tokens`, rounded up to a multiple of `block` if any is new.

    A new row is the mean of the old ones. Tables that are large enough stay as they are.
    """
    if EMBEDDING not in weights:
        raise CheckpointError(
            f"no {EMBEDDING} among the weights: the vocabulary of this decoder cannot grow here"
        )
    if weights[EMBEDDING].shape[0] >= tokens:
        return weights
    rows = -(-tokens // block) * block

    def longer(table: Tensor) -> Tensor:
        mean = table.float().mean(dim=0).to(table.dtype)
        return torch.cat([table, mean.expand(rows - len(table), -1)])

    return weights | {
        key: Stored((rows, *weights[key].shape[1:]), weights[key].then(longer).read)
        for key in (EMBEDDING, HEAD)
        if key in weights
    }


def cut(weights: Weights, rows: int) -> Weights:
    """Tables with their first `rows` rows only."""
    return weights | {
        key: Stored((rows, *weights[key].shape[1:]), weights[key].then(lambda table: table[:rows]).read)
        for key in (EMBEDDING, HEAD)
        if key in weights
    }


def put_rows(weights: Weights, ids: list[int], rows: Stored) -> Weights:
    """The embedding with rows `ids` from `rows`: a table of the same size, or these rows alone."""

    def change(table: Tensor) -> Tensor:
        table, new = table.clone(), rows.read()
        table[ids] = (new if len(new) == len(ids) else new[ids]).to(table.dtype)
        return table

    return weights | {EMBEDDING: weights[EMBEDDING].then(change)}


def original_rows(tokenizer: Tokenizer, rows: int) -> int:
    """How many of `rows` the model had before a conversion to `transformers` added to them.

    Conversions add tokens at the end of the vocabulary and round its size up to a multiple of 64. Tables that
    end elsewhere (Qwen's have hundreds of spare rows) were not made that way, and keep all their rows.
    """
    first = first_added(tokenizer)
    rounded = -(-len(tokenizer) // BLOCK) * BLOCK
    return first if first < len(tokenizer) and rows in (rounded, len(tokenizer)) else rows


def first_added(tokenizer: Tokenizer) -> int:
    """The id from which on only tokens of ADDED follow; the size of the vocabulary if it ends otherwise."""
    end = len(tokenizer)
    while end > 0 and tokenizer.tokens([end - 1])[0] in ADDED:
        end -= 1
    return end


def copy_tokenizer(source: Path, target: Path, *, size: int | None = None) -> None:
    """The tokenizer's files; with `size`, without tokens whose id is that or higher."""
    for name in TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)
    if size is not None:
        for name, edit in EDITS.items():
            if (target / name).is_file():
                content = json.loads((target / name).read_text(encoding="utf-8"))
                text = json.dumps(edit(content, size), ensure_ascii=False, indent=2)
                (target / name).write_text(text + "\n", encoding="utf-8")


def _cut_backend(content: dict[str, Any], size: int) -> dict[str, Any]:
    return content | {"added_tokens": [token for token in content["added_tokens"] if token["id"] < size]}


def _cut_added(content: dict[str, Any], size: int) -> dict[str, Any]:
    return {token: number for token, number in content.items() if number < size}


def _cut_settings(content: dict[str, Any], size: int) -> dict[str, Any]:
    """Without every mention of the tokens of ADDED: in lists of further special tokens, or as pad_token."""
    kept: dict[str, Any] = {}
    for key, value in content.items():
        if key == "added_tokens_decoder":
            value = {number: token for number, token in value.items() if int(number) < size}
        elif isinstance(value, list):
            value = [token for token in value if _text(token) not in ADDED]
        elif _text(value) in ADDED:
            continue
        kept[key] = value
    return classic_settings(kept)


def _text(token: Any) -> Any:
    return token.get("content") if isinstance(token, dict) else token if isinstance(token, str) else None


EDITS = {
    "tokenizer.json": _cut_backend, "added_tokens.json": _cut_added,
    "tokenizer_config.json": _cut_settings, "special_tokens_map.json": _cut_settings,
}  # fmt: skip
