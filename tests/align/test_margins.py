"""The reward that a run has learned, and the blind control: is it told apart without the pictures?"""

import json
import re

import pytest
import torch

from llavakit.align.implicit_reward import ImplicitReward
from llavakit.align.margins import compare_blind
from llavakit.align.reward_model import Unscorable
from llavakit.core.errors import ConfigError
from llavakit.data.blind import swap_media
from llavakit.data.mixture import Mixture, list_sources
from llavakit.data.pack import collate
from llavakit.model import checkpoint as checkpoints
from llavakit.train.answers import answer_logprobs
from llavakit.train.loop import train
from tests import tiny
from tests.train.test_reward import reward_run


def write_pairs(folder, *, pictures: int = 4, words: int = 2):
    """Every picture twice; two pairs without one, and one about two pictures, which nobody can exchange with."""
    rows = []
    for number in range(2 * pictures):
        image = tiny.picture(folder / f"{number % pictures}.png", seed=number % pictures).name
        rows.append(
            {
                "image": image,
                "prompt": f"<image>\nWhat is {number}?",
                "chosen": "red",
                "rejected": "a blue one",
            }
        )
    rows += [{"prompt": f"What is {number}?", "chosen": "red", "rejected": "blue"} for number in range(words)]
    two = {
        "images": ["0.png", "1.png"],
        "prompt": "<image><image>Which?",
        "chosen": "this",
        "rejected": "that",
    }
    (folder / "pairs.json").write_text(json.dumps([*rows, two]))
    return Mixture(list_sources([folder / "pairs.json"]), seed=0)


def test_pictures_go_to_other_pairs_and_nothing_else_changes(tmp_path):
    pairs = [record.pair() for record in write_pairs(tmp_path)]
    swapped = swap_media(pairs)
    assert [other is None for other in swapped] == [False] * 8 + [True] * 3
    for (chosen, rejected), other in zip(pairs[:8], swapped[:8], strict=True):
        assert other[0].media == other[1].media != chosen.media
        assert [m.text for m in other[0].messages] == [m.text for m in chosen.messages]
        assert [m.text for m in other[1].messages] == [m.text for m in rejected.messages]
    # One picture, one stand-in, wherever it is asked about; and every picture stands in for one.
    assert [each[0].media for each in swapped[:4]] == [each[0].media for each in swapped[4:8]]
    assert {each[0].media for each in swapped[:4]} == {chosen.media for chosen, _ in pairs[:4]}


def test_a_reward_that_looks_is_told_from_one_that_does_not(tmp_path):
    mixture = write_pairs(tmp_path)
    own = {record.pair()[0].messages[0].text: record.pair()[0].media for record in mixture}

    class Looks:
        def scores(self, talks):
            return [
                float(talk.messages[-1].text == "red")
                * (1.0 if talk.media == own[talk.messages[0].text] else -1.0)
                for talk in talks
            ]

    class Counts:
        def scores(self, talks):
            return [-float(len(talk.messages[-1].text)) for talk in talks]

    class Fails:
        def scores(self, talks):
            return [Unscorable("too long")] * len(talks)

    assert compare_blind(mixture, Fails()).unread == 8
    looks, counts = compare_blind(mixture, Looks()), compare_blind(mixture, Counts())
    assert (looks.seen.pairs, looks.unread) == (8, 0)
    assert (looks.seen.right, looks.blind.right) == (8.0, 0.0)
    assert counts.seen == counts.blind
    assert str(looks.seen) == "margin +1.000, 100.0% of 8 right"


def test_the_implicit_reward_is_the_log_ratio_of_separate_sequences(tmp_path):
    mixture = write_pairs(tmp_path, pictures=2)
    for name, seed in (("policy", 1), ("start", 0)):
        checkpoints.save(tiny.checkpoint(seed=seed), tmp_path / name)
    reward = ImplicitReward(tmp_path / "policy", tmp_path / "start", beta=0.5, tokens=80)
    talks = [talk for record in mixture for talk in record.pair()]
    policy, start = (checkpoints.load(tmp_path / name).model.eval() for name in ("policy", "start"))
    for talk, score in zip(talks, reward.scores(talks), strict=True):
        sample = reward.encoder.encode(talk)
        batch = collate([sample], [media.tiles() for media in sample.media])
        with torch.no_grad():
            ratio = answer_logprobs(policy, batch)[0] - answer_logprobs(start, batch)[0]
        assert score == pytest.approx(0.5 * float(ratio), abs=1e-4)


def test_models_that_read_differently_are_refused(tmp_path):
    for name in ("chatml", "vicuna_v1"):
        checkpoints.save(tiny.checkpoint(name), tmp_path / name)
    with pytest.raises(ConfigError, match=r"do not read alike \(template\)"):
        ImplicitReward(tmp_path / "chatml", tmp_path / "vicuna_v1")


def test_the_report_of_pairs_has_the_control(tmp_path, run):
    write_pairs(tmp_path, pictures=2)
    checkpoints.save(tiny.checkpoint(), tmp_path / "start")
    words = ["data", "pairs", tmp_path / "pairs.json", "--out", tmp_path / "found"]
    code, out, err = run(*words, "--model", tmp_path / "start", "--against", tmp_path / "start")
    assert "reward, own pictures: margin +0.000, 50.0% of 4 right" in out
    assert "reward, pictures of other pairs: margin +0.000, 50.0% of 4 right" in out
    (tmp_path / "other").mkdir()
    taught = reward_run(tmp_path / "other", **{"optim.steps": 1})
    train(taught)
    _, out, _ = run(*words, "--reward", taught.out)
    assert re.search(r"own pictures: margin [+-]\d\.\d+, \d+\.\d% of 4 right", " ".join(out.split()))
    code, _, err = run(*words, "--against", tmp_path / "start")
    assert (code, err.strip()) == (
        2,
        "error: --against START needs --model DIR, the model that was trained from it",
    )
