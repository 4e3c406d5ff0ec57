"""The benchmark of `make gpu-bench`, with shapes for a CPU: every column that a CPU can fill has a number."""

import json

import pytest
import torch

from benchmarks import gpu
from llavakit.train import compiling


def test_it_measures_every_side_and_ends_with_one_line(capsys, monkeypatch):
    monkeypatch.setattr(compiling, "BACKEND", "eager")
    gpu.main(["--tiny", "--steps", "1", "--compile"])
    torch._dynamo.reset()
    shown = capsys.readouterr().out.splitlines()
    found = json.loads(shown[-1])
    assert [row["shape"] for row in found["rows"]] == ["tiny", "tiny, adapters"]
    assert {"machine", "name", "rows"} == found.keys()
    assert any("transformers, padded" in line for line in shown[:-1])  # of a table that 80 columns hold
    ours = {
        "step_tokens_per_second",
        "compiled_tokens_per_second",
        "mfu",
        "estimate_gb",
        "answer_1",
        "answer_16",
        "queue",
    }
    theirs = {"peer_step_tokens_per_second", "peer_answer_1", "peer_answer_16", "peer_queue"}
    whole, adapters = found["rows"]
    assert all(whole[key] > 0 for key in ours | theirs)
    assert all(adapters[key] > 0 for key in ours) and not theirs & adapters.keys()


@pytest.mark.parametrize("shape", gpu.SHAPES, ids=lambda shape: shape.name)
def test_the_shapes_are_those_of_their_names(shape):
    """Counted without memory."""
    with torch.device("meta"):
        made = gpu.AutoModelForCausalLM.from_config(shape.config())
    named = {"SmolLM2-135M": 0.135e9, "Qwen2-0.5B": 0.494e9, "Qwen2-7B": 7.6e9}[shape.name]
    assert sum(p.numel() for p in made.parameters()) == pytest.approx(named, rel=0.02)
