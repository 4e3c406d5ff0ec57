"""The paths that a GPU takes against their twins on the CPU: attention, loss, gradients, tokens, whole runs.

In the ordinary suite both sides are the CPU. `make gpu-test` runs them where there is CUDA.
"""

import json
from dataclasses import replace

import pytest
import torch

from llavakit.core.config import override
from llavakit.core.types import Segment
from llavakit.data.loader import Position
from llavakit.engine.decoder import ModuleDecoder, fuse
from llavakit.engine.engine import Engine
from llavakit.engine.linear import dequantize_int4, linear, quantize_int4, quantize_int8
from llavakit.engine.sampler import Sampling
from llavakit.model.attention import TreeLayout, see_matrix
from llavakit.model.fused import FusedLayout
from llavakit.train.activation_checkpointing import checkpoint_activations
from llavakit.train.compiling import compile_blocks
from llavakit.train.kto import Kto
from llavakit.train.kto_settings import KtoConfig
from llavakit.train.loop import train, train_step
from llavakit.train.metrics import read_metrics
from llavakit.train.objectives import SFT
from llavakit.train.pair_settings import PreferenceConfig
from llavakit.train.policy_objective import PolicyObjective
from llavakit.train.policy_settings import PolicyConfig
from llavakit.train.preference import Preference
from llavakit.train.reference import CopiedReference
from llavakit.train.small_moments import SmallAdamW
from tests import tiny
from tests.align.test_ppo import rows_of as answered_rows
from tests.data.test_loader import loader
from tests.model.test_attention import HOWS, masked
from tests.train.test_kto import rows_of as judged_rows
from tests.train.test_loop import interrupt_after, tiny_run
from tests.train.test_preference import one_batch, preference_run

PLAIN = (Segment(0, 150), Segment(150, 151), Segment(151, 300))
TREES = (Segment(0, 90), Segment(90, 160, 0), Segment(160, 170, 0), Segment(170, 300), Segment(300, 310, 3))
TIGHT, HALF = {"atol": 2e-5, "rtol": 2e-5}, {"atol": 2e-2, "rtol": 2e-2}


def on(device, how):
    """How a layer attends, its tensors on the device."""
    return how if how.sinks_H is None else replace(how, sinks_H=how.sinks_H.to(device))


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("segments", [PLAIN, TREES], ids=["plain", "trees"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention(device, segments, how, dtype):
    torch.manual_seed(0)
    x = [torch.randn(1, heads, segments[-1].end, 16) for heads in (4, 2, 2)]
    ours = FusedLayout(segments, device).attend(
        *(each.to(device, dtype) for each in x), on(device, HOWS[how])
    )
    close = TIGHT if dtype == torch.float32 else HALF
    torch.testing.assert_close(ours.float().cpu(), masked(*x, HOWS[how], segments), **close)


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("segments", [PLAIN, TREES], ids=["plain", "trees"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_of_attention(device, segments, how, dtype):
    torch.manual_seed(0)
    x = [torch.randn(1, heads, segments[-1].end, 16, requires_grad=True) for heads in (4, 2, 2)]
    there = [each.detach().to(device, dtype).requires_grad_() for each in x]
    # FlexAttention has no backward pass on the CPU.
    layout = FusedLayout if device.type == "cuda" else TreeLayout
    ours = layout(segments, device).attend(*there, on(device, HOWS[how]))
    twin = masked(*x, HOWS[how], segments)
    weight = torch.randn_like(twin)
    mine = torch.autograd.grad((ours * weight.to(device, dtype)).sum(), there)
    for one, other in zip(mine, torch.autograd.grad((twin * weight).sum(), x), strict=True):
        share = 4e-2 if dtype == torch.bfloat16 else 1e-4
        torch.testing.assert_close(one.float().cpu(), other, atol=share * float(other.abs().max()), rtol=0)


def test_nobody_sees_what_the_rule_forbids(device):
    """Values are the places of tokens: whoever saw another's would be off by far."""
    size = TREES[-1].end
    query = torch.zeros(1, 1, size, 16, device=device)
    value = torch.arange(size, device=device, dtype=torch.float32)[None, None, :, None].expand(1, 1, size, 16)
    ours = FusedLayout(TREES, device).attend(query, query, value.contiguous(), HOWS["plain"])
    see = see_matrix(TREES).float()
    mean = see @ torch.arange(size, dtype=torch.float32) / see.sum(1)
    torch.testing.assert_close(ours[0, 0, :, 0].cpu(), mean, atol=1e-2, rtol=1e-4)


def rows(folder, count=4):
    data = loader(tiny.data_file(folder), tokens=200)
    return [
        batch
        for batch, _ in zip((batch for batch, _ in data.batches(Position())), range(count), strict=False)
    ]


def loss_and_gradients(batch, device):
    model = tiny.checkpoint().model.to(device).train()
    loss = SFT().loss(model, batch.to(device)).terms["tokens"]
    loss.backward()
    return float(loss.detach()), {
        name: p.grad.cpu() for name, p in model.named_parameters() if p.grad is not None
    }


def test_loss_and_gradients_of_a_row(device, tmp_path):
    for batch in rows(tmp_path):
        loss, mine = loss_and_gradients(batch, device)
        twin, theirs = loss_and_gradients(batch, torch.device("cpu"))
        assert loss == pytest.approx(twin, rel=1e-4)
        assert mine.keys() == theirs.keys()
        for name, gradient in theirs.items():
            scale = float(gradient.abs().max())
            torch.testing.assert_close(mine[name], gradient, atol=1e-3 * scale + 1e-6, rtol=1e-3, msg=name)


def objective_of(kind, model, folder):
    """An objective on answers, with its batches."""
    if kind == "dpo":
        return Preference(PreferenceConfig(), CopiedReference(model)), [one_batch(folder)]
    if kind == "kto":
        return Kto(KtoConfig(), CopiedReference(model)), judged_rows(folder, 200)
    batches, _ = answered_rows(folder)
    return PolicyObjective(override(PolicyConfig(), [f"algorithm={kind}"])), batches[
        len(batches) // 2 :
    ]  # behind those of a value model


@pytest.mark.parametrize("kind", ["dpo", "kto", "grpo"])
def test_objectives_on_answers(device, tmp_path, kind):
    found = []
    for where in (device, torch.device("cpu")):
        model = tiny.checkpoint().model.to(where)
        objective, batches = objective_of(kind, model, tmp_path)
        with torch.no_grad():  # a policy that is what it was has no gradient to compare
            model.connector[0].bias.add_(0.1)
        loss, figures = train_step(model, objective, batches, precision="float32")
        gradient = model.get_parameter("language.model.layers.0.mlp.up_proj.weight").grad
        found.append((loss, figures, gradient.cpu()))
    (loss, figures, gradient), (twin, others, theirs) = found
    assert loss == pytest.approx(twin, rel=1e-3, abs=1e-5)
    assert figures == pytest.approx(others, rel=1e-2, abs=1e-4)
    torch.testing.assert_close(gradient, theirs, atol=1e-3 * float(theirs.abs().max()) + 1e-7, rtol=1e-2)


@pytest.mark.gpu
@pytest.mark.parametrize("recompute", [False, True])
def test_compiled_blocks_have_the_gradients_of_plain_ones(tmp_path, recompute):
    model = tiny.checkpoint().model.to("cuda").train()
    if recompute:
        checkpoint_activations(model)
    compile_blocks(model)
    for number, batch in enumerate(rows(tmp_path)):
        model.zero_grad()
        with torch.compiler.set_stance("default" if number < 2 else "fail_on_recompile"):
            SFT().loss(model, batch.to("cuda")).terms["tokens"].backward()
        _, theirs = loss_and_gradients(batch, torch.device("cpu"))
        for name, gradient in theirs.items():
            scale = float(gradient.abs().max())
            mine = model.get_parameter(name).grad.cpu()
            torch.testing.assert_close(mine, gradient, atol=1e-3 * scale + 1e-6, rtol=1e-3, msg=name)


@pytest.mark.gpu
def test_a_row_makes_the_host_wait_for_nothing(tmp_path):
    """Copies, forward and backward pass; the second time, when everything is compiled."""
    device = torch.device("cuda")
    model = tiny.checkpoint().model.to(device).train()
    for number, batch in enumerate(rows(tmp_path, 2)):
        torch.cuda.set_sync_debug_mode("error" if number else "default")
        try:
            SFT().loss(model, batch.to(device)).terms["tokens"].backward()
        finally:
            torch.cuda.set_sync_debug_mode("default")


def test_logits_of_a_row(device, tmp_path):
    batch = rows(tmp_path, 1)[0]
    found = []
    for where in (device, torch.device("cpu")):
        model = tiny.checkpoint().model.to(where)
        with torch.inference_mode():
            found.append(model.logits(model.hidden(batch.to(where))).cpu())
    torch.testing.assert_close(*found, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_the_engine_says_the_same_tokens(device, tmp_path, temperature):
    data = loader(tiny.data_file(tmp_path), tokens=200)
    samples = [data.samples(record) for record in data.records]
    how, found = Sampling(max_tokens=12, temperature=temperature, seed=3), []
    for where in (device, torch.device("cpu")):
        model = tiny.checkpoint().model.to(where)
        found.append(Engine(model, frozenset(), max_sequences=4).generate(samples, how))
    assert found[0] == found[1]


@pytest.mark.gpu
@pytest.mark.parametrize("decoder", [fuse, ModuleDecoder])
def test_recorded_steps_say_the_same_tokens(tmp_path, decoder):
    """Graphs of CUDA against steps as they are, with new weights in between; nothing is given up."""
    how, device = Sampling(max_tokens=40, ignore_end=True), torch.device("cuda")
    samples = tiny.prompts(tmp_path, [3, 60, 9, 130, 20])
    model, twin = (tiny.checkpoint().model.to(where) for where in (device, "cpu"))
    ours, theirs = (Engine(each, frozenset(), decoder=decoder(each)) for each in (model, twin))
    for weights in ({}, tiny.checkpoint(seed=1).model.state_dict()):
        ours.refresh({name: tensor.to(device) for name, tensor in weights.items()})
        theirs.refresh(weights)
        assert ours.generate(samples, how) == theirs.generate(samples, how)
        assert ours._forward._buckets is not None and ours._forward._buckets.recorded > 1


@pytest.mark.parametrize("rows_of_x", [1, 7, 40])
@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_packed_products(device, kind, rows_of_x):
    """Against float32 products with the numbers that the codes stand for."""
    torch.manual_seed(0)
    weight, bias, x = torch.randn(48, 64), torch.randn(48), torch.randn(rows_of_x, 64)
    weight, bias, x = (each.bfloat16() for each in (weight, bias, x))
    if kind == "int8":
        codes, scale = quantize_int8(weight)
        meant = codes.float() * scale.float()[:, None]
    else:
        meant = dequantize_int4(*quantize_int4(weight))
    ours = linear(weight.to(device), bias.to(device), kind)(x.to(device))
    torch.testing.assert_close(ours.float().cpu(), x.float() @ meant.T + bias.float(), atol=0.2, rtol=2e-2)


@pytest.mark.parametrize("kind", ["as_is", "bf16", "int8"])
def test_the_engine_runs_in_every_number_format(device, tmp_path, kind):
    data = loader(tiny.data_file(tmp_path), tokens=200)
    samples = [data.samples(record) for record in data.records][:3]
    model = tiny.checkpoint().model.to(device)
    engine = Engine(model, frozenset(), decoder=fuse(model, kind))
    said = engine.generate(samples, Sampling(max_tokens=5))
    assert [len(ids) for ids in said] == [5, 5, 5]


def run_tiny(folder, kind):
    """The losses of a run on whatever device there is; also called in a process that sees none."""
    from pathlib import Path

    make = {"sft": tiny_run, "dpo": preference_run}[kind]
    run = make(Path(folder), "there", **{"optim.steps": 3})
    train(run)
    return json.dumps([row["loss"] for row in read_metrics(run.out / "metrics.jsonl")])


@pytest.mark.parametrize("kind", ["sft", "dpo"])
@pytest.mark.gpu
def test_a_run_learns_what_it_learns_on_the_cpu(tmp_path, on_the_cpu, kind):
    (tmp_path / "here").mkdir()
    (tmp_path / "cpu").mkdir()
    mine = json.loads(run_tiny(tmp_path / "here", kind))
    assert mine == pytest.approx(
        json.loads(on_the_cpu(__name__, "run_tiny", tmp_path / "cpu", kind)), rel=2e-3
    )


@pytest.mark.gpu
def test_a_run_goes_on_exactly(tmp_path):
    whole, cut = tiny_run(tmp_path, "whole"), tiny_run(tmp_path, "cut")
    train(whole)
    interrupt_after(cut, 3)
    train(cut, resume=True)
    mine, theirs = (
        [row["loss"] for row in read_metrics(each.out / "metrics.jsonl")] for each in (cut, whole)
    )
    assert mine == pytest.approx(theirs, rel=1e-5)


@pytest.mark.gpu
def test_rows_of_all_lengths_are_one_graph_on_the_device():
    device = torch.device("cuda")
    for number in range(50):
        size = 130 + 37 * number
        segments = (Segment(0, size // 3), Segment(size // 3, size // 2, 0), Segment(size // 2, size, 0))
        x = [torch.randn(1, heads, size, 64, device=device, requires_grad=True) for heads in (4, 2, 2)]
        with torch.compiler.set_stance("default" if number == 0 else "fail_on_recompile"):
            FusedLayout(segments, device).attend(*x, HOWS["plain"]).sum().backward()


@pytest.mark.gpu
def test_a_step_waits_for_the_device_once(tmp_path):
    """Copies that wait are errors here; the metrics are read behind it."""
    device = torch.device("cuda")
    model = tiny.checkpoint().model.to(device).train()
    batches = [batch.to(device) for batch in rows(tmp_path, 3)]
    SFT().loss(model, batches[0]).terms["tokens"].backward()  # once, to warm up
    torch.cuda.set_sync_debug_mode("error")
    try:
        for batch in batches[1:]:
            SFT().loss(model, batch).terms["tokens"].backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("format", ["bf16", "int8"])
def test_small_moments_learn_as_large_ones(device, format):
    torch.manual_seed(0)
    values, slopes = torch.randn(64, 300), [torch.randn(64, 300) for _ in range(5)]
    found = []
    for where, kind in ((device, SmallAdamW), (torch.device("cpu"), torch.optim.AdamW)):
        param = torch.nn.Parameter(values.to(where, copy=True))
        settings = {"format": format} if kind is SmallAdamW else {}
        optimizer = kind([param], lr=1e-2, weight_decay=0.1, **settings)
        for slope in slopes:
            param.grad = slope.to(where)
            optimizer.step()
        found.append(param.detach().cpu())
    assert (found[1] - found[0]).norm() < 0.05 * (found[0] - values).norm()


def test_batches_move_whole(device, tmp_path):
    batch = rows(tmp_path, 1)[0].to(device)
    assert {x.device.type for x in vars(batch).values() if isinstance(x, torch.Tensor)} == {device.type}
