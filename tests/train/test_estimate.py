"""The memory formula against what PyTorch really keeps, and the dry run that shows it."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.distributed.fsdp import MixedPrecisionPolicy
from torch.testing._internal.distributed.fake_pg import FakeStore
from transformers import CLIPVisionConfig, CLIPVisionModel, LlamaConfig, LlamaForCausalLM

from llavakit.core import config as settings
from llavakit.core.types import Batch, Gather, Segment
from llavakit.data.settings import DataConfig
from llavakit.model import attention
from llavakit.model import checkpoint as checkpoints
from llavakit.model.adapters import Adapter, add_adapters
from llavakit.model.build import build
from llavakit.model.connector import build_connector
from llavakit.model.families import FAMILIES
from llavakit.model.families.row import family_config
from llavakit.model.llava import Llava
from llavakit.model.outline import outline
from llavakit.model.settings import ConnectorConfig, LoraSettings, ModelConfig, TowerConfig
from llavakit.model.tower import ViTTower
from llavakit.recipes import RECIPES
from llavakit.train import sharding
from llavakit.train.activation_checkpointing import checkpoint_activations
from llavakit.train.dry_run import show_plan
from llavakit.train.estimate import estimate_memory, tower_rows
from llavakit.train.freezing import halve_frozen, train_only
from llavakit.train.loop import train_step
from llavakit.train.objectives import SFT
from llavakit.train.optim import build_optimizer
from llavakit.train.ranks import Ranks
from llavakit.train.reference import CopiedReference
from llavakit.train.run import Run
from llavakit.train.settings import OptimConfig, ParallelConfig
from llavakit.vision.plan import ImageConfig
from tests import tiny
from tests.train.peak import Peak
from tests.train.test_loop import tiny_run

TOKENS = 256


IMAGE = ImageConfig(kind="pad", size=112, grid=8)  # 64 tokens a picture
WHAT = {
    "everything": {"train": ("tower", "connector", "language")},
    "stage 2": {"train": ("connector", "language")},
    "stage 1": {"train": ("connector",)},
    "lora": {"train": ("connector", "language"), "lora": LoraSettings(r=16, alpha=32, dropout=0)},
}


WAYS = [  # precision, checkpointing, shards
    ("float32", False, 1), ("bf16", False, 1), ("bf16", True, 1), ("bf16", False, 8), ("bf16", True, 8),
]  # fmt: skip


@pytest.mark.parametrize(("precision", "checkpointing", "shards"), WAYS)
@pytest.mark.parametrize("what", WHAT)
def test_a_step_takes_what_is_estimated(what, precision, checkpointing, shards, monkeypatch):
    """Every tensor of a step of two rows, within a sixth: whole, and one of eight ranks with GPUs' policy."""
    lora = WHAT[what].get("lora")
    run = Run(
        train=WHAT[what]["train"], precision=precision, checkpointing=checkpointing,
        data=DataConfig(tokens=TOKENS), optim=OptimConfig(rows=2),
        model=ModelConfig(
            tower=TowerConfig(path="tiny"), connector=ConnectorConfig(), image=IMAGE, template="plain",
            im_start_end=False, lora=lora,
        ),
    )  # fmt: skip
    model = small_model(lora)
    train_only(model, run.train, adapter=None if lora is None else Adapter(lora, Path()))
    if lora is not None and precision == "bf16":
        halve_frozen(model)
    told = estimate_memory(run, model, shards=shards, learned=0.5).total
    # With fused attention, as on a GPU: plain products of short sequences on the CPU keep their scores too.
    monkeypatch.setattr(attention, "SHORT", 0)
    assert told == pytest.approx(most_of_two_steps(run, model, shards, monkeypatch), rel=1 / 6)


def test_shards_in_the_hosts_memory_take_none_of_a_gpu():
    run = Run(
        train=("connector", "language"), data=DataConfig(tokens=TOKENS), parallel=ParallelConfig(offload=True),
        model=ModelConfig(
            tower=TowerConfig(path="tiny"), connector=ConnectorConfig(), image=IMAGE, template="plain",
            im_start_end=False,
        ),
    )  # fmt: skip
    model = small_model(None)
    train_only(model, run.train)
    told = estimate_memory(run, model, shards=8)
    assert told.weights == sum(4 * p.numel() for p in model.tower.parameters())
    assert told.gradients == told.moments == 0 < told.copies
    assert estimate_memory(run, model, shards=1).moments > 0


def small_model(lora: LoraSettings | None) -> Llava:
    """Wide enough that layers, tables, logits and pictures all show."""
    decoder = LlamaConfig(
        vocab_size=2000, hidden_size=256, intermediate_size=704, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2,
    )  # fmt: skip
    vision = CLIPVisionConfig(
        hidden_size=128, intermediate_size=512, num_hidden_layers=5, num_attention_heads=4, image_size=112,
        patch_size=14,
    )  # fmt: skip
    tower = ViTTower(CLIPVisionModel(vision), TowerConfig(path="tiny"), IMAGE)
    model = Llava(tower, build_connector(ConnectorConfig(), tower.width, 256), LlamaForCausalLM(decoder))
    if lora is not None:
        add_adapters(model, lora)
    return model.train()


def most_of_two_steps(run: Run, model: Llava, shards: int, monkeypatch) -> int:
    """Bytes; the second step has the optimizer's moments. Of several ranks one, whose partners are made up."""
    if run.checkpointing:
        checkpoint_activations(model)
    if shards > 1:
        dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=shards)
        half = torch.bfloat16 if run.precision == "bf16" else None
        policy = MixedPrecisionPolicy(param_dtype=half, reduce_dtype=torch.float32)
        monkeypatch.setattr(sharding, "precision_policy", lambda precision, device: policy)
        settings, ranks = ParallelConfig(mode="fsdp"), Ranks(0, shards)
        sharding.shard_model(
            model, settings, ranks, sharding.build_mesh(settings, ranks), precision=run.precision
        )
    try:
        optimizer = build_optimizer(model, run.optim)
        with Peak([*model.parameters(), *model.buffers()]).watch() as peak:
            for _ in range(2):
                train_step(model, SFT(), [full_row(), full_row()], precision=run.precision)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
    finally:
        if shards > 1:
            dist.destroy_process_group()
    return peak.most


def full_row() -> Batch:
    """A row full of pictures, half of it learned."""
    places = torch.arange(TOKENS)
    return Batch(
        places, places, (Segment(0, TOKENS),), places[::2], places[::2], torch.ones(TOKENS // 2),
        pixels=(torch.zeros(TOKENS // 64, 112, 112, 3, dtype=torch.uint8),),
        gathers=(Gather(places, places[:, None]),),
    )  # fmt: skip


def test_pooled_videos_need_more_rows_than_they_give_tokens():
    for name, low, high in (
        ("llava15-7b", 1.0, 1.01),
        ("llava-video-7b", 3.4, 3.6),
        ("llava16-7b", 1.1, 2.0),
    ):
        row = FAMILIES[name]
        run = Run(model=family_config(row))
        assert low < tower_rows(run, outline(run.model)) < high, name


def test_auto_is_bf16_and_a_start_in_half_precision_is_held_in_float32(tmp_path):
    run = tiny_run(tmp_path)
    saved = checkpoints.load(run.model.start, dtype=torch.bfloat16)
    checkpoints.save(saved, tmp_path / "half")
    half = run.model_copy(update={"model": run.model.model_copy(update={"start": tmp_path / "half"})})
    model = outline(half.model)
    assert {p.dtype for p in model.parameters()} == {p.dtype for p in build(half.model).model.parameters()}
    auto, bf16 = (run.model_copy(update={"precision": name}) for name in ("auto", "bf16"))
    assert estimate_memory(auto, model) == estimate_memory(bf16, model)


def test_tied_tables_are_counted_once_from_a_checkpoint_too(tmp_path):
    run = tiny_run(tmp_path)
    tied = tiny.checkpoint()
    tied.model.language.config.tie_word_embeddings = True
    tied.model.language.tie_weights()
    checkpoints.save(tied, tmp_path / "tied")
    config = run.model.model_copy(update={"start": tmp_path / "tied"})
    mine, theirs = (
        sum(p.numel() for p in model.parameters()) for model in (outline(config), build(config).model)
    )
    assert mine == theirs < sum(p.numel() for p in outline(run.model).parameters())


def test_what_is_kept_between_steps_is_exact(tmp_path):
    run = tiny_run(tmp_path, **{"optim.ema": 0.99})
    model = build(run.model).model
    train_only(model, run.train)
    optimizer = build_optimizer(model, OptimConfig())
    for p in model.parameters():
        if p.requires_grad:
            p.grad = torch.zeros_like(p)
    optimizer.step()
    moments = sum(
        state[name].nbytes for state in optimizer.state.values() for name in ("exp_avg", "exp_avg_sq")
    )
    found = estimate_memory(run, model)
    assert found.weights == sum(p.nbytes for p in model.parameters())
    assert found.gradients == sum(p.grad.nbytes for p in model.parameters() if p.grad is not None)
    assert found.moments == moments
    assert found.average == found.gradients and not found.reference
    assert estimate_memory(run, model, shards=8).weights < found.weights


def test_the_copies_of_a_reference_are_counted_where_there_are_some(tmp_path, capsys):
    run = tiny_run(tmp_path)
    model = build(run.model).model
    train_only(model, run.train)
    copies = sum(tensor.nbytes for tensor in CopiedReference(model).copies.values())
    found = {}
    for preference in ("{}", "{loss: simpo}", f"{{reference: {tmp_path}}}"):
        mine = settings.override(run, [f"preference={preference}"])
        found[preference] = estimate_memory(mine, model)
    kept, *free = found.values()
    assert kept.reference == copies > 0 and [each.reference for each in free] == [0, 0]
    assert kept.total == free[0].total + copies
    assert show_plan(settings.override(run, ["preference={}"])) == []
    assert "reference 0.00" in " ".join(capsys.readouterr().out.split())


def test_an_outline_has_every_shape_and_no_number(tmp_path):
    run = tiny_run(tmp_path)
    for lora in (None, LoraSettings(r=4)):
        config = run.model.model_copy(update={"lora": lora})
        mine, theirs = outline(config), build(config).model
        assert {name: p.shape for name, p in mine.named_parameters()} == {
            name: p.shape for name, p in theirs.named_parameters()
        }
        assert {p.device.type for p in mine.parameters()} == {"meta"}


def test_four_bits_take_an_eighth(tmp_path):
    run = tiny_run(tmp_path)
    sizes = {}
    for four_bit in (False, True):
        lora = LoraSettings(r=1, four_bit=four_bit)
        mine = run.model_copy(update={"model": run.model.model_copy(update={"lora": lora})})
        sizes[four_bit] = estimate_memory(mine, outline(mine.model)).weights
    layers = 2 * (2 * 48 * 48 + 2 * 48 * 24 + 3 * 48 * 96)
    assert sizes[False] - sizes[True] == pytest.approx(layers * (4 - 0.52))


def test_a_dry_run_tells_parts_data_and_memory(tmp_path, capsys):
    run = tiny_run(tmp_path, train="[connector]", **{"optim.steps": 1000, "optim.rows": 8})
    assert show_plan(run) == []
    out = " ".join(capsys.readouterr().out.split())
    assert "tower 44,768 frozen connector 3,936 3,936 0.01 language" in out
    assert "tokens per step: up to 768 (8 packed row(s) of up to 96)" in out
    assert "steps: 1,000" in out
    assert "memory per GPU, about: 0.0" in out
    assert f"data.files: {tmp_path / 'data.json'} (0.0 MB)" in out
    assert not run.out.exists()


def test_a_dry_run_names_everything_that_is_not_there(tmp_path):
    run = tiny_run(tmp_path)
    gone = {
        "eval.files": tmp_path / "held.json",
        "probes.file": tmp_path / "p.json",
        "data.images": tmp_path / "x",
    }
    problems = show_plan(settings.override(run, [f"{key}={path}" for key, path in gone.items()]))
    assert problems == [
        f"eval.files: {tmp_path / 'held.json'}: data file not found",
        f"probes.file: {tmp_path / 'p.json'}: data file not found",
        f"data.images: no folder {tmp_path / 'x'}",
    ]
    nothing = run.model.model_copy(update={"start": tmp_path / "nowhere"})
    problems = show_plan(run.model_copy(update={"model": nothing, "data": DataConfig()}))
    assert f"{tmp_path / 'nowhere'} does not exist" == problems[0] and "data.files is empty" in problems
    other = settings.override(run, ["model.connector.kind=linear"])
    assert "model.connector is" in show_plan(other)[0]


def test_the_published_lora_numbers():
    """The released script of LLaVA-1.5: r 128, alpha 256, dropout 0.05; 2e-4, and 2e-5 for the connector."""
    run = RECIPES["llava15-lora"]()
    lora = run.model.lora
    assert (lora.r, lora.alpha, lora.dropout, lora.tower, lora.targets) == (128, 256, 0.05, False, ())
    assert (run.optim.lr.language, run.optim.lr.connector) == (2e-4, 2e-5)
    assert run.train == ("connector", "language")
    full = RECIPES["llava15-stage2"]()
    assert (run.data, run.optim.rows, run.optim.epochs) == (full.data, full.optim.rows, full.optim.epochs)
    assert run.model.start == full.model.start
