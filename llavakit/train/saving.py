"""Checkpoints of a run: written whole or not at all, by one rank or many.

The model directory is the ordinary one, written by the first rank. Beside it every rank writes its share of the
training state (see state.py).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path

from torch import Tensor
from torch.optim import AdamW

from llavakit.core.files import atomic_directory, draft_of, write_text
from llavakit.model.adapters import Adapter, adapter_tensors, write_adapter
from llavakit.model.checkpoint import Checkpoint, write, write_settings
from llavakit.model.directory import LATEST
from llavakit.model.formats.halves import upper_half
from llavakit.model.formats.shards import write_shards
from llavakit.model.formats.weights import Stored
from llavakit.model.huggingface import hf_tensors
from llavakit.train import ema
from llavakit.train.ranks import Ranks
from llavakit.train.run import Run
from llavakit.train.run_directory import checkpoint_name, remove_old
from llavakit.train.sharding import gather_full, is_sharded
from llavakit.train.state import State, save_state


def save_checkpoint(
    run: Run,
    checkpoint: Checkpoint,
    optimizer: AdamW,
    state: State,
    ranks: Ranks,
    keep: Callable[[Path], None],
) -> None:
    """Write the checkpoint of this step, point `latest` at it, and remove those beyond `run.keep`.

    `keep` is the first rank's, and adds to its folder what else a resumed run needs.
    Every rank calls it. A rank that fails raises; then the directory never gets its name, and `latest` stays.
    """
    path = run.out / checkpoint_name(state.step)
    half = run.saved == "bf16"
    with _shared_draft(path, ranks) as draft:
        _write_model(checkpoint, draft, ranks, half=half)
        if run.optim.ema is not None:
            if ranks.is_first:
                (draft / ema.FOLDER).mkdir()
            with ema.averaged(optimizer):
                _write_model(checkpoint, draft / ema.FOLDER, ranks, half=half)
        save_state(state, optimizer, checkpoint.model, draft, ranks, half=half)
        if ranks.is_first:
            keep(draft)
    if ranks.is_first:
        write_text(run.out / LATEST, path.name + "\n")
        remove_old(run.out, path, keep=run.keep)


def save_model(checkpoint: Checkpoint, path: Path, ranks: Ranks) -> None:
    """Write the model directory alone, all or nothing. Every rank calls it."""
    with _shared_draft(path, ranks) as draft:
        _write_model(checkpoint, draft, ranks)


@contextmanager
def _shared_draft(path: Path, ranks: Ranks) -> Iterator[Path]:
    """The draft of `path` that every rank writes into; the first one makes it, and names it when all have ended."""
    with atomic_directory(path) if ranks.is_first else nullcontext(draft_of(path)) as draft:
        ranks.barrier()  # the draft is there for everybody
        yield draft
        ranks.barrier()  # everybody's files are complete


def _write_model(checkpoint: Checkpoint, folder: Path, ranks: Ranks, *, half: bool = False) -> None:
    """The model directory, by the first rank; those of a sharded model all take part."""
    if not is_sharded(checkpoint.model):
        if ranks.is_first:
            write(checkpoint, folder, half=half)
    elif checkpoint.adapter is not None:
        _write_gathered_adapter(checkpoint, checkpoint.adapter, folder, ranks)
    else:
        _write_gathered(checkpoint, folder, ranks, half=half)


def _write_gathered_adapter(checkpoint: Checkpoint, adapter: Adapter, folder: Path, ranks: Ranks) -> None:
    """The adapter directory of a sharded model. It is small: everything comes together at once."""
    files = {
        file: {key: gather_full(tensor) for key, tensor in tensors.items()}
        for file, tensors in adapter_tensors(checkpoint.model, adapter).items()
    }
    if ranks.is_first:
        write_settings(checkpoint, folder)
        write_adapter(checkpoint.model, adapter, files, folder)


def _write_gathered(checkpoint: Checkpoint, folder: Path, ranks: Ranks, *, half: bool) -> None:
    """The model directory of a sharded model: a tensor at a time comes together, a file at a time is held."""
    weights = {
        key: Stored(tuple(tensor.shape), partial(gather_full, tensor))
        for key, tensor in hf_tensors(checkpoint.model, checkpoint.card).items()
    }
    if ranks.is_first:
        on_cpu = {key: stored.then(Tensor.cpu) for key, stored in weights.items()}
        write_shards(
            {key: stored.then(upper_half) if half else stored for key, stored in on_cpu.items()}, folder
        )
        write_settings(checkpoint, folder, half=half)
    else:
        for stored in weights.values():  # in the writer's order: every rank gives its share
            stored.read()
