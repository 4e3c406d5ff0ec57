"""Pairs of answers, of which one is preferred: a record of a pair is two ordinary records with one prompt.

Read are LLaVA-RLHF's (`output_1`, `output_2`, `preference`), TRL's and LLaVA-NeXT's (`prompt`, `chosen` and
`rejected`, each a text or messages; `image`, `images`, `video` or `videos`), RLAIF-V's (`question` instead of
`prompt`), and whole conversations, twice (`chosen` and `rejected` as messages, without a prompt).
"""

import re
from dataclasses import replace
from pathlib import Path

from llavakit.core.errors import DataError
from llavakit.data.dialects.judged import Judged, Raw, Verdict, answered, media_lists
from llavakit.data.dialects.llava import write_llava
from llavakit.data.dialects.trl import write_trl
from llavakit.text.conversation import Conversation

VIDEO_MARK = re.compile(r"<(image|video)>\n?")


def is_rlhf(raw: Raw) -> bool:
    return "output_1" in raw and "output_2" in raw


def split_rlhf(raw: Raw) -> Judged:
    """LLaVA-RLHF: the conversation's last answer is in the place of the two. No preference: none is better."""
    preference = raw.get("preference")
    if preference is not None and (type(preference) is not int or preference not in (1, 2)):
        raise DataError(f"'preference' must be 1 or 2, found {preference!r}")
    turns = raw.get("conversations")
    if not isinstance(turns, list) or not turns:
        raise DataError("'conversations' must be a non-empty list")
    dropped = ("output_1", "output_2", "preference")
    rest = {name: value for name, value in raw.items() if name not in dropped}
    first, second = ({**rest, "conversations": [*turns[:-1], raw[f"output_{number}"]]} for number in (1, 2))
    verdicts: tuple[Verdict, ...] = () if preference is None else (1,) if preference == 1 else (2,)
    return Judged(first, second, verdicts)


def is_chosen(raw: Raw) -> bool:
    return raw.get("chosen") is not None and raw.get("rejected") is not None


def split_chosen(raw: Raw) -> Judged:
    """Chosen and rejected, to one prompt or as whole conversations."""
    rest = {name: value for name, value in raw.items() if name not in ("chosen", "rejected")}
    rest = media_lists(rest)
    chosen, rejected = raw["chosen"], raw["rejected"]
    question = next((name for name in ("prompt", "question") if rest.get(name) is not None), None)
    if question is None:
        return Judged({**rest, "messages": chosen}, {**rest, "messages": rejected}, (1,))
    prompt = rest.pop(question)
    if isinstance(prompt, str) and rest.get("videos") is not None:
        # LLaVA-NeXT writes the mark anywhere, or twice, and puts the video in front.
        prompt = VIDEO_MARK.sub("", prompt)
    return Judged(answered(rest, prompt, chosen), answered(rest, prompt, rejected), (1,))


def write_rlhf(chosen: Conversation, rejected: Conversation, folder: Path, rest: Raw) -> Raw:
    """LLaVA-RLHF's record; the preferred answer is `output_1`. DataError for what the format cannot say."""
    good, bad = (write_llava(_counting_alike(talk), folder) for talk in (chosen, rejected))
    outputs = {"output_1": good["conversations"][-1], "output_2": bad["conversations"][-1]}
    return rest | good | outputs | {"preference": 1}


def _counting_alike(talk: Conversation) -> Conversation:
    """Whoever reads a pair learns of its last answers alone, whatever earlier ones count."""
    return Conversation(tuple(replace(message, weight=1.0) for message in talk.messages))


def write_trl_pair(chosen: Conversation, rejected: Conversation, folder: Path, rest: Raw) -> Raw:
    """TRL's record, its answers as messages. DataError for what the format cannot say."""
    good, bad = (write_trl(talk, folder) for talk in (chosen, rejected))
    answers = {"chosen": good.pop("completion"), "rejected": bad["completion"]}
    return rest | good | answers
