"""A reward model at work: as separate sequences, beside what cannot be scored, as a term, on benchmarks."""

import json
import random

import pytest
import torch

from llavakit.align.reward_model import RewardModel, Unscorable, open_reward_model
from llavakit.align.rewards.composer import Composer
from llavakit.align.rollouts import Rollout
from llavakit.core import config
from llavakit.core.errors import ConfigError, RemoteTimeout
from llavakit.data.encode import Encoder
from llavakit.data.pack import collate
from llavakit.engine.responder import Answer
from llavakit.model import checkpoint as checkpoints
from llavakit.text.conversation import Conversation, assistant, user
from llavakit.train.loop import train
from llavakit.train.metrics import read_metrics
from llavakit.train.reward import answer_scores
from llavakit.train.reward_terms import RewardsConfig, llava_rlhf_rewards
from tests import tiny
from tests.train.test_loop import tiny_run

COLORS = ["red", "blue", "green"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A reward model's directory, and a picture."""
    folder = tmp_path_factory.mktemp("reward")
    checkpoints.save(tiny.reward_checkpoint(), folder / "model")
    checkpoints.save(tiny.reward_checkpoint(facts=True), folder / "informed")
    tiny.picture(folder / "x.png")
    return folder


@pytest.fixture(scope="module")
def model(folder):
    return open_reward_model(folder / "model")


def talk(folder, answer: str, question: str = "What color is it?") -> Conversation:
    return Conversation((user(question, [folder / "x.png"]), assistant(answer)))


def alone(talks: list[Conversation], facts: list[str] | None = None) -> list[float]:
    """Each scored by the modules in a row of its own."""
    made = tiny.reward_checkpoint()
    encoder = Encoder(made.tokenizer, made.card.prompt(), made.card.image)
    with torch.no_grad():
        found = []
        for each in talks:
            sample = encoder.encode_graded([each], made.card.grading, facts or ())
            found += answer_scores(made.model, collate([sample], [m.tiles() for m in sample.media])).tolist()
    return found


def test_scores_are_those_of_each_answer_alone(model, folder):
    talks = [talk(folder, answer) for answer in ("red", "a blue circle", "no")]
    talks += [talk(folder, "yes", "Is it red?"), Conversation((user("hello"), assistant("yes")))]
    found = model.scores(talks)
    assert found == pytest.approx(alone(talks), abs=1e-4)
    assert len({round(score, 3) for score in found}) == 5
    assert model.scores(talks, [["It is red."]] * 5) == pytest.approx(alone(talks, ["It is red."]), abs=1e-4)
    assert model.scores([]) == []


def test_what_cannot_be_scored_says_why_and_leaves_its_neighbours_alone(model, folder):
    gone = Conversation((user("What is it?", [folder / "gone.png"]), assistant("red")))
    talks = [talk(folder, "red"), talk(folder, " "), talk(folder, "red " * 600), talk(folder, "blue"), gone]
    found = model.scores(talks)
    reasons = [score.reason for score in found if isinstance(score, Unscorable)]
    assert [found[0], found[3]] == pytest.approx(alone([talks[0], talks[3]]), abs=1e-4)
    assert [reason.split(";")[0] for reason in reasons] == [
        "an answer is empty",
        next(reason.split(";")[0] for reason in reasons if "do not fit the model's context" in reason),
        next(reason.split(";")[0] for reason in reasons if "gone.png" in reason),
    ]


def test_a_score_that_is_no_number_is_none(model, folder):
    class Broken:
        def rewards(self, batch):
            return torch.tensor([float("nan"), 1.0])

    found = RewardModel(Broken(), model.encoder, model.grading).scores(
        [talk(folder, "red"), talk(folder, "no")]
    )
    assert found == [Unscorable("the score is nan"), 1.0]


def test_a_reward_model_of_another_tower_and_template_looks_in_its_own_way(tmp_path, folder):
    other = tiny.reward_checkpoint("vicuna_v1", seed=3)
    checkpoints.save(other, tmp_path / "other")
    found = open_reward_model(tmp_path / "other").scores([talk(folder, "red"), talk(folder, "blue")])
    assert found[0] != pytest.approx(found[1], abs=1e-4)


def test_a_directory_that_is_no_reward_model_is_one_line(tmp_path):
    checkpoints.save(tiny.checkpoint(), tmp_path / "plain")
    with pytest.raises(
        ConfigError, match=r"plain is no reward model; make one of it: llavakit train reward model"
    ):
        open_reward_model(tmp_path / "plain")


def rollout(folder, text: str, **fields) -> Rollout:
    prompt = Conversation((user("What color is it?", [folder / "x.png"]),))
    return Rollout("data.json:1", 0, 0, prompt, "red", (5,), (0.0,), text, "stop", **fields)


def totals(terms: dict, rollouts, **settings) -> tuple[list[float | None], list[str]]:
    made = config.make(RewardsConfig, {"terms": terms} | settings, where="test")
    with Composer(made) as composer:
        return [row["rm"] for row in composer.scores(rollouts)], composer.unscorable


def test_it_is_a_term_of_a_reward_with_facts_or_without(folder):
    facts = ["It is red."]
    given = [rollout(folder, "red", facts=tuple(facts)), rollout(folder, "blue")]
    talks = [talk(folder, "red"), talk(folder, "blue")]
    plain, informed = ({"rm": {"model": str(folder / name)}} for name in ("model", "informed"))
    assert totals(plain, given)[0] == pytest.approx(alone(talks), abs=1e-4)
    scores, reasons = totals(informed, given)
    assert scores == [pytest.approx(alone(talks[:1], facts)[0], abs=1e-4), None]
    assert reasons == ["rm: data.json:1: no facts"]
    withheld = {"rm": {"model": str(folder / "informed"), "facts": False}}
    assert totals(withheld, given)[0] == pytest.approx(alone(talks), abs=1e-4)
    (folder / "facts.json").write_text(json.dumps({"x.png": facts}))
    scores, _ = totals(informed, given[1:], facts={"file": str(folder / "facts.json")})
    assert scores == pytest.approx(alone(talks[1:], facts), abs=1e-4)


def test_llava_rlhfs_reward_has_its_model(folder):
    with Composer(llava_rlhf_rewards(str(folder / "model"), symbolic=False)) as composer:
        (row,) = composer.scores([rollout(folder, "red", extra={"length_bonus": 2})])
    assert row["total"] == pytest.approx(alone([talk(folder, "red")])[0] - 20 / 896, abs=1e-4)


class ScriptedJudge:
    """Answers with the next of given texts, or fails as they say, and keeps what it was asked."""

    def __init__(self, *texts: str) -> None:
        self.texts, self.asked = texts, []

    def outcomes(self, conversations, *, sampling):
        self.asked += conversations
        for at, said in enumerate(self.texts):
            yield at, Answer(said, "stop") if isinstance(said, str) else said


def test_a_judge_is_a_term(folder):
    late = RemoteTimeout("http://judge: no answer within 600 s")
    judge = ScriptedJudge(
        "It is right.\n9", "No number.", "11", "7 of 10\n2.5", late, "<think>A 3?</think>8", "<think>A 3? Or"
    )
    terms = {"judge": {"model": "somewhere", "facts": True}}
    made = config.make(RewardsConfig, {"terms": terms}, where="test")
    texts = ("red", "{reference}", "b", "c", "d", "e", "f")
    answers = [rollout(folder, text, facts=("It is red.",)) for text in texts]
    with Composer(made, open_responder={"somewhere": judge}.__getitem__) as composer:
        scores = [row["judge"] for row in composer.scores(answers)]
        assert scores == [0.9, None, None, 0.25, None, 0.8, None]
        assert "no number from 0 to 10 in the judge's 'No number.'" in composer.unscorable[0]
        assert "no answer within 600 s" in composer.unscorable[2]
    asked = judge.asked[1].messages[0].text
    assert "Answer: {reference}" in asked and "Reference: red" in asked and "- It is red." in asked
    assert judge.asked[0].images[0].source == folder / "x.png"
    with pytest.raises(ConfigError, match="a judge needs somebody who opens models"):
        Composer(made)


def write_rows(folder, name: str, rows: list[dict]):
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / name


def test_pairs_are_scored_by_the_verb_and_a_run_goes_on(folder, tmp_path, run):
    pairs = [
        {
            "image": "x.png",
            "prompt": f"<image>\nWhat is it, {n}?",
            "chosen": "red",
            "rejected": "a blue one",
            "ocr": "A",
        }
        for n in range(3)
    ]
    file, out = write_rows(folder, "pairs.jsonl", pairs), tmp_path / "scores.jsonl"
    code, said, _ = run("reward", file, "--model", folder / "model", "--out", out)
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    talks = [talk(folder, answer, f"What is it, {n}?") for n in range(3) for answer in ("red", "a blue one")]
    assert [score for row in rows[1:] for score in row["scores"]] == pytest.approx(alone(talks), abs=1e-4)
    right = sum(row["scores"][0] > row["scores"][1] for row in rows[1:]) / 3
    assert code == 0 and f"accuracy                {right:>10.4f}" in said
    assert all(f"\n{name} " in f"\n{said}" for name in ("lowest", "highest", "length pearson", "unscorable"))
    write_rows(folder, "pairs.jsonl", pairs)
    out.write_text("\n".join(out.read_text().splitlines()[:2]) + '\n{"half')
    assert run("reward", file, "--model", folder / "model", "--out", out)[0] == 0
    again = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row.get("line") for row in again] == [None, 1, 2, 3] and again[:2] == rows[:2]
    assert again[3]["scores"] == pytest.approx(rows[3]["scores"], abs=1e-4)
    code, _, error = run("reward", file, "--model", folder / "informed", "--out", out)
    assert (code, "was taught with facts: give them (--facts, --fact-field), or --no-facts" in error) == (
        2,
        True,
    )
    code, _, error = run("reward", file, "--model", folder / "informed", "--out", out, "--fact-field", "ocr")
    assert (code, "has scores of another file or model" in error) == (2, True)
    new = tmp_path / "informed.jsonl"
    assert run("reward", file, "--model", folder / "informed", "--out", new, "--fact-field", "ocr")[0] == 0
    code, _, error = run(
        "reward", file, "--model", folder / "informed", "--out", tmp_path / "n", "--fact-field", "x"
    )
    assert (code, "pairs.jsonl:1: no facts: no field 'x'" in error) == (2, True)


def test_answers_without_a_label_are_scored_and_too_many_failures_are_exit_1(folder, tmp_path, run):
    rows = [
        tiny.record(n, "x.png", [("What is it?", answer)]) for n, answer in enumerate(["red", "blue " * 600])
    ]
    file = write_rows(folder, "talks.jsonl", rows)
    code, said, _ = run("reward", file, "--model", folder / "model", "--out", tmp_path / "scores.jsonl")
    assert code == 1 and f"no score: {file}:2: " in said and "accuracy" not in said
    kept = [json.loads(line) for line in (tmp_path / "scores.jsonl").read_text().splitlines()][1:]
    assert kept[0]["scores"] == pytest.approx(alone([talk(folder, "red", "What is it?")]), abs=1e-4)
    assert kept[1]["scores"] == [None]


def test_the_layouts_of_reward_benchmarks_give_their_figures(folder, tmp_path, run):
    vl = [
        {"id": f"{name}-{n}", "query": "What is it?", "image": "x.png", "response": ["red", "a blue one"],
         "human_ranking": [0, 1] if n < 2 else [1, 0]}
        for name in ("wildvision", "povid", "mathverse")
        for n in range(3)
    ]  # fmt: skip
    multimodal = [
        {"ID": f"{n}", "Text": "What is it?", "Image": "x.png", "Output1": "red", "Output2": "a blue one",
         "Better": "Output1", "Category": name}
        for n, name in enumerate(("general", "knowledge", "vqa"))
    ]  # fmt: skip
    first = alone([talk(folder, answer, "What is it?") for answer in ("red", "a blue one")])
    share = 2 / 3 if first[0] > first[1] else 1 / 3
    for name, rows, groups, right in (
        ("vl.jsonl", vl, ("general", "hallucination", "reasoning"), share),
        ("mm.jsonl", multimodal, ("general", "knowledge", "vqa"), float(first[0] > first[1])),
    ):
        file = write_rows(folder, name, rows)
        _, said, _ = run("reward", file, "--model", folder / "model", "--out", tmp_path / name)
        for figure in ("overall", "macro", *groups):
            assert f"{figure:<24}{right:>10.4f}" in said


def coloured_pairs(folder, name: str, seed: int):
    """64 pairs in which the picture says nothing: only the facts tell which colour is invented."""
    draw, rows = random.Random(seed), []
    for number in range(64):
        right, wrong = draw.sample(COLORS, 2)
        shape = draw.choice(["circle", "rectangle", "triangle"])
        rows.append({
            "image": "x.png", "prompt": f"<image>\nWhat color is {number}?", "chosen": f"a {right} {shape}",
            "rejected": f"a {wrong} {shape}", "facts": [f"It is {right}."],
        })  # fmt: skip
    return write_rows(folder, name, rows)


def test_with_facts_an_invented_answer_ranks_lower_on_unseen_pairs_and_without_it_cannot(tmp_path):
    tiny.picture(tmp_path / "x.png")
    (tmp_path / "prompt.txt").write_text("{facts} Good?")
    files = {
        "data.files": coloured_pairs(tmp_path, "a.jsonl", 0),
        "eval.files": coloured_pairs(tmp_path, "b.jsonl", 1),
    }
    last = {}
    for name, facts in (("with", "{fields: facts}"), ("without", "null")):
        settings = {
            "reward": f"{{prompt: {tmp_path}/prompt.txt, lead: 'True:', facts: {facts}}}",
            "train": "[language, score]",
            "optim.lr": 3e-3, "optim.steps": 30, "optim.rows": 1, "optim.warmup": 0.1, "data.tokens": 2048,
        }  # fmt: skip
        learned = tiny_run(tmp_path, name, **files, **settings)
        train(learned)
        last[name] = read_metrics(learned.out / "metrics.jsonl")[-1]
    assert last["with"]["accuracy"] == 1.0 and last["with"]["eval_accuracy"] > 0.95  # it fits its 64 pairs
    assert 0.35 < last["without"]["eval_accuracy"] < 0.65
