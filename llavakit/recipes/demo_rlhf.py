"""The demo's other half: a model's own answers, preferences among them, a reward model, PPO; before and after.

SFT is short on purpose, so that there is something left to learn. Then LLaVA-RLHF's three steps on the same parts:
the model answers training questions several times, an answer that is right is preferred to one that is wrong, a
reward model that is told the pictures' captions learns these preferences (factual augmentation), and PPO learns
from the reward model alone. Nobody tells PPO what is right.

Colours are what is asked. Of shapes the short SFT knows nearly all: its answers make no pairs, and what a reward
model says where it has learned nothing is no reward.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

from llavakit.chat import Chat, load
from llavakit.core.errors import DataError
from llavakit.core.files import write_text
from llavakit.core.progress import bar, console, say
from llavakit.data.facts import FactsConfig
from llavakit.data.settings import DataConfig
from llavakit.engine.responder import Answer
from llavakit.engine.sampler import Sampling
from llavakit.eval.easy_vqa import EasyVqa, Question, is_right
from llavakit.eval.sheet import draw_sheet
from llavakit.eval.vqa import CHUNK, SHORT, Gain, accuracy, answer_questions, gain
from llavakit.model.settings import LoraSettings, ModelConfig
from llavakit.recipes import demo
from llavakit.recipes.easy_vqa import captions_of, colour_questions, write_colour_questions
from llavakit.text.conversation import Conversation, user
from llavakit.train.metrics import read_metrics
from llavakit.train.policy_settings import Algorithm, PolicyConfig, ValueConfig
from llavakit.train.reward_settings import RewardModelConfig
from llavakit.train.reward_terms import RewardModelTerm, RewardsConfig, StopPenalty
from llavakit.train.run import Run
from llavakit.train.settings import EvalConfig, LearningRates, OptimConfig

DEFAULT = Path("runs/rlhf")
LORA = LoraSettings(r=64, alpha=128, dropout=0.0)  # of all roles: one base serves them
SEED = 11  # of what is sampled to be compared
FACTS = FactsConfig(fields=("captions",))  # of a picture; shown to the reward model, never to the policy


@dataclass(frozen=True)
class Profile:
    """A budget, in steps."""

    sft: demo.Profile
    questions: int  # training questions that are asked to be compared
    held_out: int  # test questions, for the reward model's accuracy
    answers: int  # to each of them
    reward_steps: int
    ppo_steps: int
    prompts: int  # of a round of PPO
    minibatches: int
    test_questions: int


RLHF = Profile(
    sft=replace(demo.QUICK, question_steps=40),
    questions=600,
    held_out=200,
    answers=4,
    reward_steps=40,
    ppo_steps=24,
    prompts=64,
    minibatches=2,
    test_questions=400,
)


def run_rlhf(out: Path, *, resume: bool, profile: Profile = RLHF) -> Path:
    """All stages, pictures and rlhf.json; returns `out`, whose newest model `llavakit chat` takes."""
    data = EasyVqa("train")
    again = "llavakit demo --rlhf --resume" + ("" if out == DEFAULT else f" --out {out}")
    start, reward, ppo = out / "stage2", out / "reward", out / "ppo"
    demo.train_stages(out, demo.make_stages(out, profile.sft, data), again, resume=resume)
    pairs, held_out = out / "data" / "pairs.json", out / "data" / "held_out_pairs.json"
    if not (resume and pairs.exists() and held_out.exists()):
        chat, test = load(start), EasyVqa("test")
        for split, count, path in ((test, profile.held_out, held_out), (data, profile.questions, pairs)):
            captions = {split.picture(number): caption for number, caption in captions_of(split).items()}
            asked = Random(SEED).sample(colour_questions(split), count)
            write_pairs(chat, asked, captions, path, answers=profile.answers)
    questions = out / "data" / "own_questions.json"
    write_colour_questions(data, questions)
    stages = [
        _reward_run(reward, start, pairs, held_out, profile),
        _ppo_run(ppo, start, reward, questions, data, profile),
    ]
    demo.train_stages(out, stages, again, resume=resume)
    _report(out, start, ppo, reward, profile)
    return out


def write_pairs(
    chat: Chat, questions: Sequence[Question], captions: Mapping[Path, str], path: Path, *, answers: int
) -> int:
    """Of every question whose sampled answers differ, a right one against a wrong one; how many pairs there are.

    The picture's caption stands beside them. An answer that was cut at its limit is none. DataError where there
    is no pair at all.
    """
    how = Sampling(temperature=1.0, max_tokens=SHORT.max_tokens, seed=SEED)
    rows: list[dict[str, Any]] = []
    with bar("sampled answers", len(questions)) as progress:
        for at in range(0, len(questions), CHUNK):
            chunk = questions[at : at + CHUNK]
            talks = [Conversation((user(each.text, [each.image]),)) for each in chunk for _ in range(answers)]
            said = iter(chat.answers(talks, sampling=how.model_copy(update={"seed": SEED + at * answers})))
            for question in chunk:
                own = [next(said) for _ in range(answers)]
                texts = [answer.text for answer in own if ended(answer)]
                good = [text for text in texts if is_right(text, question.answer)]
                bad = [text for text in texts if not is_right(text, question.answer)]
                if good and bad:
                    pair = _pair(question, good[0], bad[0])
                    rows.append(pair | {"captions": [captions[question.image]]})
            progress.advance(len(chunk))
    if not rows:
        raise DataError(f"none of {len(questions)} questions was answered both rightly and wrongly")
    write_text(path, json.dumps(rows, indent=1) + "\n")
    say(f"{len(rows)} pairs among the answers to {len(questions)} questions: {path}")
    return len(rows)


def ended(answer: Answer) -> bool:
    """Whether something was said, to its end."""
    return answer.finish == "stop" and bool(answer.text)


def _pair(question: Question, good: str, bad: str) -> dict[str, str]:
    asked = f"<image>\n{question.text}"
    return {"image": str(question.image), "prompt": asked, "chosen": good, "rejected": bad}


def _reward_run(out: Path, start: Path, pairs: Path, held_out: Path, profile: Profile) -> Run:
    """A reward model as adapters on the model that answered."""
    return Run(
        name="3-reward",
        out=out,
        train=("language", "score"),
        model=ModelConfig(start=start, lora=LORA),
        data=DataConfig(files=(pairs,), tokens=1024),
        reward=RewardModelConfig(facts=FACTS),
        optim=OptimConfig(
            lr=LearningRates(language=3e-4, score=1e-3), steps=profile.reward_steps, warmup=0.1
        ),
        eval=EvalConfig(files=(held_out,)),
    )


def _ppo_run(out: Path, start: Path, reward: Path, questions: Path, data: EasyVqa, profile: Profile) -> Run:
    """Policy, value, reward and reference on one base; what is right is known to the reward model alone.

    Right and wrong are eleven points apart here, so a nat of KL costs more than the usual tenth of a point.
    """
    algorithm = Algorithm.model_validate("ppo").model_copy(
        update={"kl_coef": 0.3, "value": ValueConfig(start=reward)}
    )
    terms = {"rm": RewardModelTerm(model=str(reward)), "stop_penalty": StopPenalty()}
    rewards = RewardsConfig(terms=terms, facts=FACTS)
    return Run(
        name="4-ppo",
        out=out,
        train=("language",),
        model=ModelConfig(start=start, lora=LORA),
        data=DataConfig(files=(questions,), images=data.folder, tokens=700, turns="independent"),
        policy=PolicyConfig(
            algorithm=algorithm, rewards=rewards, prompts=profile.prompts, answers=4,
            minibatches=profile.minibatches, max_tokens=SHORT.max_tokens,
        ),
        optim=OptimConfig(lr=LearningRates(language=1e-4), steps=profile.ppo_steps, warmup=0.15, final=0.1),
        save_every=20,
    )  # fmt: skip


def _report(out: Path, start: Path, ppo: Path, reward: Path, profile: Profile) -> None:
    """Test questions before and after, greedy and sampled; the table, the pictures, rlhf.json."""
    questions = colour_questions(EasyVqa("test"))[: profile.test_questions]
    before, after = ask(load(start), questions, "before"), ask(load(ppo), questions, "after")
    judged = read_metrics(reward / "metrics.jsonl")[-1]
    rounds = [row for row in read_metrics(ppo / "metrics.jsonl") if "reward" in row]
    facts = {
        "questions": len(questions),
        "right": {
            f"{name}, {how}": accuracy(questions, said[how])["all"]
            for how in before
            for name, said in (("before", before), ("after", after))
        },
        "gain": {how: asdict(gain(questions, before[how], after[how])) for how in before},
        "reward_model_accuracy": judged["eval_accuracy"],
        "kl": max(row["kl"] for row in rounds),
        "answers": sum(int(row["answers"]) for row in rounds),
    }
    write_text(out / "rlhf.json", json.dumps(facts, indent=2) + "\n")
    _draw_turned(questions, before["greedy"], after["greedy"], out)
    _print_table(facts)
    picture = demo.leave_pictures(questions, out / "pictures")
    pages = sorted((ppo / "rollouts").glob("*.html"))
    say(f"answers that turned: {out / 'before.png'}, {out / 'after.png'}; figures: {out / 'rlhf.json'}")
    say(f"curves of PPO: {ppo / 'rollouts.png'}; what it answered and got for it: {pages[-1]}")
    say(f'  llavakit chat --model {out} --image {picture} "What color is the shape?"')


def ask(chat: Chat, questions: Sequence[Question], name: str) -> dict[str, list[str]]:
    """Its likeliest answers (`greedy`), and such as it draws at temperature 1 (`sampled`)."""
    sampled = SHORT.model_copy(update={"temperature": 1.0, "seed": SEED})
    return {
        "greedy": answer_questions(chat, questions, f"{name}: test questions"),
        "sampled": answer_questions(chat, questions, f"{name}: the same, sampled", sampling=sampled),
    }


def _draw_turned(
    questions: Sequence[Question], before: Sequence[str], after: Sequence[str], out: Path
) -> None:
    """The same questions on two sheets: those whose answers became right or wrong come first."""

    def turned(at: int) -> bool:
        return is_right(before[at], questions[at].answer) != is_right(after[at], questions[at].answer)

    order = Random(SEED).sample(range(len(questions)), len(questions))
    shown = sorted(order, key=turned, reverse=True)[: demo.SHEET_QUESTIONS]
    for name, answers in (("before", before), ("after", after)):
        draw_sheet([questions[at] for at in shown], [answers[at] for at in shown], out / f"{name}.png")


def _print_table(facts: dict[str, Any]) -> None:
    from rich.table import Table

    say(f"{facts['questions']} test questions for a colour:")
    table = Table("", "right", box=None)
    for name, right in facts["right"].items():
        table.add_row(name, f"{100 * right:.1f} %")
    console.print(table)
    for how, gained in facts["gain"].items():
        say(f"{how}: {Gain(**gained).tell()}")
    say(
        f"reward model: right on {100 * facts['reward_model_accuracy']:.1f} % of held-out pairs; KL to the start "
        f"at most {facts['kl']:.2f} nats an answer"
    )
