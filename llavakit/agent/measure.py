"""How well a model calls tools: its runs beside what was expected, in figures that say how many they are of."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from llavakit.agent.events import Answered
from llavakit.agent.state import State
from llavakit.rules.boxes import iou
from llavakit.rules.means import mean
from llavakit.text.calls import Call, ToolError, read_arguments

BOX_NAMES = ("box", "bbox", "bbox_2d")  # arguments that are boxes


@dataclass(frozen=True)
class Expected:
    """What is right for a question: the calls (none: it needs none) and, if it is known, the answer."""

    calls: tuple[Call, ...] = ()
    answer: str | None = None


@dataclass(frozen=True)
class Figure:
    """A share or a mean over `count` runs; None over none."""

    value: float | None
    count: int


def measure(
    runs: Sequence[State], expected: Sequence[Expected], is_right: Callable[[str, str], bool]
) -> dict[str, Figure]:
    """Figures from 0 to 1.

    `name`: the first call is of the expected tool; `arguments`: and its plain arguments are equal; `box IoU`: mean
    over expected boxes, 0 where none was given. `needless`: a tool was called where none is needed; `missed`: none
    where one is. `fabricated`: a tool that is not there was called, or the answer names or claims a call that was
    not made. `recovered`: after an error, a later call worked or the answer is right; `claimed after error`: all
    calls failed, and yet the answer claims a result.
    """
    pairs = list(zip(runs, expected, strict=True))
    needing = [(run, want) for run, want in pairs if want.calls]
    right = [
        (run, is_right(_answer(run).plain, want.answer)) for run, want in pairs if want.answer is not None
    ]
    named = [_first(run) is not None and _name(run) == want.calls[0].name for run, want in needing]
    broken = [run for run in runs if any(back is not None and back.error for _, back in run.calls())]
    all_broken = [run for run in broken if not _answer(run).used]
    correct = {id(run) for run, good in right if good}
    return {
        "answer": _share([good for _, good in right]),
        "name": _share(named),
        "arguments": _share([_same_arguments(run, want.calls[0]) for run, want in needing]),
        "box IoU": _mean([score for run, want in needing for score in _boxes(run, want.calls[0])]),
        "needless": _share([bool(run.calls()) for run, want in pairs if not want.calls]),
        "missed": _share([not run.calls() for run, _ in needing]),
        "fabricated": _share([_fabricates(run) for run in runs]),
        "recovered": _share([bool(_answer(run).used) or id(run) in correct for run in broken]),
        "claimed after error": _share([_claims(run) for run in all_broken]),
    }


def _answer(run: State) -> Answered:
    assert run.answered is not None, "a run that is measured has its answer"
    return run.answered


def _first(run: State) -> Call | None:
    calls = run.calls()
    return Call(calls[0][0].name, calls[0][0].arguments) if calls else None


def _name(run: State) -> str:
    first = _first(run)
    return "" if first is None else first.name


def _arguments(call: Call) -> dict[str, Any]:
    try:
        return read_arguments(call)
    except ToolError:
        return {}


def _same_arguments(run: State, want: Call) -> bool:
    first = _first(run)
    if first is None or first.name != want.name:
        return False
    said, right = _arguments(first), _arguments(want)
    return {k: v for k, v in said.items() if k not in BOX_NAMES} == {
        k: v for k, v in right.items() if k not in BOX_NAMES
    }


def _boxes(run: State, want: Call) -> list[float]:
    """The IoU of each box that was expected."""
    first, scores = _first(run), []
    for name, box in _arguments(want).items():
        if name in BOX_NAMES:
            said = _arguments(first).get(name) if first is not None and first.name == want.name else None
            if isinstance(said, list) and len(said) == 4 and all(isinstance(n, int | float) for n in said):
                scores.append(iou(box, said))
            else:
                scores.append(0.0)
    return scores


def _fabricates(run: State) -> bool:
    unknown = any(
        back is not None and back.error is not None and back.error.startswith("there is no tool")
        for _, back in run.calls()
    )
    doubts = [sentence.doubt for sentence in _answer(run).sentences]
    return unknown or any("does not exist" in doubt or "no call did this" in doubt for doubt in doubts)


def _claims(run: State) -> bool:
    return any(sentence.doubt for sentence in _answer(run).sentences)


def _share(flags: Sequence[bool]) -> Figure:
    return _mean([float(flag) for flag in flags])


def _mean(values: Sequence[float]) -> Figure:
    return Figure(mean(values) if values else None, len(values))
