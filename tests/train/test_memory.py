"""What a run holds in memory, and what it has let go of."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor
from torch.testing._internal.distributed.fake_pg import FakeStore
from transformers import LlamaForCausalLM

from llavakit.core.types import Batch, Segment
from llavakit.model.connector import build_connector
from llavakit.model.llava import Llava
from llavakit.model.settings import ConnectorConfig
from llavakit.train.activation_checkpointing import checkpoint_activations
from llavakit.train.freezing import train_only
from llavakit.train.loop import train_step
from llavakit.train.objectives import SFT
from llavakit.train.ranks import ALONE, Ranks
from llavakit.train.settings import ParallelConfig
from llavakit.train.sharding import build_mesh, shard_model
from llavakit.train.starting import build_model
from tests import tiny
from tests.train.peak import Peak
from tests.train.test_loop import tiny_run


def whole_model(layers: int) -> Llava:
    """Of small tables, that recomputes its blocks."""
    config = tiny.text_config(64)
    config.update({"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": layers})
    tower = tiny.checkpoint().model.tower
    model = Llava(tower, build_connector(ConnectorConfig(), tower.width, 128), LlamaForCausalLM(config))
    train_only(model, ("connector", "language"))
    checkpoint_activations(model.train())
    return model


def shared_model(layers: int) -> Llava:
    """Of eight ranks one's, whose partners are made up."""
    model = whole_model(layers)
    settings, ranks = ParallelConfig(mode="fsdp"), Ranks(0, 8)
    shard_model(model, settings, ranks, build_mesh(settings, ranks), precision="bf16")
    return model


def text_row() -> Batch:
    places = torch.arange(16)
    return Batch(places, places, (Segment(0, 16),), places, places, torch.ones(16))


@pytest.fixture
def eight_ranks():
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=8)
    yield
    dist.destroy_process_group()


def test_a_pass_holds_one_block_of_a_shared_model(eight_ranks):
    """Neither gathered weights nor casts of them stay behind: a block more adds its share, and its gradient's."""
    most = []
    for layers in (8, 14):
        model = shared_model(layers)
        with Peak([*model.parameters(), *model.buffers()]).watch() as peak:
            train_step(model, SFT(), [text_row()], precision="bf16")
        most.append(peak.most)
    block = sum(parameter.numel() for parameter in model.language.model.layers[0].parameters())
    assert (most[1] - most[0]) / 6 < 1.5 * block  # bytes: an eighth in float32, twice; casts were 1.5 more


def test_a_recomputed_block_leaves_no_casts_behind():
    """At the loss of a second row a block has float32 weights and gradients, and nothing in bf16."""
    most = []
    for layers in (8, 14):
        model = whole_model(layers)
        with Peak([*model.parameters(), *model.buffers()]).watch() as peak:
            train_step(model, SFT(), [text_row(), text_row()], precision="bf16")
        most.append(peak.most)
    block = sum(parameter.numel() for parameter in model.language.model.layers[0].parameters())
    assert (most[1] - most[0]) / 6 < 9 * block


def test_a_head_of_its_own_is_there_for_the_loss_alone(eight_ranks):
    """Not in the passes through the blocks: forwards it is cut, backwards its gradient is, too."""
    model, seen = shared_model(2), []
    head = model.language.get_output_embeddings()

    def look(where: str) -> None:
        grad = head.weight.grad if isinstance(head.weight, DTensor) else None
        seen.append((where, isinstance(head.weight, DTensor), grad is not None))

    def behind_the_blocks(hidden):
        look("forward")
        hidden.register_hook(lambda grad: look("backward"))

    model.language.model.norm.register_forward_pre_hook(lambda module, args: behind_the_blocks(args[0]))
    train_step(model, SFT(), [text_row()], precision="float32")
    assert {("forward", True, False), ("backward", True, True)} == set(seen)


def test_a_start_is_let_go_of_when_it_is_read(tmp_path):
    """Else all of the file that was read counts as the run's memory, for one float32 tensor that lies in it."""
    checkpoint, _ = build_model(tiny_run(tmp_path), None, ALONE)
    assert checkpoint.model.tower.width
    assert str(tmp_path) not in Path("/proc/self/maps").read_text()
