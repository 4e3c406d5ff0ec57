"""The model of a run: as it starts, or as it was at a checkpoint; and copies of it to compare with."""

from contextlib import nullcontext
from itertools import islice
from pathlib import Path

import torch

from llavakit.core.errors import ConfigError
from llavakit.data.loader import Loader
from llavakit.model.build import build
from llavakit.model.checkpoint import Checkpoint
from llavakit.model.connector import Standardize
from llavakit.model.llava import Llava
from llavakit.model.placement import own_memory
from llavakit.train.activation_checkpointing import checkpoint_activations
from llavakit.train.flops import StepFlops
from llavakit.train.freezing import halve_frozen, is_trained, train_only
from llavakit.train.ranks import Ranks
from llavakit.train.reference import CopiedReference, switch_off_dropout
from llavakit.train.run import Run
from llavakit.train.sharding import build_mesh, is_sharded, shard_model
from llavakit.train.state import restore_weights

STANDARDIZE_IMAGES = 512  # enough for a mean and a deviation per channel


def build_model(run: Run, newest: Path | None, ranks: Ranks) -> tuple[Checkpoint, StepFlops]:
    """The model to go on with, frozen where it shall be, on its device or sharded over the ranks; and its count."""
    four_bit = run.model.lora is not None and run.model.lora.four_bit
    mesh = build_mesh(run.parallel, ranks, four_bit=four_bit)
    start = run.model if newest is None else run.model.model_copy(update={"start": newest})
    # Each rank reads its own rows, and nobody the model; but for some fresh decoders, of which one reads at a time.
    with ranks.in_turn() if mesh is not None and start.start is None else nullcontext():
        checkpoint = build(start, run.grading, unread=mesh is not None)
        train_only(checkpoint.model, run.train, embeddings=run.embeddings, adapter=checkpoint.adapter)
        if checkpoint.adapter is not None and run.precision == "bf16":
            halve_frozen(checkpoint.model)
        if ranks.device.type == "cpu":
            own_memory(checkpoint.model)
        flops = StepFlops(checkpoint.model)  # from shapes, which a sharded model hides
        if run.checkpointing:
            checkpoint_activations(checkpoint.model)
        weights, checkpoint.unread = checkpoint.unread, {}
        shard_model(checkpoint.model, run.parallel, ranks, mesh, precision=run.precision, unread=weights)
        if newest is not None:
            restore_weights(checkpoint.model, newest, ranks)
    return checkpoint, flops


def copy_reference(run: Run, checkpoint: Checkpoint, newest: Path | None, ranks: Ranks) -> CopiedReference:
    """Copies of what learns, as it was when the run started."""
    switch_off_dropout(checkpoint.model)
    started_from = checkpoint if newest is None else build_model(run, None, ranks)[0]
    return CopiedReference(started_from.model, adapted=started_from.adapter is not None)


def standardize(model: Llava, loader: Loader) -> None:
    """Fit a fresh connector's standardization, where it has one, to the first images of the data."""
    layer = model.connector[0]
    if not isinstance(layer, Standardize):
        return
    if is_sharded(model) and is_trained(model.tower):
        raise ConfigError("connector.standardize needs a frozen tower or parallel.mode=ddp")
    with torch.no_grad():
        media = list(islice(loader.media(), STANDARDIZE_IMAGES))
        tables = [loader.tiles(item).to(model.device) for item in media]
        rows = [table if loader.cache is not None else model.tower(table) for table in tables]
    layer.fit(torch.cat(rows))
