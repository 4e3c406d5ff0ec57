"""A run on disk: a folder with its events, pictures and texts. It can be shown, replayed and continued."""

import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from llavakit.agent.budget import Budget
from llavakit.agent.events import Begun, Event, Line, read_events
from llavakit.agent.places import read_box, read_sketch, told_places
from llavakit.agent.policy import digest
from llavakit.agent.state import State
from llavakit.core.errors import ConfigError
from llavakit.core.journal import Journal, open_journal
from llavakit.text.calls import Card
from llavakit.tools.artifacts import Artifacts
from llavakit.tools.desk import Desk
from llavakit.version import __version__
from llavakit.vision.boxes import Unit
from llavakit.vision.image import Source, redraw
from llavakit.vision.plan import ImageConfig

EVENTS, ARTIFACTS = "run.jsonl", "artifacts"
YEAR = 365 * 86400.0  # a run is kept by whoever has its folder
BETWEEN = "__"  # a server and its tool in a name that OpenAI takes


class Run:
    """An open run: its state, its desk, and the file that grows."""

    def __init__(self, folder: Path, events: list[Any], journal: Journal, desk: Desk) -> None:
        self.folder, self.events, self._journal, self.desk = folder, list(events), journal, desk
        self.state = State.of(events)
        desk.names.update(self.state.names)

    def export(self) -> dict[str, Path]:
        """Copies of the pictures that tools made, under names that people can read."""
        made = {}
        for name in self.desk.pictures():
            artifact = self.desk.find(name)
            if artifact.made_by:
                made[name] = self.folder / f"{name}-{artifact.made_by}.png"
                shutil.copyfile(artifact.path, made[name])
        return made

    def keep(self, *events: Event) -> tuple[Event, ...]:
        """Write events down, and stand where they lead. Those given together are kept together."""
        self._journal.add([event.model_dump(mode="json") for event in events])
        self.events += events
        for event in events:
            self.state.take(event)
        return events


@contextmanager
def begin(
    folder: Path,
    question: str,
    *,
    pictures: Sequence[Source] = (),
    history: Sequence[Line] = (),
    boxes: Sequence[str] = (),
    sketch: Path | None = None,
    system: str | None = None,
    form: str = "hermes",
    cards: Sequence[Card] = (),
    budget: Budget | None = None,
    unit: Unit = "0-1",
    image: ImageConfig | None = None,
    redraw: Callable[[Source], bytes] = redraw,
) -> Iterator[Run]:
    """A new run in `folder`, which has none yet. ConfigError where it has.

    `boxes` and a `sketch` mark places (`places.py`), which the question is told with. `image` is how the model sees
    pictures, for boxes in pixels of its input. `redraw` is that of the folder of pictures (`Artifacts`).
    """
    with open_journal(folder / EVENTS) as (rows, journal):
        if rows:
            raise ConfigError(
                f"{folder} has a run already; continue it with --resume, or choose another --out"
            )
        desk = Desk(Artifacts(folder / ARTIFACTS, seconds=YEAR, redraw=redraw), unit, image)
        for picture in pictures:
            desk.add_image(picture)
        marked = [read_box(box, desk) for box in boxes]
        marked += [] if sketch is None else [read_sketch(sketch, desk)]
        begun = Begun(
            question="\n".join([question, *told_places(marked, desk)]),
            history=tuple(history),
            names=dict(desk.names),
            shown=tuple(desk.names),
            system=system,
            form=form,
            unit=unit,
            tools={card.name: card_digest(card) for card in cards},
            budget=budget or Budget(),
            version=__version__,
        )
        journal.add([begun.model_dump(mode="json")])
        yield Run(folder, [begun], journal, desk)


@contextmanager
def reopen(folder: Path, *, image: ImageConfig | None = None) -> Iterator[Run]:
    """A run that goes on where it stood. ConfigError where there is none."""
    if not (folder / EVENTS).is_file():
        raise ConfigError(f"{folder} is no run: it has no {EVENTS}")
    with open_journal(folder / EVENTS) as (_, journal):
        events = read_events(folder / EVENTS)
        if not events or not isinstance(events[0], Begun):
            raise ConfigError(f"{folder / EVENTS} does not begin with a question")
        desk = Desk(Artifacts(folder / ARTIFACTS, seconds=YEAR), events[0].unit, image)
        yield Run(folder, events, journal, desk)


def card_digest(card: Card) -> str:
    """What a tool says of itself, in short."""
    return digest([card.name, card.description, dict(card.parameters), card.server])


def free_folder(parent: Path, question: str) -> Path:
    """A folder that is not there yet, named by the question's first words."""
    words = "-".join(re.findall(r"[a-z0-9]+", question.lower())[:5]) or "run"
    number = 1
    while (parent / f"{words}-{number}").exists():
        number += 1
    return parent / f"{words}-{number}"
