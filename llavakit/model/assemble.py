"""A model out of an original LLaVA directory and what it needs beside it: base, adapter, projector file, tower."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llavakit.core.errors import CheckpointError
from llavakit.core.files import read_json
from llavakit.core.progress import say
from llavakit.model.card import IMAGE_FRAME, Card
from llavakit.model.directory import load_card
from llavakit.model.formats.hub import locate
from llavakit.model.formats.keys import from_original, from_projector_file, from_tower
from llavakit.model.formats.lora import ADAPTER, BESIDE, NAME_BASE, add_delta, merge_lora, named_base
from llavakit.model.formats.original import (
    text_settings,
    tower_folder,
    vision_settings,
)
from llavakit.model.formats.towers import TOWER_KINDS
from llavakit.model.formats.vocabulary import BLOCK, EMBEDDING, HEAD, TOKENIZER_FILES, grow, put_rows
from llavakit.model.formats.weights import Stored, Weights, has_weights, open_file, open_weights
from llavakit.model.rope import with_context
from llavakit.text.tokenizer import IMAGE_TOKEN, Tokenizer

PROJECTOR = "mm_projector.bin"
SLOW = "tokenizer.model"
LAYER = "tower.vision.encoder.layers.{}."


@dataclass(frozen=True)
class Sources:
    """Where the parts of a model come from that its own directory does not hold."""

    # Each a directory or a hub id.
    base: Path | None = None  # the language model (or LLaVA) under an adapter or a stage-1 projector
    tower: str | None = None  # instead of mm_vision_tower
    delta_base: Path | None = None  # what delta weights are to be added to


NOTHING = Sources()


@dataclass(frozen=True)
class Opened:
    """A model whose weights are still in their files, under our names."""

    card: Card
    text: dict[str, Any]  # the language model's settings, with its model_type
    vision: dict[str, Any] | None
    weights: Weights
    tokenizer: Tokenizer
    tokenizer_folder: Path
    tower_name: str | None  # what released code would load the tower by; a plain HF directory does not say

    def with_weights(self, weights: Weights) -> "Opened":
        """The same model with other weights, and the size of vocabulary that they have."""
        rows = {"vocab_size": weights[EMBEDDING].shape[0]} if EMBEDDING in weights else {}
        return replace(self, weights=weights, text=self.text | rows)


def open_original(folder: Path, template_name: str | None, sources: Sources = NOTHING) -> Opened:
    """Everything of an original LLaVA directory but the numbers."""
    where = str(folder / "config.json")
    config = read_json(folder / "config.json")
    text = decoder_settings(config, where)
    card = load_card(folder, template_name, tower=sources.tower)
    vision = vision_settings(config, where, sources.tower)

    def tower() -> Weights:
        return _renamed(open_weights(tower_folder(config, where, sources.tower)), from_tower)

    base = _base(folder, sources)
    weights, new_rows = _parts(folder, base, sources.delta_base, tower)
    weights = _used(weights, card, text, vision)
    _check_projector(weights, config, text, vision, folder)
    tokenizer_folder = _tokenizer_folder(folder, base)
    tokenizer = read_tokenizer(tokenizer_folder, config)
    opened = Opened(card, text, vision, weights, tokenizer, tokenizer_folder, card.tower.path)
    return opened.with_weights(_frame_rows(opened, config, new_rows, folder))


def decoder_settings(config: dict[str, Any], where: str) -> dict[str, Any]:
    """The settings of an original directory's decoder, with the context that the release was made for."""
    claims = (config.get("max_sequence_length"), config.get("tokenizer_model_max_length"))
    return with_context(text_settings(config, where), *claims)


def with_media_tokens(opened: Opened) -> Opened:
    """With `<image>` (and `<video>`) in the vocabulary and room for it in the tables, as other programs need it."""
    opened.tokenizer.add_special([IMAGE_TOKEN, *opened.card.special_tokens])
    return opened.with_weights(grow(opened.weights, len(opened.tokenizer), block=BLOCK))


def read_tokenizer(folder: Path, config: dict[str, Any]) -> Tokenizer:
    """The tokenizer; one without tokenizer.json is converted by `transformers`, where it can."""
    if (folder / SLOW).is_file() and not (folder / "tokenizer.json").is_file():
        try:
            import google.protobuf  # noqa: F401
            import sentencepiece  # noqa: F401
        except ImportError as error:
            raise CheckpointError(
                f"{folder}: only the slow tokenizer ({SLOW}) is here, and converting it needs {error.name}: "
                "pip install sentencepiece protobuf"
            ) from None
    tokenizer = Tokenizer.load(folder, ours=True)
    length = config.get("tokenizer_model_max_length")
    if isinstance(length, int):
        tokenizer.hf.model_max_length = length
    return tokenizer


def _base(folder: Path, sources: Sources) -> Path | None:
    """The directory that an incomplete one builds on; None for a whole model."""
    complete = has_weights(folder) and not (folder / ADAPTER).is_file()
    if complete and sources.base is not None:
        raise CheckpointError(f"{folder} holds a whole model; --base is for adapters and stage-1 projectors")
    if complete:
        return None
    return _named_base(folder) if sources.base is None else locate(sources.base)


def _parts(
    folder: Path, base: Path | None, delta_base: Path | None, tower: Callable[[], Weights]
) -> tuple[Weights, Stored | None]:
    """All weights, the tower's included, and rows of new tokens that a stage-1 file may carry."""
    adapter, projector = folder / ADAPTER, folder / PROJECTOR
    weights = _renamed(_open_base(base or folder), from_original)
    if delta_base is not None:
        whole = _renamed(_open_base(locate(delta_base)), from_original)
        weights = add_delta(weights, whole, delta_base)
    if not any(key.startswith("tower.") for key in weights):
        weights |= tower()  # before an adapter, which may have landed in it
    if adapter.is_file():
        if not (folder / BESIDE).is_file() and any(key.startswith("connector.") for key in weights):
            say(f"note: {folder} has no {BESIDE}: the projector is that of {base}")
        return merge_lora(weights, folder), None
    if base is None and (any(key.startswith("connector.") for key in weights) or not projector.is_file()):
        return weights, None
    trained = _renamed(open_file(projector), from_projector_file)
    rows = trained.pop(EMBEDDING, None)
    return weights | trained, rows


def _named_base(folder: Path) -> Path:
    """The base of an incomplete directory: the one that an adapter names, if it can be had."""
    if (folder / ADAPTER).is_file():
        return named_base(folder)
    what = f"holds {PROJECTOR}" if (folder / PROJECTOR).is_file() else "holds no weights"
    raise CheckpointError(f"{folder} {what}; {NAME_BASE}")


def _open_base(folder: Path) -> Weights:
    if (folder / "config.json").is_file() and "text_config" in read_json(folder / "config.json"):
        raise CheckpointError(
            f"{folder}: a transformers LLaVA; needed is a language model or an original LLaVA"
        )
    return open_weights(folder)


def _renamed(weights: Weights, rule: Callable[[str], str | None]) -> Weights:
    return {name: stored for key, stored in weights.items() if (name := rule(key)) is not None}


def _used(weights: Weights, card: Card, text: dict[str, Any], vision: dict[str, Any]) -> Weights:
    """Without what the model does not compute, and with a head of its own where the file left it out."""
    out = dict(weights)
    if TOWER_KINDS[vision["model_type"]].cut:
        cut = ("tower.vision.head.", LAYER.format(vision["num_hidden_layers"]))
        out = {key: stored for key, stored in out.items() if not key.startswith(cut)}
    separators = {f"newline.{name}" for name in card.separators}
    out = {key: stored for key, stored in out.items() if not key.startswith("newline.") or key in separators}
    if text["tie_word_embeddings"]:
        out.pop(HEAD, None)
    elif HEAD not in out and EMBEDDING in out:
        table = out[EMBEDDING]
        out[HEAD] = table.then(lambda tensor: tensor.clone())
    return out


def _check_projector(
    weights: Weights, config: dict[str, Any], text: dict[str, Any], vision: dict[str, Any], folder: Path
) -> None:
    """The projector's shapes, checked before anything is read: a wrong one is the most common mistake."""
    kind = config.get("mm_projector_type") or "linear"
    wide, narrow = text["hidden_size"], vision["hidden_size"]
    expected = {"linear_1.weight": (wide, narrow), "linear_1.bias": (wide,)}
    if kind != "linear":
        expected |= {"linear_2.weight": (wide, wide), "linear_2.bias": (wide,)}
    found = {
        key.removeprefix("connector."): stored.shape
        for key, stored in weights.items()
        if key.startswith("connector.")
    }
    if found != expected:
        listed = ", ".join(f"{key} {list(shape)}" for key, shape in sorted(found.items())) or "none"
        raise CheckpointError(
            f"{folder}: the projector does not fit: config.json asks for {kind} from a tower of width {narrow} to "
            f"a language model of width {wide}; found {listed}"
        )


def _tokenizer_folder(folder: Path, base: Path | None) -> Path:
    """Adapters and stage-1 files often come without a tokenizer: then it is the base's."""
    own = any((folder / name).is_file() for name in TOKENIZER_FILES)
    return folder if own or base is None else base


def _frame_rows(opened: Opened, config: dict[str, Any], new_rows: Stored | None, folder: Path) -> Weights:
    """Tables with rows for `<im_start>` and `<im_end>`, which released code adds when it loads a model."""
    if not opened.card.im_start_end:
        if new_rows is not None:
            raise CheckpointError(
                f"{folder / PROJECTOR}: holds token rows, but config.json does not set mm_use_im_start_end"
            )
        return opened.weights
    tokenizer = opened.tokenizer
    if config.get("mm_use_im_patch_token", True):  # missing means yes in released code
        tokenizer.add_special(["<im_patch>"])
    tokenizer.add_special(IMAGE_FRAME)
    weights = grow(opened.weights, len(tokenizer))
    if new_rows is None:
        return weights
    if new_rows.shape not in (weights[EMBEDDING].shape, (len(IMAGE_FRAME), *weights[EMBEDDING].shape[1:])):
        raise CheckpointError(
            f"{folder / PROJECTOR}: token rows are {list(new_rows.shape)}, the model's table is "
            f"{list(weights[EMBEDDING].shape)}"
        )
    vocabulary = tokenizer.hf.get_vocab()
    return put_rows(weights, [vocabulary[name] for name in IMAGE_FRAME], new_rows)
