"""Runs that train adapters: what changes, what is left, and that they resume and merge like any other."""

import re

import pytest
import torch
from safetensors.torch import load_file

from llavakit.chat import answer
from llavakit.core import config as settings
from llavakit.core.errors import CheckpointError, ConfigError
from llavakit.model import checkpoint as checkpoints
from llavakit.model.convert.convert import merge
from llavakit.model.directory import resolve
from llavakit.train import freezing, starting
from llavakit.train.loop import train
from tests.train.test_loop import interrupt_after, losses, tiny_run

LORA = {"model.lora": "{r: 4, alpha: 8}"}  # with its dropout of 0.05


def learned(run) -> dict[str, torch.Tensor]:
    folder = resolve(run.out)
    return load_file(folder / "adapter_model.safetensors") | load_file(folder / "connector.safetensors")


def test_a_run_leaves_adapters_and_connector_and_talks_by_its_path(tmp_path, capsys):
    run = tiny_run(tmp_path, **LORA, **{"optim.steps": 30})
    base = load_file(tmp_path / "start" / "model.safetensors")
    train(run)
    headline = " ".join(capsys.readouterr().out.split())
    assert re.search(r"language 0\.0M of 0\.\dM trained", headline) and "connector 0.0M trained" in headline
    curve = losses(run)
    assert sum(curve[-5:]) < 0.8 * sum(curve[:5])
    assert not list(resolve(run.out).glob("model*.safetensors"))
    back = checkpoints.load(run.out).model
    now = {name.replace(".base_layer", ""): p for name, p in back.named_parameters() if "lora_" not in name}
    assert torch.equal(now["language.lm_head.weight"], base["language_model.lm_head.weight"])
    layer = "model.layers.0.self_attn.q_proj.weight"
    assert torch.equal(now[f"language.{layer}"], base[f"language_model.{layer}"])
    assert not torch.equal(now["connector.linear_1.weight"], base["multi_modal_projector.linear_1.weight"])


@pytest.mark.parametrize("tower", [False, True])
def test_a_run_with_adapters_and_dropout_resumes_bit_for_bit(tmp_path, tower):
    changes = {"model.lora": f"{{r: 4, alpha: 8, tower: {tower}}}"}
    if tower:
        changes["train"] = "[tower, connector, language]"
    whole, cut = tiny_run(tmp_path, "whole", **changes), tiny_run(tmp_path, "cut", **changes)
    train(whole)
    interrupt_after(cut, 3)
    train(cut, resume=True)
    assert losses(cut) == losses(whole)
    mine, theirs = learned(cut), learned(whole)
    assert all(torch.equal(mine[key], theirs[key]) for key in theirs)


def test_frozen_matrices_in_bf16_change_no_number(tmp_path, monkeypatch):
    """Loss, adapters, answers to probes: products round them in any case. Half of the memory is gone."""
    probes = {
        "probes.file": tmp_path / "data.json",
        "probes.every": 3,
        "probes.count": 2,
        "probes.max_tokens": 4,
    }
    runs = {
        name: tiny_run(tmp_path, name, **LORA, **probes, precision="bf16") for name in ("plain", "halved")
    }
    held = []

    def halve(model):
        freezing.halve_frozen(model)
        layers = model.language.model.layers
        held.extend(p.dtype for name, p in layers.named_parameters() if "proj.base_layer" in name)
        held.append(model.language.get_input_embeddings().weight.dtype)

    monkeypatch.setattr(starting, "halve_frozen", halve)
    train(runs["halved"], answer=answer)
    assert held.pop() == torch.float32 and set(held) == {torch.bfloat16} and len(held) == 14
    monkeypatch.setattr(starting, "halve_frozen", lambda model: None)
    train(runs["plain"], answer=answer)
    assert losses(runs["halved"]) == losses(runs["plain"])
    mine, theirs = learned(runs["halved"]), learned(runs["plain"])
    assert all(torch.equal(mine[key], theirs[key]) for key in theirs)
    said = [(run.out / "probes.jsonl").read_text() for run in runs.values()]
    assert said[0] == said[1]


def test_four_bits_train_and_resume_bit_for_bit(tmp_path):
    changes = {"model.lora": "{r: 4, alpha: 8, four_bit: true}", "optim.steps": 4}
    whole, cut = tiny_run(tmp_path, "whole", **changes), tiny_run(tmp_path, "cut", **changes, save_every=2)
    train(whole)
    cut = settings.override(cut, ["keep=9"])
    train(cut)
    (cut.out / "latest").write_text("step000002\n")  # as if it had been killed in its third step
    train(cut, resume=True)
    assert losses(cut) == losses(whole)
    mine, theirs = learned(cut), learned(whole)
    assert all(torch.equal(mine[key], theirs[key]) for key in theirs)


def test_a_second_run_goes_on_with_the_adapters_of_the_first(tmp_path):
    first = tiny_run(tmp_path, "first", **LORA)
    train(first)
    second = tiny_run(tmp_path, "second", **LORA, **{"model.start": first.out})
    train(second)
    loaded = checkpoints.load(second.out)
    assert loaded.adapter.base == tmp_path / "start"  # not the first run: one base, one set of adapters
    assert losses(second)[0] < losses(first)[0]


def test_merging_a_run(tmp_path):
    run = tiny_run(tmp_path, **LORA)
    train(run)
    merge(run.out, tmp_path / "merged")
    merged = checkpoints.load(tmp_path / "merged")
    assert merged.adapter is None
    assert merged.card == checkpoints.load(run.out).card
    with pytest.raises(ConfigError, match=r"holds a model already; .* --overwrite"):
        merge(run.out, tmp_path / "merged")
    merge(run.out, tmp_path / "merged", overwrite=True)
    with pytest.raises(CheckpointError, match="is an ordinary checkpoint; there is nothing to merge"):
        merge(tmp_path / "merged", tmp_path / "again")
