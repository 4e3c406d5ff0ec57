"""`llavakit convert`: a model directory from one layout into another, streamed tensor by tensor."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llavakit.core.errors import CheckpointError, ConfigError, pick
from llavakit.core.files import atomic_directory, read_json
from llavakit.core.progress import say
from llavakit.model.adapters import read_adapter
from llavakit.model.assemble import NOTHING, Opened, Sources, with_media_tokens
from llavakit.model.checkpoint import Checkpoint, write_settings
from llavakit.model.convert.export import differences, original_config, tower_name
from llavakit.model.directory import is_bare_adapter, resolve, settings_of
from llavakit.model.formats.keys import to_hf, to_original
from llavakit.model.formats.lora import named_base
from llavakit.model.formats.original import is_original
from llavakit.model.formats.shards import write_shards
from llavakit.model.formats.target import check_target
from llavakit.model.formats.towers import TOWER_KINDS
from llavakit.model.formats.vocabulary import EMBEDDING, copy_tokenizer, cut, first_added, original_rows
from llavakit.model.formats.weights import Stored, Weights
from llavakit.model.hf_config import hf_fit
from llavakit.model.llava import Llava
from llavakit.model.opening import check_fit, open_model, shape_of
from llavakit.model.serving import vllm_fit, without_videos
from llavakit.text.tokenizer import Tokenizer

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
TARGETS = {"hf": "hf", "llavakit": "llavakit", "original": "original"}
PROGRAMS = {"vllm": "vLLM"}  # that `export` writes for
GENERATION = "generation_config.json"


@dataclass(frozen=True)
class Options:
    """What a conversion may change besides the layout."""

    template: str | None = None
    dtype: str | None = None
    shard_bytes: int = 2 * 10**9
    vocabulary: int | None = None  # rows of the original layout's tables; None: by rule
    sources: Sources = NOTHING
    overwrite: bool = False  # a model that is at the target already is replaced


PLAIN = Options()


def convert(source: Path, target: Path, to: str, options: Options = PLAIN) -> None:
    """Write `source` anew at `target` in the layout `to`: hf, llavakit or original. All or nothing.

    What the layout cannot express is refused before anything is written.
    """
    pick(TARGETS, to, "target")
    if options.vocabulary is not None and to != "original":
        raise ConfigError("--vocabulary is for --to original: the other layouts keep all rows")
    folder = resolve(source)
    check_target(target, folder, overwrite=options.overwrite)
    opened = _open(folder, to, options)
    if to == "original":
        _write_original(opened, folder, target, options)
    else:
        _write_ours(opened, target, options, _hf_notes(opened) if to == "hf" else ())
    say(f"saved in {target}")


def export(
    source: Path, target: Path, program: str, options: Options = PLAIN, *, images_only: bool = False
) -> None:
    """Write `source` anew at `target` as a directory that a serving engine takes. All or nothing.

    It is the `hf` layout with the prompt template as a chat template. What the engine does otherwise is told; a
    model it cannot express is refused before anything is written. `images_only` gives up videos, which are often
    what it cannot express.
    """
    name = pick(PROGRAMS, program, "engine")
    folder = resolve(source)
    check_target(target, folder, overwrite=options.overwrite)
    opened = _open(folder, "hf", options)
    if images_only:
        opened = _without_videos(opened)
    fit = vllm_fit(opened.card)
    if fit.model_type is None:
        only = opened.card.video is not None and vllm_fit(without_videos(opened.card)).model_type is not None
        rather = (
            "give up videos with --images-only, or serve it with llavakit"
            if only
            else "serve it with llavakit"
        )
        raise CheckpointError(f"{name} cannot express this model ({'; '.join(fit.lost)}); {rather}")
    prompt = opened.card.prompt()
    notes = [f"{name} differs in {difference}" for difference in fit.lost]
    stops = opened.tokenizer.stop_strings(prompt)
    if stops:
        notes.append(f'answers end at a text, which every request has to name: "stop": {json.dumps(stops)}')
    _write_ours(opened, target, options, notes)
    say(f"saved in {target}")


def _without_videos(opened: Opened) -> Opened:
    """The same model for pictures alone; a learned row that only videos use is left behind."""
    card = without_videos(opened.card)
    gone = {f"newline.{separator}" for separator in set(opened.card.separators) - set(card.separators)}
    kept = {key: stored for key, stored in opened.weights.items() if key not in gone}
    return replace(opened, card=card).with_weights(kept)


def merge(source: Path, target: Path, *, template_name: str | None = None, overwrite: bool = False) -> None:
    """Write adapters and their base as one ordinary checkpoint. All or nothing.

    `template_name` is for adapters of others, whose base does not say its own.
    """
    folder = resolve(source)
    if is_bare_adapter(folder):
        base = named_base(folder)
    else:
        adapter = read_adapter(read_json(folder / "config.json"), folder)
        if adapter is None:
            raise CheckpointError(f"{source} is an ordinary checkpoint; there is nothing to merge")
        base = adapter.base
    check_target(target, folder, base, overwrite=overwrite)
    _write_ours(open_model(folder, template_name), target, PLAIN)


def _open(folder: Path, to: str, options: Options) -> Opened:
    config = settings_of(folder, options.sources.base)
    # An original directory has no place for a template: nobody need name one in order to write it.
    name = options.template or ("plain" if to == "original" and "llavakit" not in config else None)
    sources = options.sources
    if to == "original" and not is_original(config):
        sources = replace(sources, tower=None)  # it is for the directory that is written
    opened = open_model(folder, name, sources)
    if options.dtype is None:
        return opened
    return opened.with_weights(_cast(opened.weights, pick(DTYPES, options.dtype, "dtype")))


def _checked(opened: Opened) -> Llava:
    """The empty model, in the type of the weights, and proof that it is the one the weights are for."""
    model = shape_of(opened)
    check_fit(opened.weights, model, opened.tokenizer_folder)
    language = [stored for key, stored in opened.weights.items() if key.startswith("language.")]
    smallest = min(language, key=lambda stored: torch.Size(stored.shape).numel())
    model.to(smallest.read().dtype)
    return model


def _write_ours(opened: Opened, target: Path, options: Options, notes: Sequence[str] = ()) -> None:
    """The layout of `transformers` with our section; `notes` are told once it is clear that it can be written."""
    if EMBEDDING in opened.weights:
        opened = with_media_tokens(opened)
    checkpoint = Checkpoint(_checked(opened), opened.tokenizer, opened.card)
    for note in notes:
        say(f"note: {note}")
    weights = {to_hf(key): stored for key, stored in opened.weights.items()}
    if opened.card.connector.kind == "linear":
        weights |= _identity(opened.weights["connector.linear_1.weight"])
    with atomic_directory(target) as draft:
        write_settings(checkpoint, draft)
        _copy(opened.tokenizer_folder, draft, "tokenizer.model")  # a conversion back needs it
        write_shards(weights, draft, options.shard_bytes, title="converting")


def _hf_notes(opened: Opened) -> list[str]:
    """What a class of `transformers` does otherwise; a model that none of them computes is refused."""
    fit = hf_fit(opened.card)
    if fit.model_type is None:
        raise CheckpointError(
            f"no class of transformers computes this model ({'; '.join(fit.lost)}); --to llavakit keeps everything"
        )
    return [f"transformers differs in {difference}" for difference in fit.lost]


def _identity(first: Stored) -> Weights:
    """The second layer that makes a two-layer projector of a single one, in its type."""
    wide = first.shape[0]
    return {
        "multi_modal_projector.linear_2.weight": Stored(
            (wide, wide), lambda: torch.eye(wide, dtype=first.read().dtype)
        ),
        "multi_modal_projector.linear_2.bias": Stored(
            (wide,), lambda: torch.zeros(wide, dtype=first.read().dtype)
        ),
    }


def _write_original(opened: Opened, folder: Path, target: Path, options: Options) -> None:
    opened, size = _original_vocabulary(opened, folder, options)
    model = _checked(opened)
    tower: Any = model.tower
    if opened.vision is None:
        raise CheckpointError("released LLaVA code cannot express a convolutional tower")
    vision, dtype = tower.vision.config, str(model.language.dtype).removeprefix("torch.")
    name = opened.tower_name or options.sources.tower or tower_name(vision)
    if name is None:
        raise CheckpointError(
            f"{folder} does not say what its vision tower is called; name its hub id with --tower"
        )
    config = original_config(opened.card, model.language.config, vision, name, dtype)
    config["tokenizer_model_max_length"] = _context(opened.tokenizer, model.context)
    for note in differences(opened.card, name, siglip=TOWER_KINDS[vision.model_type].cut):
        say(f"note: {note}")
    linear = opened.card.connector.kind == "linear"
    kept = (
        _run_layers(opened.weights, tower.num_layers)
        if TOWER_KINDS[vision.model_type].cut
        else opened.weights
    )
    weights = {to_original(key, linear=linear): stored for key, stored in kept.items()}
    with atomic_directory(target) as draft:
        (draft / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        copy_tokenizer(opened.tokenizer_folder, draft, size=size)
        _copy(folder, draft, GENERATION)
        write_shards(weights, draft, options.shard_bytes, title="converting")


def _original_vocabulary(opened: Opened, folder: Path, options: Options) -> tuple[Opened, int | None]:
    """Tables cut to the rows they had before <image> and its like were added; the size of the tokenizer then."""
    if EMBEDDING not in opened.weights:
        return opened, None  # a decoder that released code has no class for: refused later, by its name
    rows, size = opened.weights[EMBEDDING].shape[0], first_added(opened.tokenizer)
    wanted = rows
    if options.vocabulary is not None:
        wanted = options.vocabulary
        if not size <= wanted <= rows:
            raise ConfigError(
                f"--vocabulary {wanted}: the tokenizer has {size} tokens besides <image> and its like, the tables "
                f"have {rows} rows; choose from {size} to {rows}"
            )
    elif not is_original(settings_of(folder, options.sources.base)):
        wanted = original_rows(opened.tokenizer, rows)
    if wanted < rows:
        say(f"vocabulary: the first {wanted} of {rows} rows are kept")
        opened = opened.with_weights(cut(opened.weights, wanted))
    return opened, size if size < len(opened.tokenizer) and wanted < rows else None


def _context(tokenizer: Tokenizer, positions: int) -> int:
    """The tokenizer's own limit, where it has one: its absence is a very large number."""
    return min(int(tokenizer.hf.model_max_length), positions)


def _run_layers(weights: Weights, num_layers: int) -> Weights:
    """Without SigLIP's layers behind its features and its head: released code deletes them before it loads."""
    prefix = "tower.vision.encoder.layers."
    return {
        key: stored
        for key, stored in weights.items()
        if not key.startswith("tower.vision.head.")
        and not (key.startswith(prefix) and int(key.removeprefix(prefix).partition(".")[0]) >= num_layers)
    }


def _cast(weights: Weights, dtype: torch.dtype) -> Weights:
    def change(tensor: Tensor) -> Tensor:
        return tensor.to(dtype) if tensor.is_floating_point() else tensor

    return {key: stored.then(change) for key, stored in weights.items()}


def _copy(source: Path, target: Path, name: str) -> None:
    if (source / name).is_file():
        shutil.copyfile(source / name, target / name)
