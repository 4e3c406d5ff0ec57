"""What a model thinks between <think> and </think> is no part of its answer."""

import re

THOUGHT = re.compile(r"\A.*?</think>\s*", re.DOTALL)
OPENED = re.compile(r"\A\s*<think>")


def strip_thinking(answer: str) -> str:
    """The answer without what a model thought in front of it.

    Some templates say <think> for the model, so the closing mark alone ends a thought. One that was cut before its
    end left no answer.
    """
    if "</think>" in answer:
        return THOUGHT.sub("", answer, count=1)
    return "" if OPENED.match(answer) else answer
