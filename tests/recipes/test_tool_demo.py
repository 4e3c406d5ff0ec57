"""The demo of tools: the whole command, with a tiny model of random weights that learns nothing in two steps."""

import json

import pytest

from llavakit.core.errors import ConfigError
from llavakit.model import checkpoint as checkpoints
from llavakit.model.settings import ModelConfig
from llavakit.recipes import tool_demo
from llavakit.recipes.tool_demo import Profile, run_tool_demo
from llavakit.recipes.tool_pictures import KINDS
from tests import tiny


def test_the_whole_command_leaves_a_model_figures_and_runs(tmp_path, monkeypatch, capsys):
    made = tiny.checkpoint()
    made.model.language.config.max_position_embeddings = 2048
    checkpoints.save(made, tmp_path / "demo" / "stage2")
    (tmp_path / "demo" / "latest").write_text("stage2\n")
    monkeypatch.setattr(tool_demo, "demo_model", lambda: ModelConfig(template="chatml"))
    out = tmp_path / "demo" / "tools"
    run_tool_demo(tmp_path / "demo", out, Profile(lessons=6, steps=2, questions=2), resume=False)
    report = json.loads((out / "report.json").read_text())
    assert [set(row) for row in report["right answers"].values()] == [set(KINDS)] * 4
    assert report["calls"]["name"] == {"value": 0.0, "count": 8}
    assert (out / "loss.png").exists() and len(list((out / "test").glob("*/*/run.jsonl"))) == 30
    assert f"llavakit agent --model {out}" in capsys.readouterr().out.replace("\n", " ")
    checkpoints.load(out)


def test_without_a_demo_it_says_what_to_do_first(tmp_path):
    with pytest.raises(ConfigError, match="run `llavakit demo` first"):
        run_tool_demo(tmp_path, tmp_path / "tools", Profile(), resume=False)
