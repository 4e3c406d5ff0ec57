"""Preferences from a judge: rewards of all ordered pairs, best against worst as pairs that a DPO run reads."""

import itertools
import json
from dataclasses import replace

import pytest
import torch

from llavakit.align.rollouts import Rollout, write_rollouts
from llavakit.core.errors import ConfigError, DataError
from llavakit.critic.best import BestOf
from llavakit.critic.formats import FORMATS
from llavakit.critic.judge import Judge
from llavakit.critic.preferences import Candidates, compare, read_candidates, rewards_of, write_preferences
from llavakit.critic.run import judge_file
from llavakit.data.records import read_records
from llavakit.engine.responder import Answer
from llavakit.text.conversation import Conversation, user
from tests import tiny
from tests.critic.scripted import ScriptedJudge, longest
from tests.critic.test_judge import WHO
from tests.data.test_cases import written

JUDGE = Judge(ScriptedJudge(longest), FORMATS["better"])


def test_rewards_are_what_was_won_minus_what_was_lost():
    [rewards] = compare(JUDGE, [Candidates("a", Conversation((user("?"),)), ("xx", "x", "xxx"))])
    assert rewards == [0, -4, 4]  # each of four comparisons counts one


def test_a_liking_for_a_place_cancels_and_pairs_read_half_count_nothing():
    order = {(a, b): -1.0 for a, b in itertools.permutations(range(4), 2)}  # always the one shown first
    assert rewards_of(4, order) == [0, 0, 0, 0]
    true = {(a, b): float(b - a) for a, b in itertools.permutations(range(4), 2)}
    assert rewards_of(4, true) == [-12, -4, 4, 12]
    half = true | {(0, 3): None}
    assert rewards_of(4, half) == [-6, -4, 4, 6]
    assert rewards_of(2, {(0, 1): 1.0, (1, 0): None}) is None
    assert torch.tensor(rewards_of(4, order)).abs().sum() == 0


def test_best_against_worst_is_written_as_pairs_that_are_read(tmp_path):
    tiny.picture(tmp_path / "x.png")
    row = {"image": "x.png", "question": "Which?", "answers": ["a red one", "red", "it is a red one", "red "]}
    rows = [
        row | {"id": "a"},
        row | {"id": "b", "answers": ["one", "one"]},
        {"question": "?", "answers": ["x", "y"]},
    ]
    groups = read_candidates(written(tmp_path, *rows))
    assert groups[0].answers == ("a red one", "red", "it is a red one")
    cases = [case for group in groups for case in group.pairs().values()]
    outcome = judge_file(JUDGE, cases, tmp_path / "verdicts.jsonl", who=WHO)
    made = write_preferences(groups, outcome.rows, tmp_path / "pairs.jsonl")
    assert (made.pairs, made.alike, made.unread) == (1, 2, 0)  # "x" and "y" won as much: the place decided
    [record] = read_records(tmp_path / "pairs.jsonl")
    chosen, rejected = record.pair()
    assert (chosen.messages[-1].text, rejected.messages[-1].text) == ("it is a red one", "red")
    assert [image.source for image in chosen.images] == [tmp_path / "x.png"]
    assert record.raw["rewards"] == [4, -4]
    unread = write_preferences(groups, [], tmp_path / "none.jsonl")
    assert (unread.pairs, unread.alike, unread.unread) == (0, 1, 2)


def test_rollouts_are_compared_in_their_groups(tmp_path):
    picture = tiny.picture(tmp_path / "x.png")
    prompt = Conversation((user("Which?", [picture]),))
    rollouts = [
        Rollout("f:1", group, choice, prompt, "red", (1,), (0.0,), text, "stop", facts=("A circle.",))
        for group in range(2)
        for choice, text in enumerate(("red", "red one", "red"))
    ]
    rollouts.append(replace(rollouts[0], choice=3, text="a circ", finish="length"))  # cut: not an answer
    write_rollouts(tmp_path / "r.jsonl", rollouts)
    groups = read_candidates(tmp_path / "r.jsonl")
    assert [(each.key, each.answers, each.reference, each.context) for each in groups] == [
        (f"f:1#{group}", ("red", "red one"), "red", "A circle.") for group in range(2)
    ]
    with pytest.raises(DataError, match="case 'a' has 1 answers; a choice needs two"):
        read_candidates(written(tmp_path, {"id": "a", "question": "?", "answer": "x"}))


class Drawn(ScriptedJudge):
    """Says the given texts in turn."""

    def answers(self, conversations, *, sampling):
        self.asked.append((len(conversations), sampling.temperature))
        return [Answer(self.say[n % len(self.say)], "stop") for n in range(len(conversations))]


def test_the_best_of_several_answers_is_given():
    drawn = Drawn(["a", "abc", "ab"])
    talks = [Conversation((user(text),)) for text in ("one?", "two?")]
    assert BestOf(drawn, JUDGE, 3).batch(talks) == ["abc", "abc"] and drawn.asked == [(6, 0.7)]
    silent = Judge(ScriptedJudge(lambda _: "hm"), FORMATS["better"])
    assert BestOf(drawn, silent, 3).batch(talks) == ["a", "a"]
    assert BestOf(Drawn(["a"]), JUDGE, 2).batch(talks) == ["a", "a"]
    with pytest.raises(ConfigError, match="fewer than two answers"):
        BestOf(drawn, JUDGE, 1)


def test_the_command_makes_pairs_and_goes_on(run, tmp_path):
    from tests.serve.live import ScriptedWorker, served

    path = written(tmp_path, *({"question": f"Which {n}?", "answers": ["a", "b", "c"]} for n in range(2)))
    with served(ScriptedWorker("The better response: [2]")) as (url, _):
        words = ("judge", "prefer", path, "--judge", url, "--out", tmp_path / "pairs.jsonl", "--gold", "none")
        code, said, err = run(*words)
        assert (code, err) == (0, "") and "12 asked" in said
        assert "0 pairs:" in said and "2 prompts whose answers are worth as much" in said
        assert run(*words)[1].count("0 asked") == 1  # all verdicts were kept
    same = written(tmp_path, {"question": "?", "answers": ["a", "a"]})
    code, _, err = run("judge", "prefer", same, "--judge", "x", "--out", tmp_path / "o.jsonl")
    assert code == 2 and "all answers to each prompt are alike" in err
    verdicts = (tmp_path / "pairs.verdicts.jsonl").read_text().splitlines()
    assert len(verdicts) == 12  # as they came
    assert {json.loads(line)["id"] for line in verdicts} == {
        f"{n} {p}" for n in (1, 2) for p in ("0-1", "0-2", "1-2")
    }
