"""What a run may take, and texts cut to what it may take."""

import re
from typing import Annotated

from pydantic import Field, FiniteFloat

from llavakit.core.config import Config

PIECE = re.compile(r"\w{1,4}|\W")  # at least as many as any tokenizer makes of such a text
Seconds = Annotated[FiniteFloat, Field(gt=0)]


class Budget(Config):
    """Bounds of one run. When one is reached the model is asked once more, for an answer without tools."""

    steps: int = Field(default=8, ge=1)  # times the model is asked, the last answer not counted
    calls: int = Field(default=16, ge=0)
    seconds: Seconds = 600.0  # of everything up to the last answer; waiting for a person is not counted
    answer_seconds: Seconds = 120.0  # more, for the last answer
    tool_seconds: Seconds = 60.0  # one call, its retries included
    tries: int = Field(default=2, ge=1)  # of a call to a tool that was not to be had, if it changes nothing
    result_tokens: int = Field(default=800, ge=16)  # of one result that the model reads
    same: int = Field(default=3, ge=2)  # the call that would give one result so many times is refused
    pictures: int = Field(default=8, ge=0)  # that tools made and the model sees


def cut(text: str, most: int, whole: str) -> str:
    """At most about `most` tokens of a text, and where the whole one is."""
    ends = [found.end() for found, _ in zip(PIECE.finditer(text), range(most + 1), strict=False)]
    if len(ends) <= most:
        return text
    return f"{text[: ends[most - 1]]}... [cut; full text in {whole}]"
