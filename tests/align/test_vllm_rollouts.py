"""vLLM draws the answers of a run and gets its new weights. Runs where LLAVAKIT_VLLM_PYTHON names its interpreter.

What it says of its tokens is what the learner finds, before steps of a large rate and after them.
"""

import pytest

from llavakit.align.experience import read_experiences
from llavakit.align.opening import open_policy
from llavakit.core import config as settings
from llavakit.data.settings import DataConfig
from llavakit.model.convert.convert import Options, export
from llavakit.model.directory import load_card
from llavakit.model.settings import ModelConfig
from llavakit.train.loop import train
from llavakit.train.metrics import read_metrics
from llavakit.train.run import Run
from llavakit.train.settings import LearningRates, OptimConfig
from tests import hf_tiny
from tests.align.test_rounds import write_questions
from tests.model.test_vllm import Server

pytestmark = pytest.mark.vllm
HOW = {
    "directory": ((), {}, {"VLLM_SERVER_DEV_MODE": "1"}),
    "directory, adapters merged": ((), {"model.lora": "{r: 4}"}, {"VLLM_SERVER_DEV_MODE": "1"}),
    "lora": (
        ("--enable-lora", "--max-lora-rank", "8"), {"model.lora": "{r: 4}", "policy.rollouts.reload": "lora"},
        {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("way", HOW)
def test_vllm_answers_with_the_weights_of_now(tmp_path, way, monkeypatch):
    options, changes, environment = HOW[way]
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    hf_tiny.directory("llava", tmp_path / "model", width=128)
    start = tmp_path / "served"
    export(tmp_path / "model", start, "vllm", Options(template="chatml", dtype="float32"))
    run = Run(
        name="rl",
        out=tmp_path / "run",
        train=("language",) if changes else ("connector", "language"),
        precision="float32",
        model=ModelConfig(start=start, **load_card(start).choices()),
        data=DataConfig(files=(write_questions(tmp_path),), tokens=600),
        optim=OptimConfig(lr=LearningRates(connector=0.02, language=0.02), steps=2),
    )
    (tmp_path / "reward.py").write_text("def score(answer, **rest):\n    return len(answer) % 3\n")
    rewards = f"{{terms: {{f: {{kind: python, function: '{tmp_path / 'reward.py'}:score'}}}}}}"
    server = Server(start, tmp_path / "log", *options)
    try:
        given = [
            f"policy={{prompts: 4, answers: 3, max_tokens: 6, rewards: {rewards}}}",
            f"policy.rollouts={{url: {server.url}}}",
            *(f"{name}={value}" for name, value in changes.items()),
        ]
        run = settings.override(run, given)
        train(run, policy=open_policy)
    finally:
        server.stop()
    rows = read_metrics(run.out / "metrics.jsonl")
    assert [row["drift"] < 0.01 for row in rows] == [True, True], [row["drift"] for row in rows]
    rounds = [read_experiences(file) for file in sorted((run.out / "rollouts").glob("*.jsonl"))]
    moved = [abs(sum(e.columns["old"]) - sum(e.columns["reference"])) for e in rounds[1]]
    assert max(moved) > 1  # old weights would be seen
    assert all(len(each.rollout.ids) <= 6 for found in rounds for each in found)
