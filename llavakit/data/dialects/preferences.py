"""Pairs of answers, of which one is preferred: a record of a pair is two ordinary records with one prompt.

Read are LLaVA-RLHF's (`output_1`, `output_2`, `preference`), TRL's and LLaVA-NeXT's (`prompt`, `chosen` and
`rejected`, each a text or messages; `image`, `images`, `video` or `videos`), RLAIF-V's (`question` instead of
`prompt`), and whole conversations, twice (`chosen` and `rejected` as messages, without a prompt).
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llavakit.core.errors import DataError
from llavakit.data.dialects.llava import write_llava
from llavakit.data.dialects.trl import write_trl
from llavakit.text.conversation import Conversation

Raw = dict[str, Any]
VIDEO_MARK = re.compile(r"<(image|video)>\n?")


def split_pair(raw: Raw) -> tuple[Raw, Raw]:
    """(chosen, rejected), each a record of a conversation. DataError where it is no pair or says no preference."""
    if "output_1" in raw and "output_2" in raw:
        return _rlhf(raw)
    if raw.get("chosen") is None or raw.get("rejected") is None:
        raise DataError(
            "a pair has 'chosen' and 'rejected', or 'output_1', 'output_2' and 'preference'; "
            f"found: {', '.join(map(repr, raw)) or 'nothing'}"
        )
    rest = {name: value for name, value in raw.items() if name not in ("chosen", "rejected")}
    rest = _media_lists(rest)
    chosen, rejected = raw["chosen"], raw["rejected"]
    question = next((name for name in ("prompt", "question") if rest.get(name) is not None), None)
    if question is None:
        return {**rest, "messages": chosen}, {**rest, "messages": rejected}
    prompt = rest.pop(question)
    if isinstance(prompt, str) and rest.get("videos") is not None:
        # LLaVA-NeXT writes the mark anywhere, or twice, and puts the video in front.
        prompt = VIDEO_MARK.sub("", prompt)
    return (
        {**rest, "prompt": prompt, "completion": _completion(prompt, chosen)},
        {**rest, "prompt": prompt, "completion": _completion(prompt, rejected)},
    )


def _rlhf(raw: Raw) -> tuple[Raw, Raw]:
    """LLaVA-RLHF: the conversation's last answer is in the place of the two."""
    preference = raw.get("preference")
    if preference not in (1, 2):
        raise DataError(f"'preference' must be 1 or 2, found {preference!r}")
    turns = raw.get("conversations")
    if not isinstance(turns, list) or not turns:
        raise DataError("'conversations' must be a non-empty list")
    dropped = ("output_1", "output_2", "preference")
    rest = {name: value for name, value in raw.items() if name not in dropped}
    first, second = ({**rest, "conversations": [*turns[:-1], raw[f"output_{number}"]]} for number in (1, 2))
    return (first, second) if preference == 1 else (second, first)


def _media_lists(rest: Raw) -> Raw:
    """`image` and `video` as the lists that the dialect of prompts and completions has."""
    renamed = {"image": "images", "video": "videos"}
    return {renamed.get(name, name): value for name, value in rest.items() if value is not None}


def _completion(prompt: Any, answer: Any) -> Any:
    """An answer as a text or as messages, as the prompt is."""
    if isinstance(prompt, list) and isinstance(answer, str):
        return [{"role": "assistant", "content": answer}]
    if (
        isinstance(prompt, str)
        and isinstance(answer, list)
        and len(answer) == 1
        and isinstance(answer[0], dict)
    ):
        return answer[0].get("content")
    return answer


@dataclass(frozen=True)
class PairDialect:
    """A way to write a pair as a record of a file in a folder."""

    name: str
    write: Callable[[Conversation, Conversation, Path], Raw]  # chosen, rejected


def write_rlhf(chosen: Conversation, rejected: Conversation, folder: Path) -> Raw:
    """LLaVA-RLHF's record; the preferred answer is `output_1`. DataError for what the format cannot say."""
    good, bad = (write_llava(_counting_alike(talk), folder) for talk in (chosen, rejected))
    outputs = {"output_1": good["conversations"][-1], "output_2": bad["conversations"][-1]}
    return good | outputs | {"preference": 1}


def _counting_alike(talk: Conversation) -> Conversation:
    """Whoever reads a pair learns of its last answers alone, whatever earlier ones count."""
    return Conversation(tuple(replace(message, weight=1.0) for message in talk.messages))


def write_trl_pair(chosen: Conversation, rejected: Conversation, folder: Path) -> Raw:
    """TRL's record, its answers as messages. DataError for what the format cannot say."""
    good, bad = (write_trl(talk, folder) for talk in (chosen, rejected))
    answers = {"chosen": good.pop("completion"), "rejected": bad["completion"]}
    return good | answers


PAIR_DIALECTS = (PairDialect("rlhf", write_rlhf), PairDialect("trl-pairs", write_trl_pair))
