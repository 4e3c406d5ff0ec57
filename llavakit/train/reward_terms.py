"""Settings of rewards: the named, weighted terms that say how good an answer is. Apart from what scores.

A term's name is its kind, unless it says `kind`: two patterns are `{first: {kind: regex, ...}, second: {...}}`. The
name `FILE.py:FUNCTION` is a function of the user's. A number alone is a weight.
"""

import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, SerializeAsAny, field_validator, model_validator

from llavakit.core.config import Config, make
from llavakit.core.errors import ConfigError, pick
from llavakit.data.facts import FactsConfig

Weight = Annotated[float, Field(ge=-1e6, le=1e6)]
Take = Literal["all", "answer", "boxed"]
Number = Annotated[float, Field(ge=-1e9, le=1e9)]
Scalar = str | Annotated[int, Field(ge=-(10**9), le=10**9)] | Number | bool  # of a record, to be equal to


class TermSettings(Config):
    """What every term can be told."""

    weight: Weight = 1.0
    # Of which records answers are scored, by values of their fields: {answer_type: [yesno]}. Others get 0.
    only: dict[str, tuple[Scalar, ...]] = Field(default_factory=dict)


class ContentSettings(TermSettings):
    """A term that reads what is said: all of it, or what stands in <answer> tags or the last box."""

    take: Take = "all"


class RewardModelTerm(TermSettings):
    """What a reward model says: a directory that `llavakit train --recipe reward` made, or the URL of a server."""

    kind: Literal["rm"] = "rm"
    model: str
    facts: bool | None = None  # show it the record's facts (factual augmentation); default: as it was taught


class StopPenalty(TermSettings):
    """For an answer that did not end by itself."""

    kind: Literal["stop_penalty"] = "stop_penalty"
    value: float = Field(-8.0, ge=-1e6, le=0)  # LLaVA-RLHF's
    relative: bool = True  # False: it is the whole reward then, whatever other terms say


class Length(TermSettings):
    """`weight` x the record's `length_bonus` x generated tokens / `longest`; LLaVA-RLHF's weight is -10."""

    kind: Literal["length"] = "length"
    longest: int = Field(896, ge=1)
    field: str = (
        "length_bonus"  # of the record: how much it counts there, 1 where it has none; below 0: a bonus
    )


class SoftOverlong(TermSettings):
    """DAPO's (arXiv 2503.14476): from 0 to -1 over the last `buffer` tokens before `longest`."""

    kind: Literal["soft_overlong"] = "soft_overlong"
    longest: int = Field(ge=1)
    buffer: int = Field(ge=1)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.buffer > self.longest:
            raise ConfigError(f"soft_overlong: buffer={self.buffer} is more than longest={self.longest}")
        return self


class Choice(ContentSettings):
    """Whether the letter that an answer claims is the reference's. Two letters are a guess."""

    kind: Literal["choice"] = "choice"
    rule: Literal["strict", "llava_rlhf"] = "strict"
    several: float = Field(-1.0, ge=-1e6, le=1e6)  # strict: for an answer that claims several letters


class YesNoTerm(ContentSettings):
    """Whether yes or no is said as the reference has it; both are a guess."""

    kind: Literal["yes_no"] = "yes_no"
    rule: Literal["strict", "llava_rlhf"] = "strict"
    several: float = Field(-1.0, ge=-1e6, le=1e6)
    asymmetric: bool = (
        False  # strict: references that say yes score nothing, so only wrong yeses can be lost by
    )


class Exact(ContentSettings):
    """Whether the answer is the reference, but for case, punctuation and outer blanks."""

    kind: Literal["exact"] = "exact"


class Regex(TermSettings):
    """Whether a pattern is found in the answer, or with `whole` fits all of it."""

    kind: Literal["regex"] = "regex"
    pattern: str
    whole: bool = False
    seconds: float = Field(1.0, gt=0, le=3600)  # for one answer: patterns can search for ever

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, pattern: str) -> str:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"not a regular expression: {error}") from None
        return pattern


class Format(TermSettings):
    """Whether the answer is built as asked: <think> and <answer>, <think> and then a box, either alone."""

    kind: Literal["format"] = "format"
    style: Literal["think_answer", "think_boxed", "answer", "boxed"] = "think_answer"


class ToolUse(TermSettings):
    """Whether a tool gave the answer something; with a `gate` on what is right, a bonus of right answers alone."""

    kind: Literal["tool_use"] = "tool_use"


class BoxIoU(ContentSettings):
    """How much the first box of the answer overlaps with the reference's, 0 to 1."""

    kind: Literal["box_iou"] = "box_iou"
    field: str = "bbox"  # of the record, where its answer has no box
    at: float | None = Field(None, gt=0, le=1)  # 1 from this overlap on and else 0


class Math(ContentSettings):
    """Whether the answer is mathematically equal to the reference. Needs the extra `eval`."""

    kind: Literal["math"] = "math"
    seconds: float = Field(10.0, gt=0, le=3600)


class Judge(TermSettings):
    """What a model that answers says of the answer: a number within `lowest` and `highest`, brought to 0 to 1."""

    kind: Literal["judge"] = "judge"
    model: str  # a directory, or the URL of a server
    prompt: Path | None = None  # a text with {question}, {answer}, {reference} and {facts}; default: ours
    lowest: float = Field(0.0, ge=-1e6, le=1e6)
    highest: float = Field(10.0, ge=-1e6, le=1e6)
    facts: bool = True
    max_tokens: int = Field(512, ge=1)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.highest <= self.lowest:
            raise ConfigError(f"judge: highest={self.highest:g} must be above lowest={self.lowest:g}")
        return self


class Critic(TermSettings):
    """What an answer won against the other answers to its prompt, compared two by two in both orders by a judge."""

    kind: Literal["critic"] = "critic"
    model: str  # a directory, or the URL of a server
    format: str | None = None  # how the judge is asked (docs/judge.md); default: LLaVA-Critic's
    expected: bool = False  # weigh the verdicts by their probabilities, for a model here
    max_tokens: int = Field(1024, ge=1)


class Python(TermSettings):
    """A function of the user's: `score(answer, reference, **record)` gives a number, or None for "unknown"."""

    kind: Literal["python"] = "python"
    function: str  # FILE.py:FUNCTION
    seconds: float = Field(10.0, gt=0, le=3600)  # for one answer
    memory: float = Field(4.0, gt=0, le=4096)  # gigabytes it may address

    @field_validator("function")
    @classmethod
    def _named(cls, function: str) -> str:
        if not FUNCTION.fullmatch(function):
            raise ValueError("write FILE.py:FUNCTION")
        return function


FUNCTION = re.compile(r".+\.py:[A-Za-z_]\w*")
TERMS: dict[str, type[TermSettings]] = {
    "rm": RewardModelTerm,
    "stop_penalty": StopPenalty,
    "length": Length,
    "soft_overlong": SoftOverlong,
    "choice": Choice,
    "yes_no": YesNoTerm,
    "exact": Exact,
    "regex": Regex,
    "format": Format,
    "box_iou": BoxIoU,
    "tool_use": ToolUse,
    "math": Math,
    "judge": Judge,
    "critic": Critic,
    "python": Python,
}
TOTAL = "total"  # beside the terms, in what a reward gives


class RewardsConfig(Config):
    """The terms of a reward, by name. Their weighted sum is the total."""

    terms: dict[str, SerializeAsAny[TermSettings]] = Field(
        default_factory=lambda: dict[str, TermSettings](exact=Exact())
    )
    gate: str | None = None  # a term: what reads the content counts only where this one is above 0
    facts: FactsConfig | None = None  # where facts come from; default: what the rollouts bring
    normalise: Literal["none", "group"] = (
        "none"  # group: each term to mean 0, deviation 1 among a prompt's answers
    )

    @field_validator("terms", mode="before")
    @classmethod
    def _kinds(cls, terms: Any) -> Any:
        return (
            {name: _read(name, given) for name, given in terms.items()} if isinstance(terms, dict) else terms
        )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not self.terms:
            raise ConfigError("rewards.terms is empty; name at least one term, as exact")
        if TOTAL in self.terms:
            raise ConfigError(
                f"rewards.terms: {TOTAL!r} is what the sum is called; give the term another name"
            )
        if self.gate is not None:
            pick(dict(self.terms), self.gate, "term of rewards.gate")
        return self


def _read(name: str, given: Any) -> TermSettings:
    """A term by its kind. A number is a weight."""
    if isinstance(given, TermSettings):
        return given
    if isinstance(given, int | float | str) and not isinstance(given, bool):
        given = {"weight": given}
    where = f"rewards.terms.{name}"
    if not isinstance(given, dict):
        raise ConfigError(f"{where}: expected a weight or settings as {{name: value}}, found {given!r}")
    if FUNCTION.fullmatch(name):
        given = {"kind": "python", "function": name} | given
    kind = given.get("kind", name)
    return make(pick(TERMS, str(kind), f"kind of {where}"), given, where=where)


def llava_rlhf_rewards(
    model: str | None, *, facts: bool | None = None, symbolic: bool = True, length: bool = True
) -> RewardsConfig:
    """LLaVA-RLHF's reward: its three mechanisms are independent switches, and so is the reward model itself."""
    terms: dict[str, Any] = {"stop_penalty": {"value": -8.0}}
    if model is not None:
        terms = {"rm": {"model": model, "facts": facts}} | terms
    if length:
        terms["length"] = {"weight": -10.0, "longest": 896}
    if symbolic:
        terms |= {name: {"weight": 2.0, "rule": "llava_rlhf"} for name in ("choice", "yes_no")}
    return RewardsConfig.model_validate({"terms": terms})
