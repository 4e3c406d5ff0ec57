"""Several processes that train one model together: PyTorch's process groups and FSDP2, and nothing of our own.

A rank takes its share of the packed rows of every step; the gradient is the sum over ranks. So the number of ranks
changes how fast a step is, not what it computes. With one rank nothing here talks to anybody.
"""

import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import partial
from typing import Any, Literal

import torch
import torch.distributed as dist
from pydantic import Field
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from llavakit.core.config import Config
from llavakit.core.errors import ConfigError
from llavakit.core.progress import console
from llavakit.core.types import Batch, Segment
from llavakit.model.llava import Llava
from llavakit.model.tower import ViTTower

FITS = 0.6  # share of a GPU that weights, gradients and moments may take, so that activations fit beside them


class ParallelConfig(Config):
    """How ranks share the work. Used when `torchrun` starts several; one process ignores it."""

    mode: Literal["auto", "ddp", "fsdp"] = "auto"  # ddp: a whole model on every rank; fsdp: a share of it
    reshard: bool = True  # fsdp: give a block's weights back after its forward pass, gather them again later
    replicas: int = Field(1, ge=1)  # fsdp: copies of the sharded model, e.g. one per machine
    timeout: int = Field(60, ge=1)  # minutes a rank waits for another (a save, a feature cache being filled)


@dataclass(frozen=True)
class Ranks:
    """The processes of a run, seen from one of them."""

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def is_first(self) -> bool:
        """The one that writes what is written once."""
        return self.rank == 0

    def sums(self, values: Sequence[float]) -> list[float]:
        """Each value summed over the ranks; the same on all of them."""
        if self.size == 1:
            return list(values)
        table = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(table)
        return [float(value) for value in table.tolist()]

    def largest(self, values: Sequence[int]) -> list[int]:
        """Each value's maximum over the ranks."""
        if self.size == 1:
            return list(values)
        table = torch.tensor(values, dtype=torch.int64, device=self.device)
        dist.all_reduce(table, op=dist.ReduceOp.MAX)
        return [int(value) for value in table.tolist()]

    def any(self, flag: bool) -> bool:
        """Whether it is set on some rank."""
        return self.sums([flag]) != [0]

    def barrier(self) -> None:
        """Wait until every rank is here."""
        self.sums([0.0])

    @contextmanager
    def first_ahead(self) -> Iterator[None]:
        """The first rank does it, then the others do, and find what it left on the disk."""
        if not self.is_first:
            self.barrier()
        yield
        if self.is_first:
            self.barrier()

    @contextmanager
    def in_turn(self) -> Iterator[None]:
        """The ranks of a machine one after the other, so that only one at a time holds a whole model in memory."""
        here = int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if self.size > 1 else 1
        mine = int(os.environ.get("LOCAL_RANK", "0"))
        for _ in range(mine):
            self.barrier()
        yield
        for _ in range(here - mine):
            self.barrier()


ALONE = Ranks()


@contextmanager
def join_ranks(config: ParallelConfig) -> Iterator[Ranks]:
    """The ranks that `torchrun` started, or just this process. Only the first one speaks to the screen."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if cuda else torch.device("cpu")
    if size == 1:
        yield Ranks(device=device)
        return
    if cuda:
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if cuda else "gloo", timeout=timedelta(minutes=config.timeout))
    try:
        console.quiet = dist.get_rank() > 0
        yield Ranks(dist.get_rank(), size, device)
    finally:
        console.quiet = False
        dist.destroy_process_group()


def shared_mesh(config: ParallelConfig, ranks: Ranks, *, four_bit: bool = False) -> DeviceMesh | None:
    """Ranks as copies x shares of a model; None where every rank has a whole one for sure, as in `four_bit`."""
    if ranks.size == 1 or config.mode == "ddp" or (config.mode == "auto" and four_bit):
        return None
    if four_bit:
        raise ConfigError("model.lora.four_bit with parallel.mode=fsdp: four bits cannot be cut; use ddp")
    if ranks.size % config.replicas:
        raise ConfigError(f"parallel.replicas={config.replicas} does not divide the {ranks.size} ranks")
    shape = (config.replicas, ranks.size // config.replicas)
    return init_device_mesh(ranks.device.type, shape, mesh_dim_names=("copy", "share"))


def spread(
    model: Llava, config: ParallelConfig, ranks: Ranks, mesh: DeviceMesh | None, *, precision: str
) -> None:
    """Put the model on the rank's device: whole, or a share of the decoder and of what else is trained.

    Call it after freezing and before building the optimizer, whose moments are sharded like the weights.
    """
    if mesh is None or (config.mode == "auto" and _fits(model, ranks)):
        model.to(ranks.device)
        return
    policy = precision_policy(precision, ranks.device)
    whole = set() if trains(model.tower) else set(model.tower.parameters())
    model.tower.to(ranks.device)
    for block in (*trained_tower_blocks(model), *blocks(model.language)):
        fully_shard(block, mesh=mesh, mp_policy=policy, reshard_after_forward=config.reshard)
    # The rest (embeddings, head, connector) is one group, gathered once for `hidden` and the logits after it.
    fully_shard(model, mesh=mesh, mp_policy=policy, reshard_after_forward=False, ignored_params=whole)
    register_fsdp_forward_method(model, "hidden")
    # `hidden` does return a view, and nobody writes into it.
    warnings.filterwarnings("ignore", message=r"FSDP2-wrapped module .* returned a view tensor")
    for module in model.modules():
        if isinstance(module, FSDPModule):  # the loss is divided by the weight of the whole step already
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)


def precision_policy(precision: str, device: torch.device) -> MixedPrecisionPolicy:
    """bf16: weights are gathered and used in it, gradients are summed in float32, which shares stay in.

    On a CPU autocast makes the products bf16, sharded or not, so that any number of ranks computes the same.
    """
    if precision == "bf16" and device.type == "cuda":
        return MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    return MixedPrecisionPolicy()


def checkpoint_blocks(model: Llava) -> None:
    """Keep only what goes into the blocks of the decoder and of a trained tower; the backward pass recomputes."""
    block: Any  # transformers leaves these two without types
    for block in (*trained_tower_blocks(model), *blocks(model.language)):
        # Their own switch for this has another name in every other version of transformers.
        block.gradient_checkpointing = True
        block._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)


def blocks(module: nn.Module) -> list[GradientCheckpointingLayer]:
    """The repeated blocks of a model of `transformers`, in order: the unit of sharding and of recomputing."""
    found = [block for block in module.modules() if isinstance(block, GradientCheckpointingLayer)]
    if not found:
        raise ConfigError(
            f"{type(module).__name__} does not mark its blocks, so parallel.mode=fsdp and checkpointing "
            "cannot be used with it"
        )
    return found


def trained_tower_blocks(model: Llava) -> list[GradientCheckpointingLayer]:
    """Those that are computed. A frozen tower and a convolutional one have none: they stay whole."""
    if not isinstance(model.tower, ViTTower) or not trains(model.tower):
        return []
    return blocks(model.tower)[: model.tower.num_layers]


def trains(module: nn.Module) -> bool:
    return any(param.requires_grad for param in module.parameters())


def give_back(model: Llava) -> None:
    """After passes without a backward pass: let go of gathered weights, which it would have done."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def is_sharded(model: Llava) -> bool:
    return isinstance(model, FSDPModule)


def even_out(batches: list[Batch], model: Llava, ranks: Ranks, *, rows: int, tile: int) -> list[Batch]:
    """Batches that keep this rank in step with the others through a step of `rows` rows.

    FSDP's ranks meet at every block, so all must make the same number of passes through each: rows of weight
    zero fill up, and a row whose pictures need fewer tower calls than another rank's gets black ones of
    `tile` pixels, which nothing gathers.
    """
    if ranks.size == 1:
        return batches
    each = -(-rows // ranks.size)
    batches = batches + [idle_batch()] * (each - len(batches))
    if not is_sharded(model):
        return batches
    calls = ranks.largest([len(batch.pixels) for batch in batches])
    return [_touching(batch, model, count, tile) for batch, count in zip(batches, calls, strict=True)]


def idle_batch() -> Batch:
    """One token, nothing to learn."""
    none = torch.empty(0, dtype=torch.long)
    token = torch.zeros(1, dtype=torch.long)
    return Batch(token, token, (Segment(0, 1),), none, none, torch.empty(0))


def _touching(batch: Batch, model: Llava, calls: int, tile: int) -> Batch:
    """The batch, with something for the connector, and for a trained tower `calls` calls."""
    if trains(model.tower):
        black = torch.zeros(1, tile, tile, 3, dtype=torch.uint8)
        missing = max(calls, 1) - len(batch.pixels)
        return replace(batch, pixels=batch.pixels + (black,) * missing, touch=True)
    if batch.features_RC is None and not batch.pixels:
        return replace(batch, features_RC=torch.zeros(1, model.tower.width), touch=True)
    return replace(batch, touch=True)


def sum_gradients(model: Llava, batches: list[Batch], ranks: Ranks) -> None:
    """Make every rank's gradients those of the whole step.

    FSDP has summed them in the backward pass. What no row of the step used is left without a gradient, as in a
    run of one process: zeros would still move it through the optimizer's momentum.
    """
    if ranks.size == 1:
        return
    if is_sharded(model):
        media, marks = ranks.sums(
            [
                sum(bool(batch.gathers) for batch in batches),
                sum(bool(len(batch.mark_slots_S)) for batch in batches),
            ]
        )
        unused = [model.tower, model.connector] * (not media) + [model.newline] * (not marks)
        for part in unused:
            part.zero_grad(set_to_none=True)
        return
    params = [param for param in model.parameters() if param.requires_grad]
    used = ranks.sums([float(param.grad is not None) for param in params])
    grads = []
    for param, count in zip(params, used, strict=True):
        if count:
            if param.grad is None:
                param.grad = torch.zeros_like(param)
            grads.append(param.grad)
    for bucket in _buckets(grads):
        flat = torch.cat([grad.flatten() for grad in bucket])
        dist.all_reduce(flat)
        for grad, summed in zip(bucket, flat.split([grad.numel() for grad in bucket]), strict=True):
            grad.copy_(summed.view_as(grad))


def _buckets(grads: list[Tensor], limit: int = 2**26) -> Iterator[list[Tensor]]:
    """Consecutive gradients of one type, up to `limit` elements together: few large messages, bounded copies."""
    bucket: list[Tensor] = []
    for grad in grads:
        full = sum(one.numel() for one in bucket) + grad.numel() > limit
        if bucket and (full or grad.dtype != bucket[0].dtype):
            yield bucket
            bucket = []
        bucket.append(grad)
    if bucket:
        yield bucket


def whole(tensor: Tensor) -> Tensor:
    """A sharded tensor put together (every rank must ask for it, in the same order), any other as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def local(tensor: Tensor) -> Tensor:
    """This rank's rows of a sharded tensor; any other as it is."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def first_row(tensor: Tensor) -> int:
    """Where this rank's rows stand in the whole tensor. FSDP2 cuts the first dimension as torch.chunk does."""
    if not isinstance(tensor, DTensor):
        return 0
    chunk = -(-tensor.shape[0] // tensor.device_mesh.size(1))
    return min(tensor.device_mesh.get_local_rank("share") * chunk, tensor.shape[0])


def is_keeper(tensor: Tensor, ranks: Ranks) -> bool:
    """Whether this rank is the one to write its rows: the first of those that have the same ones."""
    if not isinstance(tensor, DTensor):
        return ranks.is_first
    return tensor.device_mesh.get_local_rank("copy") == 0


def _fits(model: Llava, ranks: Ranks) -> bool:
    """Whether float32 weights, gradients and two moments leave a GPU room for activations."""
    if ranks.device.type != "cuda":
        return True  # ranks of a CPU share its memory: nothing is gained by cutting
    need = sum(4 * param.numel() * (4 if param.requires_grad else 1) for param in model.parameters())
    return need < FITS * torch.cuda.get_device_properties(ranks.device).total_memory
