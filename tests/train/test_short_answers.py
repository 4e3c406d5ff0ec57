"""DPO on answers of a word: what unlearns their ends, and the beta that does not.

A tiny model learns to name what a noisy prompt points at, answers several times, and learns from right answers
against wrong ones. What it says afterwards must be words still.
"""

import random
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from llavakit.core.types import Segment
from llavakit.data.encode import Sample, join
from llavakit.data.pack import collate
from llavakit.model.llava import Llava
from llavakit.train.freezing import train_only
from llavakit.train.gradients import clip_gradients
from llavakit.train.loop import train_step
from llavakit.train.objectives import SFT, Objective
from llavakit.train.optim import build_optimizer, schedule, set_rates
from llavakit.train.pair_settings import PreferenceConfig
from llavakit.train.preference import Preference
from llavakit.train.reference import CopiedReference
from llavakit.train.settings import LearningRates, OptimConfig
from tests import tiny

ASKED, GO, END, SIGN = 3, 4, 9, 100
WORDS = (
    (10,),
    (11,),
    (12,),
    (14,),
    (15, 16),
    (17, 16),
    (18, 19),
)  # tokens of each; some have two, some share one
Prompt, Answer = tuple[int, ...], tuple[int, ...]


@dataclass
class Lesson:
    """A model that names things, prompts with their words, and pairs of its own answers."""

    model: Llava
    weights: dict[str, torch.Tensor]
    held: list[tuple[Prompt, Answer]]
    pairs: list[Sample]


def draw(dice: random.Random) -> tuple[Prompt, Answer]:
    """Six signs, most of which are those of the word."""
    word = dice.randrange(len(WORDS))
    signs = [SIGN + (word if dice.random() < 0.45 else dice.randrange(len(WORDS))) for _ in range(6)]
    return (ASKED, *signs, GO), (*WORDS[word], END)


def said(prompt: Prompt, answer: Answer) -> Sample:
    ids = (*prompt, *answer)
    return Sample(ids, (0.0,) * len(prompt) + (1.0,) * len(answer), (Segment(0, len(ids)),))


def learn(model: Llava, objective: Objective, rows: list[list[Sample]], rate: float) -> dict[str, float]:
    """What the last step told."""
    config = OptimConfig(lr=LearningRates.model_validate(rate), steps=len(rows), warmup=0.1)
    optimizer, told = build_optimizer(model, config), dict[str, float]()
    for step, row in enumerate(rows):
        set_rates(optimizer, schedule(step, len(rows), config))
        _, told = train_step(model, objective, [collate(row)], precision="float32")
        clip_gradients(model, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return told


@torch.no_grad()
def answers(model: Llava, prompts: list[Prompt], seed: int | None = None) -> list[Answer]:
    """Greedy, or drawn; at most four tokens."""
    dice = None if seed is None else torch.Generator().manual_seed(seed)
    found: list[Answer] = [()] * len(prompts)
    for _ in range(4):
        going = [at for at, answer in enumerate(found) if END not in answer]
        if not going:
            break
        row = collate([said(prompts[at], found[at]) for at in going], learn=False)
        ends = torch.tensor([segment.end - 1 for segment in row.segments])
        logits = model.logits(model.hidden(row)[ends]).float()
        drawn = logits.argmax(-1) if dice is None else logits.softmax(-1).multinomial(1, generator=dice)[:, 0]
        for at, token in zip(going, drawn.tolist(), strict=True):
            found[at] = (*found[at], token)
    return found


@pytest.fixture(scope="module")
def lesson() -> Lesson:
    dice, model = random.Random(0), tiny.checkpoint().model
    torch.manual_seed(0)
    for parameter in model.language.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.05)
    train_only(model, ("language",))
    learn(model, SFT(), [[said(*draw(dice)) for _ in range(64)] for _ in range(150)], 4e-3)
    asked = [draw(dice) for _ in range(300)]
    drawn = [answers(model, [prompt for prompt, _ in asked], seed) for seed in range(3)]
    pairs = []
    for at, (prompt, word) in enumerate(asked):
        own = [some[at] for some in drawn]
        wrong = [answer for answer in own if answer != word and answer[-1] == END and len(answer) > 1]
        if word in own and wrong:
            pairs.append(join([said(prompt, word), said(prompt, wrong[0])]))
    weights = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    return Lesson(model, weights, [draw(dice) for _ in range(400)], pairs)


def figures(lesson: Lesson) -> tuple[float, float]:
    """(share of held-out prompts answered rightly, share answered with some word), greedy."""
    found = answers(lesson.model, [prompt for prompt, _ in lesson.held])
    right = [answer == word for answer, (_, word) in zip(found, lesson.held, strict=True)]
    words = [answer[:-1] in WORDS and answer[-1] == END for answer in found]
    return sum(right) / len(right), sum(words) / len(words)


def after(lesson: Lesson, config: PreferenceConfig) -> tuple[float, float, dict[str, float]]:
    """Fifty steps of DPO from the start; the figures, and what the last step told."""
    with torch.no_grad():
        for name, parameter in lesson.model.named_parameters():
            parameter.copy_(lesson.weights[name])
    objective = Preference(config, CopiedReference(lesson.model))
    order = random.Random(1)
    told = learn(lesson.model, objective, [order.choices(lesson.pairs, k=24) for _ in range(50)], 1.2e-3)
    return *figures(lesson), told


def test_a_weak_hold_unlearns_how_words_end_and_a_beta_of_one_does_not(lesson):
    """With 0.1 the loss of answers of two tokens never saturates, and is paid by the end of the rejected one: the
    tokens behind the place where the answers part are certain, whatever the answer is worth.
    """
    before, whole = figures(lesson)
    assert before > 0.6 and whole > 0.99
    weak, words, told = after(lesson, PreferenceConfig(beta=0.1))
    assert words < 0.9 and weak < before - 0.1
    assert told["end_rejected"] < -1.0
    held, words, told = after(lesson, PreferenceConfig(beta=1.0))
    assert words > 0.96 and held > before - 0.06 and held > weak + 0.1
    assert told["end_rejected"] > -0.5 and told["end_chosen"] > -0.1
