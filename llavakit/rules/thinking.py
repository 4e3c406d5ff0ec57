"""What a model thinks between <think> and </think> is no part of its answer."""

import re

THINKING = re.compile(r"\A\s*<think>.*?</think>\s*", re.DOTALL)


def strip_thinking(answer: str) -> str:
    """The answer without what a model thought in front of it."""
    return THINKING.sub("", answer)
