"""What a run holds in memory, and what it has let go of."""

from pathlib import Path

import torch
import torch.distributed as dist
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


def shared_model(layers: int) -> Llava:
    """Of eight ranks one's, whose partners are made up."""
    config = tiny.text_config(64)
    config.update({"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": layers})
    tower = tiny.checkpoint().model.tower
    model = Llava(tower, build_connector(ConnectorConfig(), tower.width, 128), LlamaForCausalLM(config))
    train_only(model, ("connector", "language"))
    checkpoint_activations(model.train())
    settings, ranks = ParallelConfig(mode="fsdp"), Ranks(0, 8)
    shard_model(model, settings, ranks, build_mesh(settings, ranks), precision="bf16")
    return model


def test_a_pass_holds_one_block_of_a_shared_model():
    """Neither gathered weights nor casts of them stay behind: a block more adds its share, and its gradient's."""
    places, most = torch.arange(16), []
    row = Batch(places, places, (Segment(0, 16),), places, places, torch.ones(16))
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=8)
    try:
        for layers in (8, 14):
            model = shared_model(layers)
            with Peak([*model.parameters(), *model.buffers()]).watch() as peak:
                train_step(model, SFT(), [row], precision="bf16")
            most.append(peak.most)
    finally:
        dist.destroy_process_group()
    block = sum(parameter.numel() for parameter in model.language.model.layers[0].parameters())
    assert (most[1] - most[0]) / 6 < 1.5 * block  # bytes: an eighth in float32, twice; casts were 1.5 more


def test_a_start_is_let_go_of_when_it_is_read(tmp_path):
    """Else all of the file that was read counts as the run's memory, for one float32 tensor that lies in it."""
    checkpoint, _ = build_model(tiny_run(tmp_path), None, ALONE)
    assert checkpoint.model.tower.width
    assert str(tmp_path) not in Path("/proc/self/maps").read_text()
