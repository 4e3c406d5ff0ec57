"""Rewards: what each term says of an answer, what is unscorable, and how terms become a total."""

from dataclasses import replace

import pytest

from llavakit.align.rewards.composer import Composer
from llavakit.align.rollouts import Rollout
from llavakit.core import config
from llavakit.core.errors import ConfigError
from llavakit.text.conversation import Conversation, user
from llavakit.train.reward_terms import TERMS, RewardsConfig, llava_rlhf_rewards

PROMPT = Conversation((user("What is it?"),))
THOUGHT = "<think>Hm.</think><answer>{}</answer>"


def rollout(text: str, reference: str = "", **changes) -> Rollout:
    made = Rollout("data.json:1", 0, 0, PROMPT, reference, (5, 6, 7), (0.0,) * 3, text, "stop")
    return replace(made, **changes)


def rewards(**settings) -> RewardsConfig:
    return config.make(RewardsConfig, settings, where="test")


def scores(term: object, *rollouts: Rollout, name: str = "it", **settings) -> list[float | None]:
    """What one term says of answers."""
    with Composer(rewards(terms={name: term}, **settings)) as composer:
        return [row[name] for row in composer.scores(rollouts)]


@pytest.mark.parametrize(
    ("term", "answer", "score"),
    [
        ({"kind": "exact"}, rollout("Red.", " red"), 1),
        ({"kind": "exact"}, rollout("It is red", "red"), 0),
        ({"kind": "exact"}, rollout("red", " "), None),
        ({"kind": "exact", "take": "answer"}, rollout(THOUGHT.format("red"), "red"), 1),
        ({"kind": "exact", "take": "boxed"}, rollout(r"\boxed{red}", "red"), 1),
        ({"kind": "exact", "take": "boxed"}, rollout("red", "red"), 0),
        ({"kind": "choice"}, rollout("B.", "B"), 1),
        ({"kind": "choice"}, rollout("B", "two cats", extra={"options": ["a dog", "two cats"]}), 1),
        ({"kind": "choice"}, rollout("A.", "B"), 0),
        ({"kind": "choice"}, rollout("A.\nB.", "B"), -1),
        ({"kind": "choice", "several": 0}, rollout("A.\nB.", "B"), 0),
        ({"kind": "choice"}, rollout("B.", "two cats"), None),
        ({"kind": "choice", "rule": "llava_rlhf"}, rollout("B. A.", extra={"caption_type": 3}), 1),
        ({"kind": "choice", "rule": "llava_rlhf"}, rollout("B."), 0),
        ({"kind": "choice", "rule": "llava_rlhf"}, rollout("B.", extra={"caption_type": 8}), None),
        ({"kind": "yes_no"}, rollout("No, it is not.", "no"), 1),
        ({"kind": "yes_no"}, rollout("Yes and no.", "no"), -1),
        ({"kind": "yes_no"}, rollout("Perhaps.", "no"), 0),
        ({"kind": "yes_no"}, rollout("yes", "a dog"), None),
        ({"kind": "yes_no", "asymmetric": True}, rollout("yes", "yes"), 0),
        ({"kind": "yes_no", "rule": "llava_rlhf"}, rollout("Yes", extra={"caption_type": 6}), -0.5),
        ({"kind": "format"}, rollout(THOUGHT.format("4")), 1),
        ({"kind": "format"}, rollout("4"), 0),
        ({"kind": "box_iou"}, rollout("at [0, 0, 1, 0.5]", "[0,0,1,1]"), 0.5),
        ({"kind": "box_iou"}, rollout("[0, 0, 1, 0.5]", "a dog", extra={"bbox": [0, 0, 1, 1]}), 0.5),
        ({"kind": "box_iou", "at": 0.6}, rollout("[0, 0, 1, 0.5]", "[0,0,1,1]"), 0),
        ({"kind": "box_iou"}, rollout("there", "[0,0,1,1]"), 0),
        ({"kind": "box_iou"}, rollout("[0, 0, 1, 0.5]", "there"), None),
        ({"kind": "stop_penalty"}, rollout("a"), 0),
        ({"kind": "stop_penalty"}, rollout("a", finish="length"), -8),
        ({"kind": "length", "longest": 6}, rollout("a"), 0.5),
        ({"kind": "length", "longest": 6}, rollout("a", extra={"length_bonus": -0.5}), -0.25),
        ({"kind": "length"}, rollout("a", extra={"length_bonus": "much"}), None),
        ({"kind": "soft_overlong", "longest": 4, "buffer": 2}, rollout("a"), -0.5),
        ({"kind": "soft_overlong", "longest": 3, "buffer": 0.5}, rollout("a"), "settings"),
        ({"kind": "soft_overlong", "longest": 2, "buffer": 3}, rollout("a"), "settings"),
        ({"kind": "exact", "only": {"type": ["x"]}}, rollout("red", "red", extra={"type": "x"}), 1),
        ({"kind": "exact", "only": {"type": ["x"]}}, rollout("red", ""), 0),
    ],
)
def test_rules(term, answer, score):
    if score == "settings":
        with pytest.raises(ConfigError):
            rewards(terms={"it": term})
    else:
        assert scores(term, answer) == [score]


def test_patterns_are_searched_in_a_process_that_is_killed_when_it_is_late():
    for_ever = rollout("a" * 40)
    assert scores({"kind": "regex", "pattern": "(a|aa)+b", "seconds": 0.2}, for_ever, rollout("aab")) == [
        None,
        1,
    ]
    assert scores({"kind": "regex", "pattern": "b+", "whole": True}, rollout("abb"), rollout("bb")) == [0, 1]


def test_mathematics_is_compared_and_not_spelled():
    found = scores(
        {"kind": "math", "take": "boxed"},
        rollout(r"\boxed{\frac{2}{4}}", "0.5"), rollout("0.5", "0.5"), rollout(r"\boxed{1}", ""),
    )  # fmt: skip
    assert found == [1, 0, None]


FUNCTION = """
import time

from beside import SCORE

def score(answer, reference, question, facts, finish, tokens, **record):
    if answer == "sleep":
        time.sleep(60)
    if answer == "raise":
        raise KeyError("no such colour")
    assert (question, finish, tokens) == ("What is it?", "stop", 3)
    return {"none": None, "nan": float("nan"), "text": "x"}.get(answer, SCORE * len(facts) + record.get("more", 0))
"""


def test_a_users_function_is_told_the_record_and_cannot_stop_us(tmp_path):
    (tmp_path / "beside.py").write_text("SCORE = 2\n")
    (tmp_path / "mine.py").write_text(FUNCTION)
    name = f"{tmp_path}/mine.py:score"
    answers = [
        rollout(text, facts=("a", "b"), extra={"more": 0.5})
        for text in ("sleep", "raise", "none", "nan", "text", "red")
    ]
    with Composer(rewards(terms={name: {"seconds": 0.3}, "exact": 0})) as composer:
        rows = composer.scores(answers)
        said = [line for line in composer.unscorable if line.startswith(name)]
    assert [row["total"] for row in rows] == [None] * 5 + [4.5]
    assert [line.removeprefix(f"{name}: data.json:1: ") for line in said] == [
        "took over 0.3 s", "KeyError: 'no such colour'", "the reward gave None", "the reward gave nan",
        "ValueError: could not convert string to float: 'x'",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        (None, r"mine.py does not exist; write FILE.py:FUNCTION"),
        ("def other(): pass", r"the reward .*mine.py:score: AttributeError: .*'score'"),
        ("import nowhere", r"the reward .*mine.py:score: ModuleNotFoundError: No module named 'nowhere'"),
    ],
)
def test_a_function_that_cannot_be_had_is_one_line(tmp_path, source, problem):
    if source is not None:
        (tmp_path / "mine.py").write_text(source)
    with pytest.raises(ConfigError, match=problem):
        scores(1, rollout("a"), name=f"{tmp_path}/mine.py:score")


def total(config: RewardsConfig, *rollouts: Rollout) -> list[float | None]:
    with Composer(config) as composer:
        return [row["total"] for row in composer.scores(rollouts)]


def test_the_total_is_the_weighted_sum_and_each_term_is_logged_on_its_own():
    with Composer(
        rewards(terms={"exact": 2, "length": {"weight": -10, "longest": 30}, "format": 0})
    ) as composer:
        assert composer.scores([rollout("red", "red")]) == [
            {"exact": 1, "length": 0.1, "format": 0, "total": 1}
        ]


def test_what_is_unscorable_has_no_total_unless_its_term_counts_nothing():
    assert total(rewards(terms={"exact": 1, "format": 1}), rollout("a")) == [None]
    assert total(rewards(terms={"exact": 0, "format": 1}), rollout("a")) == [0]


def test_content_counts_behind_a_gate_only_and_form_always():
    config = rewards(
        terms={"format": 0.5, "exact": {"take": "answer"}, "length": {"weight": -1, "longest": 6}},
        gate="format",
    )
    right, wrong = THOUGHT.format("red"), THOUGHT.format("blue")
    found = total(
        config, rollout(right, "red"), rollout(wrong, "red"), rollout("<answer>red</answer>", "red")
    )
    assert found == [1.0, 0.0, -0.5]
    assert total(config, rollout("red"), rollout(right)) == [
        -0.5,
        None,
    ]  # nothing is known of what does not count


def test_terms_are_brought_to_one_scale_among_the_answers_to_a_prompt():
    config = rewards(terms={"exact": 1, "length": {"weight": 1, "longest": 3}}, normalise="group")
    texts = [("red", 2, "red"), ("blue", 2, "red"), ("red", 7, "red"), ("red", 7, "red"), ("red", 7, "")]
    answers = [rollout(text, reference, group=group) for text, group, reference in texts]
    with Composer(config) as composer:
        rows = composer.scores(answers)
    assert [row["exact"] for row in rows] == [1, 0, 1, 1, None]
    assert [row["total"] for row in rows] == [
        pytest.approx(0.7071, abs=1e-3),
        pytest.approx(-0.7071, abs=1e-3),
        0,
        0,
        None,
    ]
    with pytest.raises(ConfigError, match="several answers to every prompt"):
        total(config, answers[0], answers[2])


def test_a_penalty_that_is_not_relative_is_the_whole_reward():
    config = rewards(terms={"exact": 1, "stop_penalty": {"relative": False, "value": -3}})
    assert total(config, rollout("red", "red"), rollout("red", "red", finish="length")) == [1, -3]
    assert total(config, rollout("red", finish="length")) == [-3]


def test_llava_rlhfs_reward_is_its_formula():
    """R = -8 without an end, length_bonus x -10 x tokens / 896, 2 x the symbolic term (the model's part aside)."""
    answers = [
        rollout("No.", finish="length", extra={"caption_type": 6, "length_bonus": -0.5}),
        rollout("B. It is.", extra={"caption_type": 3}),
        rollout("It is."),
    ]
    tokens = 3 / 896
    expected = [-8 + 5 * tokens + 2 * 0.5, -10 * tokens + 2, -10 * tokens]
    assert total(llava_rlhf_rewards(None), *answers) == pytest.approx(expected)
    without = llava_rlhf_rewards(None, symbolic=False, length=False)
    assert total(without, *answers) == [-8, 0, 0]
    assert total(llava_rlhf_rewards(None, length=False), *answers) == [-7, 2, 0]


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"terms": {"exac": 1}}, r"unknown kind of rewards.terms.exac 'exac'; did you mean 'exact'\?"),
        ({"terms": {"mine": {"kind": "x"}}}, "unknown kind of rewards.terms.mine 'x'"),
        (
            {"terms": {"exact": {"wieght": 1}}},
            r"rewards.terms.exact: unknown setting 'wieght'; did you mean 'weight'",
        ),
        ({"terms": {"exact": "much"}}, "rewards.terms.exact: weight='much'"),
        ({"terms": {"exact": [1]}}, r"rewards.terms.exact: expected a weight or settings"),
        (
            {"terms": {"regex": {"pattern": "("}}},
            "rewards.terms.regex: pattern='.': .*not a regular expression",
        ),
        ({"terms": {"total": {"kind": "exact"}}}, "'total' is what the sum is called"),
        ({"terms": {}}, "rewards.terms is empty"),
        ({"gate": "format"}, "unknown term of rewards.gate 'format'; valid: exact"),
    ],
)
def test_wrong_settings_are_one_line(settings, problem):
    with pytest.raises(ConfigError, match=problem):
        rewards(**settings)


def test_settings_are_read_as_they_are_written(tmp_path):
    settings = rewards(
        terms={"exact": 2, "a.py:score": {"seconds": 3}, "word": {"kind": "regex", "pattern": "a"}},
        gate="word",
    )
    config.save(settings, tmp_path / "rewards.yaml")
    assert config.load(RewardsConfig, tmp_path / "rewards.yaml") == settings
    assert config.override(settings, ["terms.exact.weight=3"]).terms["exact"].weight == 3
    assert {term.model_fields["kind"].default for term in TERMS.values()} == set(TERMS)
