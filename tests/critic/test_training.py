"""Labelled cases as records of a critic, read back as cases whose verdict is the label; the recipe for them."""

import pytest

from llavakit.align.rewards.composer import Composer
from llavakit.align.rollouts import Rollout
from llavakit.core.errors import DataError
from llavakit.critic.formats import FORMATS
from llavakit.critic.judge import label_of
from llavakit.critic.training import write_critic_records
from llavakit.data.cases import Case, read_cases
from llavakit.data.records import read_records
from llavakit.model import checkpoint
from llavakit.recipes.critic import critic_r1
from llavakit.text.conversation import Conversation, Image
from tests import tiny


@pytest.mark.parametrize("name", FORMATS)
def test_verdicts_of_records_are_the_labels(tmp_path, name):
    form = FORMATS[name]
    picture = Image(tiny.picture(tmp_path / "x.png"))
    labels = sorted(set(form.verdicts.values()))
    cases = [
        Case(str(n), f"Which {n}?", (picture,), ("red", "blue")[: form.answers], "green", "a ball", label)
        for n, label in enumerate(labels)
    ]
    path = tmp_path / "records.json"
    assert write_critic_records(form, cases, path) == len(cases) * form.answers
    found = read_cases(path)
    margins = [form.read(case.verdict).value for case in found]
    both = [[label, -label] if form.answers == 2 else [label] for label in labels]
    assert margins == pytest.approx([value for pair in both for value in pair])
    assert all(case.asked and case.media == ((picture,) if form.sees else ()) for case in found)
    if form.sees and name in ("better", "arena", "caption", "letters"):
        assert [label_of(case) for case in found] == pytest.approx(margins)
    assert read_records(path)[0].conversation().messages[1].text == found[0].verdict


def test_a_case_without_a_label_is_named(tmp_path):
    with pytest.raises(DataError, match="case 'a' has no label to learn"):
        write_critic_records(FORMATS["score"], [Case("a", "?", (), ("x",))], tmp_path / "r.json")


def test_the_recipe_learns_them_on_any_checkpoint(run, tmp_path):
    checkpoint.save(tiny.checkpoint(), tmp_path / "start")
    case = Case("a", "Which?", (Image(tiny.picture(tmp_path / "x.png")),), ("red", "blue"), label=1.0)
    write_critic_records(FORMATS["overall"], [case], tmp_path / "records.json")
    words = ("train", "critic", f"model.start={tmp_path}/start", f"data.files={tmp_path}/records.json")
    words += (f"out={tmp_path}/critic", "optim.steps=1", "data.tokens=900")
    code, out, err = run(*words, "--dry-run")
    assert (code, err) == (0, "") and "critic" in out
    code, _, err = run(*words)
    assert (code, err) == (0, "") and (tmp_path / "critic" / "latest").exists()


def test_a_critic_learns_by_grpo_from_its_own_verdicts(run, tmp_path):
    """0.9 for the right box and 0.1 for thinking before it; the reference is a verdict as records have it."""
    checkpoint.save(tiny.checkpoint(), tmp_path / "start")
    case = Case("a", "Which?", (Image(tiny.picture(tmp_path / "x.png")),), ("red", "blue"), label=1.0)
    write_critic_records(FORMATS["boxed"], [case], tmp_path / "records.json")
    [record, swapped] = read_records(tmp_path / "records.json")
    talk = record.conversation()
    said = ("<think>b is</think>\\boxed{2}", "\\boxed{2}", "<think>a is</think>\\boxed{1}", "2")
    rollouts = [
        Rollout(
            "r", 0, choice, Conversation(talk.messages[:1]), talk.messages[1].text, (1,), (0.0,), text, "stop"
        )
        for choice, text in enumerate(said)
    ]
    rewards = critic_r1().policy.rewards
    with Composer(rewards) as composer:
        assert [row["total"] for row in composer.scores(rollouts)] == pytest.approx([1.0, 0.9, 0.1, 0.0])
    assert swapped.conversation().messages[1].text == "\\boxed{1}"
    words = ("train", "critic-r1", f"model.start={tmp_path}/start", f"data.files={tmp_path}/records.json")
    words += (f"out={tmp_path}/critic", "optim.steps=1", "data.tokens=900", "policy.max_tokens=4")
    words += ("policy.prompts=2", "policy.answers=2", "policy.minibatches=1")
    assert run(*words, "--dry-run")[0] == 0
    code, _, err = run(*words)
    assert (code, err) == (0, "") and (tmp_path / "critic" / "latest").exists()
