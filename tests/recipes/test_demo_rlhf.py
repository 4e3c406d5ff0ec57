"""The demo of RLHF: pairs are honest, and the whole command runs, stops and goes on, with a tiny model."""

import json
import signal
from dataclasses import replace

import pytest
from PIL import Image

import llavakit
from llavakit.core.errors import DataError, Interrupted
from llavakit.engine.responder import Answer
from llavakit.eval.easy_vqa import Question
from llavakit.model import checkpoint as checkpoints
from llavakit.recipes import demo, demo_rlhf
from llavakit.train.metrics import Metrics
from tests import tiny
from tests.recipes.test_demo import few_pictures

SMALL = replace(
    demo_rlhf.RLHF, questions=24, held_out=12, answers=3, reward_steps=1, ppo_steps=2, prompts=4, minibatches=1,
    test_questions=6,
)  # fmt: skip


class Says:
    """Answers in turn what it was told to."""

    def __init__(self, *answers: Answer):
        self.left = list(answers)

    def answers(self, talks, *, sampling):
        return [self.left.pop(0) for _ in talks]


def test_pairs_are_right_answers_against_wrong_ones_that_ended(tmp_path):
    questions = [Question(tmp_path / f"{at}.png", f"what {at}?", "red") for at in range(4)]
    said = [
        ("red", "stop"), ("blue", "stop"),  # a pair
        ("blue", "stop"), ("re", "length"),  # the second was cut
        ("red", "stop"), ("Red.", "stop"),  # both right
        ("gre", "length"), ("red", "stop"),  # the wrong one was cut
    ]  # fmt: skip
    file = tmp_path / "pairs.json"
    chat = Says(*(Answer(*each) for each in said))
    captions = {question.image: f"caption of {question.image.stem}" for question in questions}
    assert demo_rlhf.write_pairs(chat, questions, captions, file, answers=2) == 1
    [row] = json.loads(file.read_text())
    assert row == {
        "image": str(tmp_path / "0.png"), "prompt": "<image>\nwhat 0?", "chosen": "red", "rejected": "blue",
        "captions": ["caption of 0"],
    }  # fmt: skip
    with pytest.raises(DataError, match="none of 4 questions was answered both rightly and wrongly"):
        demo_rlhf.write_pairs(Says(*[Answer("red", "stop")] * 8), questions, captions, file, answers=2)


@pytest.fixture
def small(monkeypatch):
    """Whether an answer is right is read off its length, so that a model of random weights is sometimes right."""

    def make_stages(out, profile, data):
        checkpoints.save(tiny.checkpoint(), out / "stage2" / "step000001")
        (out / "stage2" / "latest").write_text("step000001\n")
        return []

    monkeypatch.setattr(demo, "make_stages", make_stages)
    monkeypatch.setattr(demo_rlhf, "EasyVqa", few_pictures)
    monkeypatch.setattr(demo_rlhf, "RLHF", SMALL)
    monkeypatch.setattr(demo_rlhf, "is_right", lambda answer, truth: len(answer) % 2 == 0)
    # No answer of random weights ends by itself.
    monkeypatch.setattr(demo_rlhf, "ended", lambda answer: bool(answer.text))


def test_the_command_runs_stops_and_goes_on(tmp_path, small, monkeypatch, run):
    add, out = Metrics.add, tmp_path / "rlhf"

    def press(self, row):
        add(self, row)
        if self.path.parent.name == "ppo":
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Metrics, "add", press)
    with pytest.raises(Interrupted, match=r"step 1 of 2; .*llavakit demo --rlhf --resume --out "):
        demo_rlhf.run_rlhf(out, resume=False, profile=SMALL)
    monkeypatch.setattr(Metrics, "add", add)
    pairs = (out / "data" / "pairs.json").read_bytes()

    demo_rlhf.run_rlhf(out, resume=True, profile=SMALL)
    assert (out / "data" / "pairs.json").read_bytes() == pairs
    facts = json.loads((out / "rlhf.json").read_text())
    assert set(facts["right"]) == {
        f"{when}, {how}" for when in ("before", "after") for how in ("greedy", "sampled")
    }
    for gain in facts["gain"].values():
        assert gain["low"] <= gain["points"] <= gain["high"]
    assert 0 <= facts["reward_model_accuracy"] <= 1 and facts["kl"] >= 0
    for picture in (out / "before.png", out / "after.png", out / "ppo" / "rollouts.png"):
        with Image.open(picture) as image:
            assert min(image.size) > 100
    assert list((out / "ppo" / "rollouts").glob("*.html"))
    assert isinstance(llavakit.load(out), llavakit.Chat)
    code, _, err = run("demo", "--rlhf", "--full")
    assert code == 2 and "--full and --rlhf are demos of their own" in err
