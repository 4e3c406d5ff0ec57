"""A critic where truth is known: right and wrong answers to easy-vqa's questions, judged before and after it.

Takes a demo model (`llavakit demo`), makes labelled pairs of the training questions, fine-tunes the model as
a critic on them (recipe `critic`), and lets both judge pairs of the test questions: agreement with the truth,
and what the place of an answer does before and after both orders are put together. With `--round`, a model
that knows less answers training questions several times, the critic compares, and DPO learns from best
against worst.

    OMP_NUM_THREADS=1 python -m benchmarks.critic --demo runs/demo --out runs/critic-report

Every stage that has left its files in `--out` is taken as it is.
"""

import argparse
import json
import random
import re
import time
from collections.abc import Sequence
from pathlib import Path

from llavakit.align.rollouts import Rollout, write_rollouts
from llavakit.chat import Chat, load
from llavakit.core.config import load as load_settings
from llavakit.core.progress import say
from llavakit.critic.formats import Format, named
from llavakit.critic.judge import Judge
from llavakit.critic.preferences import read_candidates, write_preferences
from llavakit.critic.report import draw_report, read_report
from llavakit.critic.run import judge_file
from llavakit.critic.training import write_critic_records
from llavakit.data.cases import Case
from llavakit.engine.sampler import Sampling
from llavakit.eval.easy_vqa import Question
from llavakit.eval.vqa import accuracy, answer_questions, gain
from llavakit.model.settings import ModelConfig
from llavakit.recipes import RECIPES
from llavakit.recipes.demo_rlhf import ended
from llavakit.recipes.easy_vqa import COLOURS, SHAPES, EasyVqa
from llavakit.text.conversation import Conversation, Image, user
from llavakit.train.loop import train
from llavakit.train.pair_settings import PreferenceConfig
from llavakit.train.run import Run
from llavakit.train.settings import LearningRates, OptimConfig


def number(text: str) -> str | None:
    """The last (1) or (2)."""
    found = re.findall(r"\((1|2)\)", text)
    return found[-1] if found else None


# Shorter than the formats of the series, so that a small model sees many pairs in few tokens. The reason is the
# right answer; its number stands behind it, as behind the answers of the prompt.
FORM = Format(
    "short", 2, "{question}\n{first} (1)\n{second} (2)\nWhich answer is right?",
    named(number, {"1": -1.0, "2": 1.0}), "", {"(1)": -1.0, "(2)": 1.0},
)  # fmt: skip
PAIRS, TEST_PICTURES = 800, 40
ROW, STEPS, RATE = 400, 120, 2e-4  # of the critic: tokens of a row, rows, peak rate
WEAK_STEPS = 24  # of the policy: the demo's second stage with so many instead of 110
CANDIDATES, PROMPTS, ASKED_PICTURES = 4, 1000, 160
# Answers of two or three tokens: with the usual beta of 0.1 the loss pushes on long after they are apart (see
# docs/preferences.md), and a share of SFT on the chosen ones holds what is said up.
DPO = {"beta": 1.0, "loss": {"sigmoid": 1.0, "sft": 0.5}}
DPO_RATE, DPO_STEPS = 2e-5, 60


def labelled_pairs(questions: Sequence[Question], seed: int) -> list[Case]:
    """The open questions with their answer and another word of its kind, in a random order."""
    dice = random.Random(seed)
    cases = []
    for number, question in enumerate(questions):
        words = COLOURS if question.answer in COLOURS else SHAPES
        wrong = dice.choice([word for word in words if word != question.answer])
        right_first = dice.random() < 0.5
        answers = (question.answer, wrong) if right_first else (wrong, question.answer)
        kind = "colour" if words is COLOURS else "shape"
        cases.append(
            Case(
                str(number), question.text, (Image(question.image),), answers,
                label=-1.0 if right_first else 1.0, group=kind,
            )
        )  # fmt: skip
    return cases


def right_answer(case: Case) -> str:
    """What a critic says before its verdict."""
    return case.answers[case.label == 1.0] + " "


def train_critic(demo: Path, out: Path) -> Path:
    """The demo model fine-tuned on prompts and verdicts; where it is."""
    target = out / "critic"
    if (target / "latest").exists():
        return target
    dice = random.Random(0)
    questions = dice.sample(EasyVqa("train").open_questions(), PAIRS)
    records = out / "records.json"
    count = write_critic_records(FORM, labelled_pairs(questions, 1), records, reason=right_answer)
    say(f"{count} records: {records}")
    run = RECIPES["critic"]()
    train(_run(run, demo, target, records, rate=RATE, steps=STEPS, row=ROW))
    return target


def _run(run: Run, start: Path, out: Path, files: Path, *, rate: float, steps: int, row: int) -> Run:
    """A recipe on this start and these files."""
    changes = {
        "out": out,
        "train": ("connector", "language") if run.preference is None else ("language",),
        "embeddings": False,
        "model": ModelConfig(start=start),
        "data": run.data.model_copy(update={"files": (files,), "tokens": row}),
        "optim": OptimConfig(
            lr=LearningRates(connector=rate, language=rate), steps=steps, warmup=0.05, betas=(0.9, 0.98)
        ),
    }
    return run.model_copy(update=changes)


def judge_test(name: str, model: Path, out: Path, *, expected: bool) -> None:
    """The test pairs judged by a model, and the report."""
    path = out / f"{name}-{'expected' if expected else 'said'}.jsonl"
    cases = labelled_pairs(EasyVqa("test").open_questions(TEST_PICTURES), 2)
    judge = Judge(load(model), FORM, Sampling(max_tokens=8), expected)
    outcome = judge_file(judge, cases, path, who={"judge": name})
    say(f"{name}: {outcome.spent.tell()}")
    say(draw_report(read_report(path)))


def sample(chat: Chat, questions: Sequence[Question], path: Path) -> None:
    """Several answers of a policy to each question, as rollouts."""
    sampling = Sampling(temperature=1.0, top_p=0.95, max_tokens=8)
    prompts = [Conversation((user(question.text, [question.image]),)) for question in questions]
    answers = chat.answers([talk for talk in prompts for _ in range(CANDIDATES)], sampling=sampling)
    rollouts = [
        Rollout(
            f"easy-vqa:{at // CANDIDATES}", at // CANDIDATES, at % CANDIDATES, prompts[at // CANDIDATES],
            questions[at // CANDIDATES].answer, (), (), answer.text, answer.finish,
        )
        for at, answer in enumerate(answers)
        if ended(answer)
    ]  # fmt: skip
    write_rollouts(path, rollouts)


def weak_policy(demo: Path, out: Path) -> Path:
    """The demo's second stage, soon ended: what is left to learn."""
    target = out / "policy"
    if not (target / "latest").exists():
        run = load_settings(Run, demo / "stage2" / "run.yaml")
        optim = run.optim.model_copy(update={"steps": WEAK_STEPS})
        train(run.model_copy(update={"out": target, "optim": optim}))
    return target


def learn(policy: Path, critic: Path, out: Path) -> None:
    """A round of preference learning: the policy's answers, the critic's choice, DPO; accuracy before and after."""
    rollouts, pairs, target = out / "rollouts.jsonl", out / "pairs.jsonl", out / "preferred"
    if not (target / "latest").exists():
        questions = random.Random(3).sample(EasyVqa("train").open_questions(), PROMPTS)
        sample(load(policy), questions, rollouts)
        groups = read_candidates(rollouts)
        cases = [case for group in groups for case in group.pairs().values()]
        judge = Judge(load(critic), FORM, Sampling(max_tokens=8))
        outcome = judge_file(judge, cases, out / "compared.jsonl", who={"judge": "critic"})
        made = write_preferences(groups, outcome.rows, pairs)
        say(f"compared: {outcome.spent.tell()}; {made}; without a verdict: {dict(outcome.problems)}")
        run = _run(RECIPES["dpo"](), policy, target, pairs, rate=DPO_RATE, steps=DPO_STEPS, row=ROW)
        train(run.model_copy(update={"preference": PreferenceConfig.model_validate(DPO)}))
    test = EasyVqa("test").open_questions(ASKED_PICTURES)
    before, after = (
        answer_questions(load(model), test, name)
        for name, model in (("policy", policy), ("after DPO", target))
    )
    right = [100 * accuracy(test, said)["all"] for said in (before, after)]
    gained = gain(test, before, after).tell()
    say(f"{len(test)} open test questions: {right[0]:.1f} % right, after DPO {right[1]:.1f} %: {gained}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--demo", type=Path, default=Path("runs/demo"))
    parser.add_argument(
        "--policy", type=Path, help="who answers in --round, instead of a model that knows less"
    )
    parser.add_argument("--round", action="store_true", help="a round of preference learning, too")
    parser.add_argument("--out", type=Path, default=Path("runs/critic-report"))
    args = parser.parse_args()
    start = time.monotonic()
    judge_test("before", args.demo, args.out, expected=True)
    judge_test("before", args.demo, args.out, expected=False)
    critic = train_critic(args.demo, args.out)
    judge_test("after", critic, args.out, expected=False)
    if args.round:
        learn(args.policy or weak_policy(args.demo, args.out), critic, args.out)
    say(json.dumps({"seconds": round(time.monotonic() - start)}))


if __name__ == "__main__":
    main()
