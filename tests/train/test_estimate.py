"""The memory formula against what PyTorch really keeps, and the dry run that shows it."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from llavakit.core import config as settings
from llavakit.core.types import Segment
from llavakit.data.loader import DataConfig
from llavakit.model import attention
from llavakit.model.adapters import LoraSettings
from llavakit.model.attention import packed_layout
from llavakit.model.build import build
from llavakit.model.llava import Llava
from llavakit.model.outline import outline
from llavakit.recipes import RECIPES
from llavakit.train.dry_run import show_plan
from llavakit.train.estimate import estimate_memory
from llavakit.train.freezing import train_only
from llavakit.train.optim import OptimConfig, build_optimizer
from llavakit.train.run import Run
from tests import tiny
from tests.train.test_loop import tiny_run

TOKENS = 256


@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize(("inner", "heads", "keys"), [(352, 4, 4), (512, 8, 2)])
def test_activations_are_within_a_fifth_of_what_the_backward_pass_keeps(
    precision, inner, heads, keys, monkeypatch
):
    """With fused attention, as on a GPU: plain products of short sequences on the CPU keep their scores too."""
    monkeypatch.setattr(attention, "SHORT", 0)
    config = LlamaConfig(
        vocab_size=64, hidden_size=128, intermediate_size=inner, num_hidden_layers=3,
        num_attention_heads=heads, num_key_value_heads=keys,
    )  # fmt: skip
    parts = tiny.checkpoint().model
    model = Llava(parts.tower, parts.connector, LlamaForCausalLM(config))
    model.language.get_decoder().requires_grad_(True)
    train_only(model, ("language",))
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    layout = packed_layout((Segment(0, TOKENS),), torch.device("cpu"))
    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"),
    ):
        model.decode(torch.randn(TOKENS, 128, requires_grad=True), torch.arange(TOKENS), layout)
    seen = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    run = Run(train=("language",), precision=precision, data=DataConfig(tokens=TOKENS))
    assert estimate_memory(run, model).activations == pytest.approx(seen, rel=0.2)


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
    assert found.average == found.gradients
    assert found.per_gpu(8) < found.per_gpu(1)


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
