"""A model cut into shards, one a rank: PyTorch's FSDP2, and nothing of our own."""

import warnings
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FSDPModule,
    MixedPrecisionPolicy,
    OffloadPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.distributed.tensor import DTensor

from llavakit.core.errors import ConfigError
from llavakit.model.adapters import plain_name
from llavakit.model.formats.weights import Stored, Weights
from llavakit.model.llava import Llava
from llavakit.train.blocks import decoder_blocks, trained_tower_blocks
from llavakit.train.freezing import is_trained
from llavakit.train.ranks import Ranks
from llavakit.train.settings import ParallelConfig

FITS = 0.6  # share of a GPU that weights, gradients and moments may take, so that activations fit beside them


def build_mesh(config: ParallelConfig, ranks: Ranks, *, four_bit: bool = False) -> DeviceMesh | None:
    """Ranks as replicas x shards of a model; None where every rank has a whole one for sure, as in `four_bit`."""
    if ranks.size == 1 or config.mode == "ddp" or (config.mode == "auto" and four_bit):
        return None
    if four_bit:
        raise ConfigError("model.lora.four_bit with parallel.mode=fsdp: four bits cannot be cut; use ddp")
    if ranks.size % config.replicas:
        raise ConfigError(f"parallel.replicas={config.replicas} does not divide the {ranks.size} ranks")
    shape = (config.replicas, ranks.size // config.replicas)
    return init_device_mesh(ranks.device.type, shape, mesh_dim_names=("replicate", "shard"))


def shard_model(
    model: Llava,
    config: ParallelConfig,
    ranks: Ranks,
    mesh: DeviceMesh | None,
    *,
    precision: str,
    unread: Weights | None = None,
) -> None:
    """Put the model on the rank's device: whole, or a shard of the decoder and of what else is trained.

    Call it after freezing and before building the optimizer, whose moments are sharded like the weights. Of the
    weights `unread`, which are still in their files, a rank reads what it keeps.
    """
    if mesh is None or (config.mode == "auto" and _fits(model, ranks)):
        _fill(model, unread or {}, ranks.device)
        model.to(ranks.device)
        return
    policy = precision_policy(precision, ranks.device)
    offload = CPUOffloadPolicy(pin_memory=ranks.device.type == "cuda") if config.offload else OffloadPolicy()
    unsharded = set() if is_trained(model.tower) else set(model.tower.parameters())
    model.tower.to(ranks.device)
    cut = partial(fully_shard, mesh=mesh, mp_policy=policy, offload_policy=offload)
    for block in (*trained_tower_blocks(model), *decoder_blocks(model)):
        cut(block, reshard_after_forward=config.reshard)
    table, head = model.language.get_input_embeddings(), model.language.get_output_embeddings()
    assert table is not None and head is not None
    if table.weight is not head.weight:  # one is needed at the beginning only, the other at the end
        cut(table, reshard_after_forward=config.reshard)
        cut(head, reshard_after_forward=False)  # its backward pass is what comes next
        _lend(head)
    # The rest (norm, connector, a table that is the head too) is one group, gathered for `hidden` and the loss.
    cut(model, reshard_after_forward=False, ignored_params=unsharded)
    register_fsdp_forward_method(model, "hidden")
    # `hidden` does return a view, and nobody writes into it.
    warnings.filterwarnings("ignore", message=r"FSDP2-wrapped module .* returned a view tensor")
    for module in model.modules():
        if isinstance(module, FSDPModule):  # the loss is divided by the weight of the whole step already
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)
    _fill(model, unread or {}, torch.device("cpu") if config.offload else ranks.device)


def _lend(head: Any) -> None:
    """What Llava.with_head calls: any work while the head is gathered, as if that were its forward pass."""
    head.lend = lambda work, hidden_LD: work(hidden_LD)
    register_fsdp_forward_method(head, "lend")


def _fill(model: Llava, unread: Weights, device: torch.device) -> None:
    """Read the decoder's weights, a tensor after the other: of a sharded one the rows of this rank alone."""
    if not unread:
        return
    found = {}
    for name, tensor in model.language.state_dict().items():
        stored = unread.get("language." + plain_name(name))
        if stored is not None:
            found[name] = _read(stored, tensor, device)
    model.language.load_state_dict(found, assign=True, strict=False)  # adapters have their numbers
    model.language.tie_weights()


def _read(stored: Stored, like: Tensor, device: torch.device) -> Tensor:
    """The numbers of `like`, which has none, in memory of their own."""
    if not isinstance(like, DTensor):
        return torch.empty(like.shape, dtype=like.dtype, device=device).copy_(stored.read())
    mine = torch.empty(like.to_local().shape, dtype=like.dtype, device=device)
    first = first_row(like)
    if len(mine):
        mine.copy_(stored.rows(first, first + len(mine)))
    return DTensor.from_local(
        mine, like.device_mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride()
    )


def precision_policy(precision: str, device: torch.device) -> MixedPrecisionPolicy:
    """bf16: weights are gathered and used in it, gradients are summed in float32, which shards stay in.

    On a CPU autocast makes the products bf16, sharded or not, so that any number of ranks computes the same.
    """
    if precision == "bf16" and device.type == "cuda":
        return MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    return MixedPrecisionPolicy()


def reduce_copies(model: Llava, last: bool) -> None:
    """Sum gradients over the copies of a sharded model after the `last` row of a step, and not before."""
    if isinstance(model, FSDPModule):
        model.set_requires_all_reduce(last)


def reshard(model: Llava) -> None:
    """After passes without a backward pass: let go of gathered weights, which it would have done."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def is_sharded(model: Llava) -> bool:
    return isinstance(model, FSDPModule)


def gather_full(tensor: Tensor) -> Tensor:
    """A sharded tensor put together (every rank must ask for it, in the same order), any other as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def local_shard(tensor: Tensor) -> Tensor:
    """This rank's rows of a sharded tensor; any other as it is."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def shaped_like(tensor: Tensor, rest: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Zeros with the rows of `tensor`, on the ranks that have them, and `rest` for its other dimensions."""
    mine = local_shard(tensor).new_zeros(len(local_shard(tensor)), *rest, dtype=dtype, requires_grad=False)
    if not isinstance(tensor, DTensor):
        return mine
    shape = torch.Size((tensor.shape[0], *rest))
    stride = torch.empty(shape, device="meta").stride()
    return DTensor.from_local(
        mine, tensor.device_mesh, tensor.placements, run_check=False, shape=shape, stride=stride
    )


def first_row(tensor: Tensor) -> int:
    """Where this rank's rows stand in the whole tensor. FSDP2 cuts the first dimension as torch.chunk does."""
    if not isinstance(tensor, DTensor):
        return 0
    chunk = -(-tensor.shape[0] // tensor.device_mesh.size(1))
    return min(tensor.device_mesh.get_local_rank("shard") * chunk, tensor.shape[0])


def writes_shard(tensor: Tensor, ranks: Ranks) -> bool:
    """Whether this rank is the one to write its rows: the first of those that have the same ones."""
    if not isinstance(tensor, DTensor):
        return ranks.is_first
    return tensor.device_mesh.get_local_rank("replicate") == 0


def _fits(model: Llava, ranks: Ranks) -> bool:
    """Whether float32 weights, gradients and two moments leave a GPU room for activations."""
    if ranks.device.type != "cuda":
        return True  # ranks of a CPU share its memory: nothing is gained by cutting
    need = sum(4 * param.numel() * (4 if param.requires_grad else 1) for param in model.parameters())
    return need < FITS * torch.cuda.get_device_properties(ranks.device).total_memory
