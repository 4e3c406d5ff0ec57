"""Cases for a judge or a reward model: a question with one answer or more, and what people said of them.

Read are our own rows, pairs of any dialect, VL-RewardBench, Multimodal RewardBench, MLLM-as-a-Judge, and
LLaVA-Critic-113k, whose rows bring the whole prompt. The layout is told by the fields that a row has.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llavakit.core.errors import DataError, shorten
from llavakit.data.dialects.pair_table import PAIR_DIALECTS
from llavakit.data.dialects.reader import Reader
from llavakit.data.records import ADVICE, FAULTS, Record, read_records
from llavakit.rules.rankings import LETTERS, is_ranking
from llavakit.text.conversation import Conversation, Medium, Message, Text, assistant

# How VL-RewardBench's ids begin, up to the first "-" or "_", and its three groups.
VL_GROUPS = {
    "wildvision": "general", "vlfeedback": "general", "hallucination": "hallucination", "rlhf": "hallucination",
    "rlaif": "hallucination", "povid": "hallucination", "mathverse": "reasoning", "mmmu": "reasoning",
}  # fmt: skip
MLLM_MARGINS = {"A": -1.0, "B": 1.0, "C": 0.0}  # MLLM-as-a-Judge: the better answer, or neither
MARKS = ("<image>\n", "\n<image>", "<image>")
TIE = "tie"


@dataclass(frozen=True)
class Case:
    """A question with its answers. A margin: by how much the second of two answers is better, -1 to 1."""

    id: str
    question: str
    media: tuple[Medium, ...]
    answers: tuple[str, ...]
    reference: str = ""  # an answer that is known to be right
    context: str = ""  # what a judge that sees no picture is told about it
    label: float | None = None  # of one answer its score, of two their margin; None: nobody said
    group: str = ""  # category, for figures of their own
    verdict: str = ""  # of a row that brings its own prompt (`question`, no answers): what was said to it
    prompt: Conversation | None = None  # where there is more to it than one question: all before the answer
    ranking: str = ""  # of several answers: their letters (A is the first) from best to worst, as people said

    @property
    def asked(self) -> bool:
        """Whether `question` is the whole prompt of a judge."""
        return not self.answers

    def conversations(self) -> tuple[Conversation, ...]:
        """One for each answer, ending with it."""
        asked = Conversation((Message("user", (*self.media, Text(self.question))),))
        before = (self.prompt or asked).messages
        return tuple(Conversation((*before, assistant(answer))) for answer in self.answers)


def read_cases(path: Path) -> list[Case]:
    """All cases of a file. DataError, with file:line, for a row that is none, and for ids that are there twice."""
    cases = [read_case(record) for record in read_records(path)]
    if not cases:
        raise DataError("no case in it", path=path)
    twice = [name for name, count in Counter(case.id for case in cases).items() if count > 1]
    if twice:
        raise DataError(f"{len(twice)} ids are there twice, {twice[0]!r} first", path=path)
    return cases


def brings_answers(raw: Any) -> bool:
    """Whether a row is a case with answers: no plain conversation, and no prompt for a judge."""
    if not isinstance(raw, dict):
        return False
    layout = _layout_of(raw)
    return any(dialect.fits(raw) for dialect in PAIR_DIALECTS) or (layout is not None and layout.has_answers)


def _layout_of(raw: dict[str, Any]) -> "Layout | None":
    return next((each for each in LAYOUTS if all(raw.get(name) is not None for name in each.fields)), None)


def read_case(record: Record) -> Case:
    """The case of a row. DataError, with file:line, if it is none."""
    raw = record.raw
    try:
        if not isinstance(raw, dict):
            return _pair(record)  # whose error says what it is instead
        if any(dialect.fits(raw) for dialect in PAIR_DIALECTS):
            return _named(_pair(record), record)
        layout = _layout_of(raw)
        if layout is None:
            known = "; ".join(f"{each.name}: {', '.join(each.fields)}" for each in LAYOUTS)
            raise DataError(
                f"no case: it has {', '.join(map(repr, raw)) or 'no field'}. Read are pairs of answers; {known}"
            )
        case = layout.read(Reader(raw, record.folder, record.members), record)
    except DataError as error:
        raise DataError(error.what.removesuffix(ADVICE), path=record.path, line=record.line) from None
    except FAULTS as error:
        what = f"cannot be read: {type(error).__name__}: {error}"
        raise DataError(what, path=record.path, line=record.line) from None
    return _named(case, record)


def _named(case: Case, record: Record) -> Case:
    return case if case.id else replace(case, id=str(record.line))


def _own(reader: Reader, _: Record) -> Case:
    """`question` with `answer`, or with `answers`, a list; media, `reference`, `context`, `label` and `group`."""
    answers = reader.top.get("answers")
    if answers is None:
        answers = [reader.top.get("answer")]
    if not isinstance(answers, list) or not answers or not all(isinstance(text, str) for text in answers):
        raise DataError("'answers' must be a list of texts, or 'answer' a text")
    label, ranking = reader.top.get("label"), _optional(reader, "ranking")
    if ranking and not is_ranking(ranking, len(answers)):
        raise DataError(f"'ranking' is {shorten(repr(ranking))}, not each of {LETTERS[: len(answers)]} once")
    return Case(
        id=_name(reader, "id"),
        question=_text(reader, "question"),
        media=_media(reader),
        answers=tuple(answers),
        reference=_optional(reader, "reference"),
        context=_optional(reader, "context"),
        label=None if label is None else _pair_label(label) if len(answers) > 1 else _score(label),
        ranking=ranking,
        group=_optional(reader, "group"),
    )


def _pair(record: Record) -> Case:
    """The chosen answer is the first."""
    chosen, rejected = record.pair()
    return Case(
        id=_name(Reader(record.raw, record.folder), "id"),
        question=dialogue_of(chosen.messages[:-1]),
        media=chosen.media,
        answers=(chosen.messages[-1].text, rejected.messages[-1].text),
        label=-1.0,
        prompt=Conversation(chosen.messages[:-1]),
    )


def dialogue_of(messages: Sequence[Message]) -> str:
    """What was said before an answer as one text: the question, or a dialogue with who said what."""
    said = [message for message in messages if message.role != "system"]
    if len(said) == 1:
        return said[0].text.strip()
    return "\n".join(f"{message.role}: {message.text.strip()}" for message in said)


def _vl_reward_bench(reader: Reader, _: Record) -> Case:
    """VL-RewardBench: `response` holds two answers, `human_ranking` the rank of each, 0 the better."""
    name = _name(reader, "id")
    begins = name.split("-")[0].split("_")[0].lower()
    if begins not in VL_GROUPS:
        raise DataError(f"id {name!r} is of no known group; ids begin with {', '.join(VL_GROUPS)}")
    answers, ranks = reader.top.get("response"), reader.top.get("human_ranking")
    if not isinstance(answers, list) or len(answers) != 2 or ranks not in ([0, 1], [1, 0]):
        raise DataError("'response' must be two texts and 'human_ranking' [0, 1] or [1, 0]")
    return Case(
        name, _text(reader, "query"), _media(reader), tuple(map(str, answers)),
        label=float(ranks[0] - ranks[1]), group=VL_GROUPS[begins],
    )  # fmt: skip


def _multimodal_reward_bench(reader: Reader, _: Record) -> Case:
    """Multimodal RewardBench: `Better` is Output1 or Output2; safety and reasoning have two parts each."""
    name, better, group = _name(reader, "ID"), reader.top.get("Better"), _optional(reader, "Category")
    if better not in ("Output1", "Output2"):
        raise DataError(f"'Better' is {better!r}, neither Output1 nor Output2")
    if group == "safety":
        group = "safety/bias" if name.lower().startswith("pairs") else "safety/toxicity"
    if group == "reasoning":
        group = "reasoning/math" if name.lower().startswith("math") else "reasoning/coding"
    answers = _text(reader, "Output1"), _text(reader, "Output2")
    return Case(
        name, _text(reader, "Text"), tuple(reader.images("Image")), answers,
        label=1.0 if better == "Output2" else -1.0, group=group,
    )  # fmt: skip


def _mllm_pair(reader: Reader, _: Record) -> Case:
    """MLLM-as-a-Judge, pairs: an `id` is a picture's, so a case is named by its `pair_id`."""
    better = reader.top.get("human_answer")
    if better not in MLLM_MARGINS:
        raise DataError(f"'human_answer' is {shorten(repr(better))}, not A, B or C")
    answers = [reader.top.get(name) for name in ("answer1", "answer2")]
    texts = [each.get("answer") if isinstance(each, dict) else None for each in answers]
    if not all(isinstance(text, str) for text in texts):
        raise DataError("'answer1' and 'answer2' must hold a text 'answer' each")
    return Case(
        _name(reader, "pair_id"), _text(reader, "instruction"), tuple(reader.images("image_path")),
        tuple(map(str, texts)), label=MLLM_MARGINS[better], group=_optional(reader, "original_dataset"),
    )  # fmt: skip


def _mllm_score(reader: Reader, _: Record) -> Case:
    """MLLM-as-a-Judge, scores from 1 to 5, some of which are written as texts."""
    human = reader.top.get("human")
    label = float(human) if isinstance(human, str) and human.strip() in ("1", "2", "3", "4", "5") else human
    return Case(
        _name(reader, "score_id"), _text(reader, "instruction"), tuple(reader.images("image_path")),
        (_text(reader, "answer"),), label=_score(label, "human"), group=_optional(reader, "original_dataset"),
    )  # fmt: skip


def _mllm_ranking(reader: Reader, _: Record) -> Case:
    """MLLM-as-a-Judge, batches: answers to rank. An `id` is a picture's, so a case is named by its line."""
    found, ranking = reader.top.get("answers"), reader.top.get("human_answer")
    texts = [each.get("answer") if isinstance(each, dict) else None for each in found or ()]
    if len(texts) < 2 or not all(isinstance(text, str) for text in texts):
        raise DataError("'answers' must be a list of at least two objects with a text 'answer' each")
    if not isinstance(ranking, str) or not is_ranking(ranking, len(texts)):
        raise DataError(
            f"'human_answer' is {shorten(repr(ranking))}, not each of {LETTERS[: len(texts)]} once"
        )
    return Case(
        "", _text(reader, "instruction"), tuple(reader.images("image_path")), tuple(map(str, texts)),
        ranking=ranking, group=_optional(reader, "original_dataset"),
    )  # fmt: skip


def _critic(reader: Reader, _: Record) -> Case:
    """LLaVA-Critic-113k: a prompt and the verdict that was given to it."""
    turns = reader.top.get("conversations")
    texts = [turn.get("value") for turn in turns] if isinstance(turns, list) else []
    if len(texts) != 2 or not all(isinstance(text, str) for text in texts):
        raise DataError("'conversations' must be a prompt and a verdict, two turns with 'value'")
    prompt = texts[0]
    for mark in MARKS:
        prompt = prompt.replace(mark, "")
    return Case(
        _name(reader, "id"), prompt.strip(), _media(reader), (), verdict=texts[1], group=_optional(reader, "source")
    )  # fmt: skip


@dataclass(frozen=True)
class Layout:
    """One way to write a case, told by the fields that it must have."""

    name: str
    fields: tuple[str, ...]
    read: Callable[[Reader, Record], Case]
    has_answers: bool = True  # False: it brings a prompt of its own


LAYOUTS = (
    Layout("two answers or more", ("question", "answers"), _own),
    Layout("one answer", ("question", "answer"), _own),
    Layout("VL-RewardBench", ("query", "response", "human_ranking"), _vl_reward_bench),
    Layout("Multimodal RewardBench", ("Text", "Output1", "Output2", "Better"), _multimodal_reward_bench),
    Layout("MLLM-as-a-Judge, pairs", ("instruction", "answer1", "answer2", "human_answer"), _mllm_pair),
    Layout("MLLM-as-a-Judge, scores", ("instruction", "answer", "human", "score_id"), _mllm_score),
    Layout("MLLM-as-a-Judge, rankings", ("instruction", "answers", "human_answer"), _mllm_ranking),
    Layout("LLaVA-Critic-113k", ("conversations",), _critic, has_answers=False),
)


def _media(reader: Reader) -> tuple[Medium, ...]:
    images = [*reader.images("image"), *([] if reader.members else reader.images("images"))]
    return (*images, *reader.videos("video"))


def _name(reader: Reader, field: str) -> str:
    """An id, or nothing where the row has none."""
    value = reader.top.get(field)
    return "" if value is None else str(value)


def _text(reader: Reader, field: str) -> str:
    value = reader.top.get(field)
    if not isinstance(value, str):
        raise DataError(f"{field!r} must be a text, found {type(value).__name__}")
    return value


def _optional(reader: Reader, field: str) -> str:
    return "" if reader.top.get(field) is None else _text(reader, field)


def _score(label: Any, field: str = "label") -> float:
    if isinstance(label, bool) or not isinstance(label, int | float) or not math.isfinite(label):
        raise DataError(f"{field!r} of one answer is a number, found {shorten(repr(label))}")
    return float(label)


def _pair_label(label: Any) -> float:
    """1 or 2, the better answer, or "tie"."""
    if label == TIE:
        return 0.0
    if label not in (1, 2) or isinstance(label, bool):
        raise DataError(f"'label' of two answers is 1, 2 or {TIE!r}, found {shorten(repr(label))}")
    return 2.0 * label - 3


def of_answers(cases: Sequence[Case], least: int, most: int, path: Path) -> Sequence[Case]:
    """The cases, if each has so many answers or brings its own prompt; else a DataError that names the first."""
    for case in cases:
        if not case.asked and not least <= len(case.answers) <= most:
            wanted = str(least) if least == most else f"{least} to {most}"
            raise DataError(f"case {case.id!r} has {len(case.answers)} answers, not {wanted}", path=path)
    return cases
