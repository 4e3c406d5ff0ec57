"""DPO in rounds and rejection sampling: which answers are learned, against whom, and that rounds go on exactly."""

import json
import math
from dataclasses import replace

import pytest
import torch

from llavakit.align.choosing import choose, find_worth, open_objective, write_chosen
from llavakit.align.experience import Experience, read_experiences, write_experiences
from llavakit.align.opening import open_policy
from llavakit.align.rollouts import Rollout
from llavakit.core import config as settings
from llavakit.core.errors import ConfigError, DataError
from llavakit.data.records import read_records
from llavakit.text.conversation import Conversation, user
from llavakit.train.loop import train
from llavakit.train.metrics import read_metrics
from llavakit.train.policy_settings import PolicyConfig
from llavakit.train.ranks import ALONE
from tests.align.test_rounds import interrupt, policy_run, rows_and_weights


def scored(*groups: list[float | None]) -> list[Experience]:
    """An answer for every score; each list is a prompt's."""
    return [
        Experience(
            Rollout(
                key=f"q.json:{group}", group=group, choice=choice, prompt=Conversation((user("Which?"),)),
                reference="", ids=(1,), logprobs=(0.0,), text=f"answer {choice}", finish="stop",
            ),
            {"total": score},
        )
        for group, scores in enumerate(groups)
        for choice, score in enumerate(scores)
    ]  # fmt: skip


def test_the_best_is_taken_against_the_worst_or_alone():
    every = scored([0.1, 0.9, None, 0.4], [2.0, 1.0, 1.5, 0.0])
    assert [each.rollout.choice for each in choose(every, "pairs")] == [1, 0, 0, 3]
    assert [each.rollout.choice for each in choose(every, "best")] == [1, 0]
    assert choose(every, "all") == every


@pytest.mark.parametrize(
    ("changes", "worth"),
    [
        ({"learn": "pairs"}, [True, False, True, False]),
        ({"learn": "pairs", "gap": 0.5}, [True, False, False, False]),
        ({"learn": "pairs", "at_least": 0.9}, [True, False, False, False]),
        ({"learn": "best"}, [True, True, True, False]),
        ({"learn": "best", "at_least": 0.5}, [True, True, False, False]),
    ],
)
def test_prompts_that_teach_nothing_are_known(changes, worth):
    every = scored([1.0, 0.0, None], [0.5, 0.5, 0.5], [0.4, 0.1, 0.2], [None, None, None])
    policy = PolicyConfig(answers=3, **changes)
    assert find_worth(every, policy, 4, ALONE).tolist() == worth


def test_a_prompt_without_a_score_gives_way_to_another(tmp_path):
    """Best of K: of the prompt whose answers nothing could score there is no best one."""
    function = tmp_path / "some.py"
    function.write_text("def score(question, **rest):\n    return None if '1' in question else 1\n")
    changes = {
        "policy.learn": "best",
        "policy.unscorable": 1.0,
        "policy.rewards": f"{{terms: {{f: {{kind: python, function: '{function}:score'}}}}}}",
        "optim.steps": 4,
    }
    run = policy_run(tmp_path, **changes)
    train(run, policy=open_policy)
    rows = read_metrics(run.out / "metrics.jsonl")
    assert sum(row.get("filtered", 0) for row in rows) >= 1
    assert {row["groups"] for row in rows if "groups" in row} == {4}


def test_an_answer_without_a_score_does_not_hide_that_the_others_differ():
    every = scored([1.0, 0.0, None], [1.0, 1.0, None], [None, None, None])
    policy = PolicyConfig(answers=3, algorithm={"filter": "total"})
    assert find_worth(every, policy, 3, ALONE).tolist() == [True, False, False]


def rounds_run(folder, name="rounds", **changes):
    """Two rounds of DPO, two steps each; then the same of what `changes` say."""
    given = {"policy.learn": "pairs", "preference": "{beta: 0.5}", "policy.tries": 3}
    return policy_run(folder, name, **(given | changes))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Two rounds of DPO, measured against who answered."""
    run = rounds_run(tmp_path_factory.mktemp("trained"))
    train(run, policy=open_policy)
    return run


def test_dpo_in_rounds_is_measured_against_who_answered(trained):
    rows = read_metrics(trained.out / "metrics.jsonl")
    assert rows[0]["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert rows[2]["loss"] == pytest.approx(math.log(2), abs=1e-5)  # a round later the reference is another
    assert rows[3]["loss"] != pytest.approx(math.log(2), abs=1e-5)
    assert rows[0]["groups"] == 4
    for each in choose(read_experiences(first_round(trained)), "pairs")[::2]:
        assert each.scores["total"] == 1.0


def test_or_against_the_start(tmp_path):
    run = rounds_run(tmp_path, **{"policy.anchor": "start", "policy.temperature": 0.7, "policy.top_p": 0.9})
    train(run, policy=open_policy)
    rows = read_metrics(run.out / "metrics.jsonl")
    assert rows[0]["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert (
        abs(rows[2]["rewards/chosen"]) > 1e-3
    )  # the second round's answers come from a model that has moved


def test_rounds_of_dpo_go_on_exactly(tmp_path, trained):
    """Stopped within the first round: its reference is in the file of its answers."""
    cut = rounds_run(tmp_path)
    interrupt(cut, 1)
    train(cut, resume=True, policy=open_policy)
    (mine, mine_weights), (theirs, their_weights) = rows_and_weights(cut), rows_and_weights(trained)
    assert mine == theirs
    assert all(torch.equal(mine_weights[key], their_weights[key]) for key in their_weights)


def test_rejection_sampling_learns_the_best_answers_alone(tmp_path):
    run = policy_run(tmp_path, **{"policy.learn": "best", "policy.at_least": 0.5, "optim.steps": 2})
    train(run, policy=open_policy)
    first, second = read_metrics(run.out / "metrics.jsonl")
    best = choose(read_experiences(first_round(run)), "best")
    assert first["learned"] + second["learned"] == sum(len(each.rollout.ids) for each in best)
    assert {"loss", "accuracy", "reward"} <= first.keys() and "clip_fraction" not in first


def ended(file, folder, *, cut: tuple[int, ...] = ()):
    """The rollouts of a file as if all had come to their end, but those with these numbers."""
    every = [
        replace(each, rollout=replace(each.rollout, finish="length" if at in cut else "stop"))
        for at, each in enumerate(read_experiences(file))
    ]
    write_experiences(folder / "ended.jsonl", every)
    return folder / "ended.jsonl"


def test_an_answer_that_was_cut_is_no_record(tmp_path, trained, run):
    """As a text it would be learned with an end that the model never said: words cut short."""
    every = read_experiences(first_round(trained))
    best = max(range(3), key=lambda at: every[at].scores["total"])
    file = ended(first_round(trained), tmp_path, cut=(best, *range(3, 6)))
    for learn in ("best", "pairs"):
        words = ["--learn", learn, "--out", tmp_path / f"{learn}.jsonl"]
        code, out, _ = run("data", "choose", file, *words)
        assert code == 0 and "from 3 prompts" in out and "4 answers that were cut" in " ".join(out.split())
    said = [json.loads(line)["conversations"][-1]["value"] for line in (tmp_path / "best.jsonl").open()]
    assert len(said) == 3 and said[0] in [every[at].rollout.text for at in range(3) if at != best]
    none = ended(first_round(trained), tmp_path, cut=tuple(range(12)))
    with pytest.raises(DataError, match=r"none of 0 prompts .* \(12 answers were cut at their limit\)"):
        write_chosen([none], tmp_path / "none.jsonl", "best")


def first_round(run):
    return run.out / "rollouts" / "round000000.jsonl"


def test_rollouts_become_pairs_and_answers_to_train_on(tmp_path, trained, run):
    file = ended(first_round(trained), tmp_path)
    made = write_chosen([file], tmp_path / "some.jsonl", "pairs")
    assert (made.written, made.prompts, made.cut) == (4, 4, 0)
    experiences = choose(read_experiences(file), "pairs")
    for record, better, worse in zip(
        read_records(tmp_path / "some.jsonl"), experiences[::2], experiences[1::2], strict=True
    ):
        chosen, rejected = record.pair()
        assert chosen.messages[-1].text == better.rollout.text
        assert rejected.messages[-1].text == worse.rollout.text
        assert chosen.media == better.rollout.prompt.media
    words = ["--learn", "best", "--at-least", 1, "--out", tmp_path / "b.jsonl"]
    code, out, _ = run("data", "choose", file, *words)
    assert code == 0 and "4 answers from 4 prompts" in out
    said = [json.loads(line)["conversations"][-1]["value"] for line in (tmp_path / "b.jsonl").open()]
    assert said == [each.rollout.text for each in experiences[::2]]
    with pytest.raises(ConfigError, match="is there already"):
        write_chosen([file], tmp_path / "b.jsonl", "best")
    with pytest.raises(DataError, match="none of 4 prompts"):
        write_chosen([file], tmp_path / "c.jsonl", "pairs", gap=1.0)


@pytest.mark.parametrize(
    ("given", "what"),
    [
        ({"preference": "null"}, "policy.learn=pairs learns by `preference`"),
        ({"policy.learn": "all"}, "a run learns one of preference, policy"),
        ({"preference": "{changed_weight: 5}"}, "are for pairs of files"),
        ({"eval.files": "pairs.json"}, "has no loss on data files"),
        ({"policy.learn": "all", "policy.at_least": 0.5}, "policy.at_least is for answers that are chosen"),
        ({"policy.learn": "best", "policy.gap": 0.5}, "policy.gap is for pairs"),
        ({"policy.learn": "all", "policy.anchor": "start"}, "policy.anchor is for pairs"),
    ],
)
def test_settings_that_do_not_go_together(tmp_path, given, what):
    with pytest.raises(ConfigError, match=what):
        run = rounds_run(tmp_path, **given)
        open_objective(run, run.policy)


def test_a_ratio_is_not_of_a_cut_distribution():
    with pytest.raises(ConfigError, match=r"policy.top_p below 1"):
        settings.override(PolicyConfig(), ["top_p=0.9"])
