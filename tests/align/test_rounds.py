"""Rounds of a model's own answers as a source of batches: exact splits and resume, what is counted and refused."""

import json
import random
import signal
import weakref
from collections import Counter
from functools import partial

import pytest
import torch
from safetensors.torch import load_file
from torch.optim import AdamW

from llavakit.align import opening, sampler
from llavakit.align.experience import Experience, make_batch, plan_rows, read_experiences
from llavakit.align.opening import open_policy
from llavakit.align.pictures import Pictures
from llavakit.align.prompts import Prompt, Prompts
from llavakit.align.rollouts import Rollout
from llavakit.core import config as settings
from llavakit.core.errors import ConfigError, DataError, Interrupted
from llavakit.data.loader import Loader
from llavakit.data.media import Media
from llavakit.data.settings import DataConfig
from llavakit.engine.responder import Answer
from llavakit.model import checkpoint as checkpoints
from llavakit.model.directory import resolve
from llavakit.train import optim
from llavakit.train.loop import Loop, train, train_step
from llavakit.train.metrics import Metrics, read_metrics
from llavakit.train.policy_objective import PolicyObjective
from llavakit.train.policy_settings import ALGORITHMS, PolicyConfig
from tests import tiny
from tests.eval.responders import Scripted
from tests.train.test_loop import tiny_run
from tests.train.test_parallel import Pair


@pytest.fixture(scope="module")
def pair():
    two = Pair()
    yield two
    two.stop()


def write_questions(folder, count: int = 8):
    tiny.picture(folder / "x.png")
    rows = [tiny.record(at, "x.png" if at % 3 else None, [(f"What is {at}?", "red")]) for at in range(count)]
    (folder / "questions.json").write_text(json.dumps(rows))
    return folder / "questions.json"


def policy_run(folder, name="rl", **changes):
    """Two rounds of four prompts with three short answers each, rewarded by their first letters."""
    run = tiny_run(folder, name, **{"data.tokens": 220, "optim.lr": 1e-3, "optim.steps": 4})
    given = [
        f"data.files={write_questions(folder)}",
        "policy={prompts: 4, answers: 3, max_tokens: 5, minibatches: 2, rewards: {terms: {e: {kind: regex, "
        "pattern: '[aeo].*[aeo]'}}}}",
    ]
    return settings.override(run, given + [f"{key}={value}" for key, value in changes.items()])


def test_a_run_learns_from_its_own_answers_and_tells_of_them(tmp_path):
    run = policy_run(tmp_path)
    train(run, policy=open_policy)
    rows = read_metrics(run.out / "metrics.jsonl")
    assert len(rows) == 4
    told = [row for row in rows if "reward" in row]
    assert [row["step"] for row in told] == [1, 3]
    assert all(row["drift"] < 1e-4 and row["reward"] == row["reward/e"] for row in told)
    assert rows[0]["clip_fraction"] == 0 and rows[0]["kl_reference"] == pytest.approx(0, abs=1e-6)
    found = read_experiences(run.out / "rollouts" / "round000000.jsonl")
    assert len(found) == 12
    page = (run.out / "rollouts" / "round000000.html").read_text()
    assert "What is" in page and "advantage" in page


def rows_and_weights(run):
    """What does not depend on the clock, the machine or the number of its ranks."""
    noise = ("seconds", "rollout_seconds", "tokens_per_second", "mfu", "budget", "drift_p99")
    rows = [
        {name: value for name, value in row.items() if name not in noise}
        for row in read_metrics(run.out / "metrics.jsonl")
    ]
    file = resolve(run.out) / ("model.safetensors" if run.model.lora is None else "adapter_model.safetensors")
    return rows, load_file(file)


@pytest.mark.parametrize("stop", [1, 2])
def test_a_resumed_run_equals_one_that_was_not_stopped(tmp_path, stop):
    """Within a round (its answers are read back) and between two (new ones are drawn)."""
    how = {"policy.algorithm": "rloo", "policy.algorithm.kl_target": 0.1, "policy.algorithm.kl_horizon": 40}
    whole, cut = policy_run(tmp_path, "whole", **how), policy_run(tmp_path, "cut", **how)
    train(whole, policy=open_policy)
    interrupt(cut, stop)
    train(cut, resume=True, policy=open_policy)
    (mine, mine_weights), (theirs, their_weights) = rows_and_weights(cut), rows_and_weights(whole)
    assert mine == theirs
    assert mine[2]["kl_coef"] != mine[0]["kl_coef"]
    assert all(torch.equal(mine_weights[key], their_weights[key]) for key in their_weights)


def interrupt(run, steps: int, policy=open_policy) -> None:
    """Ctrl-C as soon as the metrics show `steps` steps."""
    add = Metrics.add

    def press(self, row):
        add(self, row)
        if row["step"] == steps:
            signal.raise_signal(signal.SIGINT)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Metrics, "add", press)
        with pytest.raises(Interrupted):
            train(run, policy=policy)


def test_a_run_that_was_killed_goes_on_from_its_checkpoint(tmp_path):
    """Killed in the second round, whose answers lie there already; the checkpoint stands within the first."""
    how = {"save_every": 1, "policy.minibatches": 4, "optim.steps": 6}
    whole, cut = policy_run(tmp_path, "whole", **how), policy_run(tmp_path, "cut", **how)
    train(whole, policy=open_policy)
    kill_after(cut, 5, keeps=3)
    train(cut, resume=True, policy=open_policy)
    (mine, mine_weights), (theirs, their_weights) = rows_and_weights(cut), rows_and_weights(whole)
    assert mine == theirs
    assert all(torch.equal(mine_weights[key], their_weights[key]) for key in their_weights)


def kill_after(run, steps: int, keeps: int) -> None:
    """End without a word as the metrics show `steps` steps; of the checkpoints, the first `keeps` were written."""
    add, save = Metrics.add, Loop.save

    class Killed(BaseException):
        pass

    def die(self, row):
        add(self, row)
        if row["step"] == steps:
            raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Metrics, "add", die)
        patch.setattr(Loop, "save", lambda self: save(self) if self.state.step <= keeps else None)
        with pytest.raises(Killed):
            train(run, policy=open_policy)


@pytest.mark.parametrize(
    "algorithm",
    [
        *[name for name in ALGORITHMS if not name.startswith("ppo")],
        "{kl_coef: 0.1, clip_high: 0.001, dual_clip: 3}",
    ],
)
def test_any_split_of_a_step_gives_the_same_gradient(tmp_path, algorithm):
    """Sixty-four answers as one row, and as rows of a few answers each."""
    config = settings.override(PolicyConfig(), [f"algorithm={algorithm}", "max_tokens=9"])
    loader = Loader(DataConfig(files=(write_questions(tmp_path),), tokens=2000), tiny.encoder(), seed=0)
    prompts = [prompt for _, prompt in Prompts(loader, 9, Pictures()).take(0, 8, 0, 1)]
    dice = random.Random(0)
    experiences = [
        made_up(prompt, group, choice, dice) for group, prompt in enumerate(prompts) for choice in range(8)
    ]

    def gradients(budget: int):
        rows = plan_rows(
            experiences, lambda each: prompts[each.group].sample, loader.encoder.encode_reply, budget
        )
        batches = [make_batch(row, experiences, loader.tiles) for row in rows]
        model = tiny.checkpoint().model
        found = train_step(model, PolicyObjective(config), batches, precision="float32")
        return len(rows), found, [param.grad for param in model.parameters() if param.grad is not None]

    one, (whole, figures), mine = gradients(2000)
    many, (split, others), theirs = gradients(60)
    assert one == 1 and many >= 8
    assert whole == pytest.approx(split, rel=1e-4, abs=1e-6)
    assert figures == pytest.approx(others, rel=1e-3, abs=1e-6)
    largest = max(float(each.abs().max()) for each in mine)
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5 * largest)


def made_up(prompt: Prompt, group: int, choice: int, dice: random.Random) -> Experience:
    """An answer of random tokens with random columns."""
    ids = tuple(dice.randrange(300) for _ in range(dice.randint(1, 9)))
    rollout = Rollout(
        key=prompt.key, group=group, choice=choice, prompt=prompt.talk, reference="", ids=ids,
        logprobs=(0.0,) * len(ids), text="", finish="stop",
    )  # fmt: skip
    columns = {
        "old": [dice.uniform(-25, -15) for _ in ids], "reference": [dice.uniform(-25, -15) for _ in ids],
        "advantages": [dice.uniform(-1, 1)] * len(ids), "importance": [dice.uniform(0, 2) for _ in ids],
        "sampled": [dice.uniform(-25, -15) for _ in ids],
    }  # fmt: skip
    return Experience(rollout, {"total": 0.0}).with_columns(columns)


def test_groups_that_say_nothing_give_way_to_others(tmp_path):
    """DAPO's filter: groups as wholes, by a named term; other prompts are asked until the round is full."""
    function = tmp_path / "alike.py"
    function.write_text(
        "def score(question, answer, **rest):\n    return 0 if '3' in question else len(answer) % 2\n"
    )
    run = policy_run(
        tmp_path,
        **{
            "policy.algorithm": "dapo",
            "policy.rewards": f"{{terms: {{f: {{kind: python, function: '{function}:score'}}}}}}",
            "optim.steps": 2,
        },
    )
    train(run, policy=open_policy)
    [row, _] = read_metrics(run.out / "metrics.jsonl")
    found = read_experiences(run.out / "rollouts" / "round000000.jsonl")
    assert row["filtered"] >= 1 and row["silent_groups"] == 0
    assert row["records"] == 4 * -(-(row["filtered"] + row["groups"]) // 4)
    assert not any("3" in each.rollout.prompt.messages[-1].text for each in found)


def test_a_round_of_equal_answers_cannot_be_filtered(tmp_path):
    same = {
        "policy.rewards": "{terms: {length: {weight: 0.0}}}",
        "policy.algorithm": "dapo",
        "policy.tries": 2,
    }
    with pytest.raises(DataError, match="the answers to each of 8 prompts are alike"):
        train(policy_run(tmp_path, **same), policy=open_policy)


@pytest.mark.parametrize("share", [0.01, 1.0])
def test_unscorable_answers_teach_nothing_and_stop_the_run(tmp_path, share):
    function = tmp_path / "some.py"
    function.write_text(
        "def score(answer, question, **rest):\n    return None if '1' in question else len(answer)\n"
    )
    run = policy_run(
        tmp_path,
        **{
            "policy.rewards": f"{{terms: {{f: {{kind: python, function: '{function}:score'}}}}}}",
            "policy.unscorable": share,
            "optim.steps": 20,
        },
    )
    if share < 1:
        with pytest.raises(DataError, match=r"\d+ of \d+ answers could not be scored .*f: .*questions.json"):
            train(run, policy=open_policy)
        return
    train(settings.override(run, ["optim.steps=4"]), policy=open_policy)
    rows = read_metrics(run.out / "metrics.jsonl")
    rounds = [read_experiences(file) for file in sorted((run.out / "rollouts").glob("*.jsonl"))]
    none = [each for found in rounds for each in found if each.scores["total"] is None]
    assert len(none) == 3 and all(not any(each.columns["advantages"]) for each in none)
    assert sum(row.get("unscorable", 0) for row in rows) == pytest.approx(3 / 12)


@pytest.mark.parametrize(
    "changes",
    [
        {"model.lora": "{r: 4}", "train": "[language]"},
        {"model.lora": "{r: 4}", "train": "[language]", "policy.engine": "shared"},
        {"train": "[connector]", "policy.engine": "shared"},
        {"train": "[connector, language]", "policy.epochs": 2, "policy.algorithm.importance_cap": 2.0},
    ],
    ids=str,
)
def test_the_sampler_has_the_weights_that_learn(tmp_path, changes):
    """After steps of a large rate, too: with adapters merged into a copy, and with the modules that learn."""
    run = policy_run(tmp_path, **{"optim.lr": 0.05, "policy.minibatches": 1, **changes})
    train(run, policy=open_policy)
    rows = read_metrics(run.out / "metrics.jsonl")
    assert all(row["drift_p99"] < 1e-3 for row in rows if "drift" in row)
    assert rows[-1]["kl_reference"] > 1e-3
    checkpoints.load(run.out)


def test_a_sampler_has_what_adapters_brought_along(tmp_path):
    """A run that starts from adapters has their connector, not the one of the base below them."""
    lora = {"model.lora": "{r: 4}"}
    taught = tiny_run(
        tmp_path, "sft", **lora, **{"train": "[connector, language]", "optim.lr": 0.05, "optim.steps": 2}
    )
    train(taught)
    start = {"model.start": taught.out, "train": "[language]", "optim.steps": 1, "policy.minibatches": 1}
    run = policy_run(tmp_path, **lora, **start)
    train(run, policy=open_policy)
    [row] = read_metrics(run.out / "metrics.jsonl")
    assert row["drift_p99"] < 1e-3


@pytest.mark.parametrize(
    "changes", [{}, {"model.lora": "{r: 4}", "train": "[language]"}], ids=["full", "lora"]
)
def test_the_modules_that_learn_answer_in_bf16_too(tmp_path, changes):
    """Under autocast they give bfloat16; keys and values lie in the weights' own numbers, which are bfloat16 below
    adapters.
    """
    run = policy_run(
        tmp_path, **{"precision": "bf16", "policy.engine": "shared", "optim.steps": 1, **changes}
    )
    train(run, policy=open_policy)
    [row] = read_metrics(run.out / "metrics.jsonl")
    assert row["drift"] < 0.05


def test_another_temperature_is_the_policy_that_samples(tmp_path):
    run = policy_run(tmp_path, **{"policy.temperature": 0.7, "policy.minibatches": 1})
    train(run, policy=open_policy)
    rows = read_metrics(run.out / "metrics.jsonl")
    assert rows[0]["drift"] < 1e-4 and rows[0]["kl_old"] < 1e-8
    [first, *_] = read_experiences(run.out / "rollouts" / "round000000.jsonl")
    assert first.columns["old"] != pytest.approx(first.rollout.logprobs, abs=1e-3)


def test_a_sampler_that_is_another_model_raises_the_alarm(tmp_path, capsys):
    run = policy_run(tmp_path, **{"policy.drift": 1e-9})
    train(run, policy=open_policy)
    assert "ALARM: sampler and learner differ by more than policy.drift=1e-09" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("setting", "what"),
    [
        ("policy.answers=1", "take at least 2"),
        ("policy.minibatches=5", r"policy.minibatches=5, but a round has policy.prompts=4"),
        ("policy.algorithm=grop", "grpo"),
        ("policy.algorithm.kl_target=6", "kl_target controls a penalty of rewards"),
        ("policy={algorithm: {importance_cap: 2}, temperature: 0.5}", "needs policy.temperature=1"),
        ("policy={algorithm: ppo, answers: 1, rewards: {normalise: group}}", "policy.answers=2 or more"),
    ],
)
def test_settings_that_do_not_fit_are_named(tmp_path, setting, what):
    with pytest.raises(ConfigError, match=what):
        settings.override(policy_run(tmp_path), [setting])


def test_runs_that_cannot_work_say_so_before_anything_is_sampled(tmp_path):
    run = policy_run(tmp_path)
    with pytest.raises(ConfigError, match=r"policy needs model.start"):
        train(
            run.model_copy(update={"model": run.model.model_copy(update={"start": None})}), policy=open_policy
        )
    with pytest.raises(ConfigError, match="nothing samples"):
        train(run)
    with pytest.raises(ConfigError, match=r"filter=acuracy is no term"):
        train(settings.override(run, ["policy.algorithm.filter=acuracy"]), policy=open_policy)
    with pytest.raises(DataError, match=r"questions.json:\d+: \d+ tokens and 400 of answers"):
        train(settings.override(run, ["policy.max_tokens=400"]), overwrite=True, policy=open_policy)


def test_a_judge_may_say_what_an_answer_is_worth(tmp_path):
    """Whoever opens models for the run opens the judge that its rewards name."""
    opened = []

    def open_responder(where):
        opened.append(where)
        return Scripted(lambda text, seed: Answer(f"Fine.\n{len(text) % 10}", "stop"))

    judge = {"policy.rewards": "{terms: {judge: {model: 'http://judge'}}}", "optim.steps": 1}
    run = policy_run(tmp_path, **judge)
    with pytest.raises(ConfigError, match="a judge needs somebody who opens models"):
        train(run, policy=open_policy)
    train(run, overwrite=True, policy=partial(open_policy, open_responder=open_responder))
    assert opened == ["http://judge"]
    found = read_experiences(run.out / "rollouts" / "round000000.jsonl")
    assert len({each.scores["judge"] for each in found}) > 1


SMOOTH = 1e-2  # of Adam, beside its deviation: then a step is as small as its gradient


def roll_out(rank, run):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(optim, "AdamW", partial(AdamW, eps=SMOOTH))
        train(run, policy=open_policy)


@pytest.mark.parametrize(
    "how",
    [
        {"policy.algorithm": "rloo"},
        {"policy.algorithm": "grpo", "parallel.mode": "fsdp", "policy.minibatches": 1, "optim.steps": 2},
        {
            "policy.algorithm": "ppo",
            "model.lora": "{r: 4}",
            "train": "[language]",
            "policy.minibatches": 4,
            "optim.lr": 1e-3,
        },
    ],
    ids=["rloo", "grpo, each rank a share of the model", "ppo, ranks without rows"],
)
def test_two_ranks_learn_what_one_learns(tmp_path, pair, how):
    """But for last bits: rows are cut otherwise, so sums have another order.

    Adam divides a gradient by its own size, so where it is nothing but last bits, a step of a whole rate goes one
    way or the other. With a larger epsilon it does not, and what is left is what the sums differ by.
    """
    one, two = (policy_run(tmp_path, name, **({"optim.lr": 1e-2} | how)) for name in ("one", "two"))
    roll_out(0, one)
    pair(roll_out, two)
    (mine, mine_weights), (theirs, their_weights) = rows_and_weights(one), rows_and_weights(two)
    for a, b in zip(mine, theirs, strict=True):
        a, b = ({k: v for k, v in row.items() if k not in ("tokens", "flops")} for row in (a, b))
        assert a == pytest.approx(b, rel=1e-4, abs=2e-6)
    assert mine[-1]["kl_reference"] > 1e-5  # it has moved
    for key, tensor in mine_weights.items():
        torch.testing.assert_close(tensor, their_weights[key], rtol=1e-4, atol=2e-6)
    shares = [read_experiences(two.out / "rollouts" / f"round000000.{rank}-of-2.jsonl") for rank in (0, 1)]
    assert [len(share) for share in shares] == [6, 6]


@pytest.fixture
def cut(monkeypatch):
    """What was decoded, in order; and how many of these pictures are in memory now and were at most."""
    tiles, names, alive = Media.tiles, [], Counter()

    def gone():
        alive["now"] -= 1

    def count(self):
        found = tiles(self)
        names.append(self.name)
        alive["now"] += 1
        alive["most"] = max(alive["most"], alive["now"])
        weakref.finalize(found, gone)
        return found

    monkeypatch.setattr(Media, "tiles", count)
    return names, alive


def many_pictures(folder, count: int):
    """A question about a picture of its own, in each record."""
    for at in range(count):
        tiny.picture(folder / f"{at}.png", seed=at)
    rows = [tiny.record(at, f"{at}.png", [("What is it?", "red")]) for at in range(count)]
    (folder / "pictures.json").write_text(json.dumps(rows))
    return folder / "pictures.json"


def test_a_picture_is_decoded_once_for_all_who_look(tmp_path, cut):
    """The check of a prompt, the sampler, the learner's measures and steps, in all rounds."""
    run = policy_run(tmp_path, **{"data.files": many_pictures(tmp_path, 4), "policy.epochs": 2})
    train(run, policy=open_policy)
    names, _ = cut
    assert sorted(names) == [str(tmp_path / f"{at}.png") for at in range(4)]


def test_pictures_of_a_round_are_in_memory_a_few_at_a_time(tmp_path, cut, monkeypatch):
    monkeypatch.setattr(opening, "Pictures", partial(Pictures, room=0))  # nothing is remembered
    monkeypatch.setattr(sampler, "AHEAD", 6)
    run = policy_run(
        tmp_path,
        **{"data.files": many_pictures(tmp_path, 24), "policy.prompts": 24, "policy.minibatches": 24},
    )
    train(settings.override(run, ["optim.steps=1"]), policy=open_policy)
    names, alive = cut
    assert len(set(names)) == 24 and len(names) >= 4 * 24
    assert alive["most"] <= 6
