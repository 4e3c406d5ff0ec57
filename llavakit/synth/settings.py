"""How data is made: every setting of a run of `llavakit synth`, checked before anybody is asked."""

from typing import Annotated, Literal

from pydantic import Field, FiniteFloat

from llavakit.core.config import Config
from llavakit.engine.sampler import Sampling

Rate = Annotated[FiniteFloat, Field(ge=0)]
Price = tuple[Rate, Rate]  # of a million tokens read, and of a million said


class SynthConfig(Config):
    """What a run keeps to. Defaults are what most people want."""

    kind: str
    rows: int | None = Field(default=None, ge=1)  # accepted ones; None: what all pictures give
    rounds: int = Field(default=1, ge=1)  # how often each picture may be used
    seed: int = Field(default=0, ge=0)
    sees: bool = False  # the writer is shown the picture; else it is told what is known
    turns: int = Field(default=3, ge=1, le=20)  # of a conversation
    answers: int = Field(default=5, ge=2, le=64)  # that are compared for a pair
    format: str | None = None  # of a critique, as `llavakit judge --format`
    temperature: FiniteFloat = Field(default=0.7, ge=0)
    max_tokens: int = Field(default=1024, ge=1)
    attempts: int = Field(default=3, ge=1)  # at an answer that cannot be read
    schema_sent: bool = True  # whether a server is told the shape of its answer
    language: str | None = None  # a code; None: any
    similar: float = Field(default=0.8, gt=0, le=1)  # texts that overlap so much are doubles
    near: int | None = Field(default=None, ge=0, le=64)  # bits of 256 by which pictures of one look differ
    ngram: int = Field(default=8, ge=2)  # words of a question that an evaluation has too
    price: Price | None = None
    on_unknown: Literal["stop", "skip"] = "stop"  # facts about pictures that are not there

    def sampling(self, seed: int, schema: str | None, *, greedy: bool = False) -> Sampling:
        """How an answer is drawn. A greedy one has no seed, so equal prompts are one request."""
        warm = 0.0 if greedy else self.temperature
        return Sampling(
            temperature=warm, max_tokens=self.max_tokens, seed=seed if warm else 0,
            json_schema=schema if self.schema_sent else None,
        )  # fmt: skip
