"""Two answers to one prompt and what people said of them: what the dialects of preferences share."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from llavakit.core.errors import DataError, shorten
from llavakit.data.dialects.writing import path_of, text_with_placeholders
from llavakit.text.conversation import Conversation, Image, Message, Video

Raw = dict[str, Any]
Verdict = Literal[1, 2, "tie", "both_bad"]  # which answer is better, if one is
ENDS: tuple[tuple[str, str], ...] = (("1", "2"), ("a", "b"))  # of the names of two answers' fields
PROMPTS = ("prompt", "instruction", "question", "query", "input", "chat", "messages")
WORDS: dict[str, Verdict] = {
    "1": 1, "a": 1, "left": 1, "first": 1,
    "2": 2, "b": 2, "right": 2, "second": 2,
    "tie": "tie", "equal": "tie", "same": "tie", "both good": "tie",
    "both bad": "both_bad", "neither": "both_bad", "none": "both_bad",
}  # fmt: skip


@dataclass(frozen=True)
class Judged:
    """Two answers, each as a record of a conversation, and what every annotator said; None: he skipped them."""

    first: Raw
    second: Raw
    verdicts: tuple[Verdict | None, ...]

    @property
    def verdict(self) -> Verdict | None:
        return settle(self.verdicts)


def settle(verdicts: Iterable[Verdict | None]) -> Verdict | None:
    """What most of those said who did not skip; None where two opinions are equally frequent, or none is."""
    most = Counter(verdict for verdict in verdicts if verdict is not None).most_common(2)
    if not most or (len(most) == 2 and most[0][1] == most[1][1]):
        return None
    return most[0][0]


def read_word(word: str, names: tuple[str, str]) -> Verdict | None:
    """What a tool's value says of the answers in the fields `names`; None if it says nothing of them."""
    if word in names:
        return 1 if word == names[0] else 2
    return WORDS.get(word.strip().casefold().replace("_", " ").replace("-", " "))


def answer_names(fields: Raw) -> tuple[str, str]:
    """The two fields whose names differ in their ends only: answer1 and answer2, response_a and response_b."""
    found = [
        (name, name[:-1] + other)
        for name in fields
        for one, other in (*ENDS, *((one.upper(), other.upper()) for one, other in ENDS[1:]))
        if name.endswith(one) and isinstance(fields.get(name[:-1] + other), str)
    ]
    answers = [pair for pair in found if not pair[0].casefold().startswith(("image", "video", "fact"))]
    if len(answers) != 1:
        raise DataError(
            "two answers are two fields named alike, as answer1 and answer2; "
            f"found: {shorten(', '.join(map(repr, fields)), 200) or 'nothing'}"
        )
    return answers[0]


def prompt_name(fields: Raw) -> str:
    """The field that has the question."""
    for name in PROMPTS:
        if fields.get(name) is not None:
            return name
    raise DataError(f"the question is in none of the fields {', '.join(PROMPTS)}")


def split_fields(
    fields: Raw, names: tuple[str, str], verdicts: Sequence[Verdict | None], beside: Raw
) -> Judged:
    """Two answers that lie in an object's fields with their prompt and media; `beside` is taken along."""
    asked = prompt_name(fields)
    media = {name: value for name, value in fields.items() if name not in (asked, *names)}
    rest, prompt = beside | media_lists(media), fields[asked]
    first, second = (answered(rest, prompt, fields[name]) for name in names)
    return Judged(first, second, tuple(verdicts))


def answered(rest: Raw, prompt: Any, answer: Any) -> Raw:
    """A record of prompt and completion: an answer becomes a text or messages, as the prompt is."""
    if isinstance(prompt, list) and isinstance(answer, str):
        answer = [{"role": "assistant", "content": answer}]
    elif isinstance(prompt, str) and isinstance(answer, list) and len(answer) == 1:
        answer = answer[0].get("content") if isinstance(answer[0], dict) else answer
    return {**rest, "prompt": prompt, "completion": answer}


def media_lists(rest: Raw) -> Raw:
    """`image` and `video` as the lists that the dialect of prompts and completions has."""
    renamed = {"image": "images", "video": "videos"}
    return {renamed.get(name, name): value for name, value in rest.items() if value is not None}


def write_prompt(talk: Conversation) -> str | list[Raw]:
    """All before the last message, as a text if it is one question, else as messages; media are placeholders."""
    *prompt, _ = talk.messages
    if len(prompt) == 1 and prompt[0].role == "user":
        return text_with_placeholders(prompt[0])
    return [_write_message(message) for message in prompt]


def _write_message(message: Message) -> Raw:
    return {"role": message.role, "content": text_with_placeholders(message)}


def media_paths(talk: Conversation, folder: Path) -> tuple[list[str], list[str]]:
    """The paths of pictures and of videos as a file in `folder` writes them."""
    images = [path_of(medium, folder) for medium in talk.media if isinstance(medium, Image)]
    return images, [path_of(medium, folder) for medium in talk.media if isinstance(medium, Video)]
