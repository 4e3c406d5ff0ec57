"""Cases with their right calls: a file of questions that an agent is asked, and the figures of its runs.

A line is an object: `id`, `question`, `image` (a path or a list), `calls` ([] where no tool is needed), each with
`name` and `arguments`, `answer` if it is known, and `boxes` (left,top,right,bottom in pixels) on the first picture.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from llavakit.agent.loop import Agent
from llavakit.agent.measure import Expected, Figure, measure
from llavakit.agent.opening import AgentConfig
from llavakit.agent.run import EVENTS, begin, reopen
from llavakit.agent.state import State
from llavakit.core.errors import DataError
from llavakit.core.files import write_text
from llavakit.core.progress import bar
from llavakit.rules.short_answers import exact_match
from llavakit.text.calls import Call

FIGURES = "figures.json"


class ExpectedCall(BaseModel):
    """A call that is right."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    name: str
    arguments: dict[str, Any] = Field(default_factory=dict)


class Case(BaseModel):
    """One question and what is right for it."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    id: str = Field(pattern=r"^[\w.-]{1,80}$")  # names the run's folder
    question: str
    image: str | tuple[str, ...] = ()
    calls: tuple[ExpectedCall, ...] = ()
    answer: str | None = None
    boxes: tuple[str, ...] = ()

    @property
    def expected(self) -> Expected:
        """For the figures."""
        calls = tuple(Call(call.name, json.dumps(call.arguments)) for call in self.calls)
        return Expected(calls, self.answer)

    def pictures(self, folder: Path) -> list[Path]:
        """Its pictures; relative paths are below `folder`."""
        return [folder / path for path in ((self.image,) if isinstance(self.image, str) else self.image)]


def read_cases(path: Path) -> list[Case]:
    """The cases of a file of JSON lines. DataError with its line for one that is none, or is there twice."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot be read: {error}", path=path) from None
    found: dict[str, Case] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            case = Case.model_validate_json(line)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "the line"
            raise DataError(f"{where}: {first['msg']}", path=path, line=number) from None
        if case.id in found:
            raise DataError(f"the id {case.id!r} is there twice", path=path, line=number)
        found[case.id] = case
    if not found:
        raise DataError("no case in it", path=path)
    return list(found.values())


def ask_cases(
    agent: Agent, cases: Sequence[Case], folder: Path, out: Path, config: AgentConfig
) -> dict[str, Figure]:
    """A run of every case in `out`; those that are there go on where they stood. Their figures, in a file too."""
    states: list[State] = []
    with bar("cases", len(cases)) as progress:
        for case in cases:
            where = out / case.id
            opened = (
                reopen(where) if (where / EVENTS).exists()
                else begin(
                    where, case.question, pictures=case.pictures(folder), boxes=case.boxes, form=config.form,
                    cards=agent.registry.cards_for(config.boxes), budget=config.budget, unit=config.boxes,
                )
            )  # fmt: skip
            with opened as run:
                for _ in agent.go(run):
                    pass
                states.append(run.state)
            progress.advance()
    figures = measure(states, [case.expected for case in cases], _is_right)
    write_text(out / FIGURES, json.dumps({name: vars(one) for name, one in figures.items()}, indent=2) + "\n")
    return figures


def _is_right(answer: str, truth: str) -> bool:
    return exact_match(answer.strip(), truth) > 0
