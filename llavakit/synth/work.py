"""One item's way to a draft, in a thread of its own: asked, read, filtered. Other rows play no part."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from llavakit.core.errors import DataError, RemoteError, RemoteRefused
from llavakit.synth.answers import Answers
from llavakit.synth.batch import BatchOut, Missing
from llavakit.synth.blind import drop_guessed
from llavakit.synth.desk import Asked, Desk, Role
from llavakit.synth.draft import Draft, Dropped
from llavakit.synth.facts import Facts
from llavakit.synth.filters import first_problem
from llavakit.synth.held import Held
from llavakit.synth.items import Item, Items
from llavakit.synth.kinds import Kind, kind_of
from llavakit.synth.prompts import Prompt
from llavakit.synth.settings import SynthConfig
from llavakit.synth.writers import Writer
from llavakit.text.conversation import Image
from llavakit.vision.image import digest, image_size, load_image
from llavakit.vision.likeness import Likeness, likeness
from llavakit.vision.video import video_digest


@dataclass(frozen=True)
class Job:
    """Everything that a run is made of."""

    config: SynthConfig
    items: Items
    facts: Facts
    prompts: Mapping[str, Prompt]
    writers: Mapping[Role, Writer]
    held: Held
    out: Path
    batch: BatchOut | None = None  # where requests go instead of being asked

    @property
    def kind(self) -> Kind:
        return kind_of(self.config.kind)

    @property
    def looks(self) -> bool:
        """Whether pictures are compared with others."""
        return self.config.near is not None or self.held.pictures > 0


@dataclass
class Made:
    """What came of an item: a draft, or why there is none."""

    item: Item
    turn: int
    draft: Draft | None = None
    dropped: Dropped | None = None
    lost: RemoteError | None = None  # nobody answered; another run asks again
    missing: bool = False  # an answer is not there yet, and nobody is asked
    after: bool = False  # the media stand behind the question
    asked: list[Asked] = field(default_factory=list)
    mended: int = 0
    unread: int = 0
    pictures: tuple[str, ...] = ()
    look: Likeness | None = None


def work(job: Job, answers: Answers, item: Item, turn: int) -> Made:
    """What comes of an item when it is used for the time `turn`, from 0."""
    made = Made(item, turn)
    desk = Desk(item, job.facts.of(item), job.config, job.prompts, job.writers, answers, turn=turn)
    try:
        made.pictures = _digests(item)
        draft = job.kind.make(desk)
        problem = first_problem(draft, job.config, job.kind.filters)
        if problem:
            raise Dropped(*problem)
        if job.looks:
            made.look = _look(item)
        made.draft = drop_guessed(desk, draft) if desk.has("blind") else draft
        made.after = draft.where == "drawn" and desk.dice.random() < 0.5
    except Dropped as dropped:
        made.dropped = dropped
    except Missing:
        made.missing = True
    except RemoteRefused as error:
        made.dropped = Dropped("declined", str(error))
    except RemoteError as error:
        made.lost = error
    made.asked, made.mended, made.unread = desk.asked, desk.mended, desk.unread
    return made


def _digests(item: Item) -> tuple[str, ...]:
    """Names of what the media show. A picture whose header cannot be read gives no row."""
    found = []
    try:
        for medium in item.media:
            if isinstance(medium, Image):
                image_size(medium.source)
                found.append(digest(medium.source)[:16])
            else:
                found.append(video_digest(medium.source)[:16])
    except DataError as error:
        raise Dropped("broken", str(error)) from None
    return tuple(found)


def _look(item: Item) -> Likeness | None:
    """Of the first picture."""
    for medium in item.media:
        if isinstance(medium, Image):
            try:
                return likeness(load_image(medium.source))
            except DataError as error:
                raise Dropped("broken", str(error)) from None
    return None
