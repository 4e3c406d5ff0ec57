"""A job out of what a user gave: settings, files and who is asked, checked together before anybody is."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from llavakit.core.errors import ConfigError, pick
from llavakit.critic.formats import PAIRWISE, POINTWISE
from llavakit.engine.responder import Responder
from llavakit.rules.languages import LANGUAGES
from llavakit.synth.batch import BatchOut
from llavakit.synth.desk import Role
from llavakit.synth.facts import Facts
from llavakit.synth.held import Held
from llavakit.synth.items import Items
from llavakit.synth.kinds import kind_of
from llavakit.synth.prompts import Prompt, load_prompt
from llavakit.synth.rows import RowFile
from llavakit.synth.settings import SynthConfig
from llavakit.synth.work import Job
from llavakit.synth.writers import open_writer
from llavakit.text.conversation import Medium

OTHER_PROMPTS = ("captions", "blind")
Names = Mapping[str, str | None]  # of a responder: its model, its weights
Open = Callable[[], tuple[Responder, Names]]  # a model takes seconds to read
HeldSet = tuple[str, Iterable[tuple[tuple[Medium, ...], Iterable[str]]]]


@dataclass(frozen=True)
class Order:
    """What is to be made, from what, where to."""

    config: SynthConfig
    images: Path
    out: Path
    folder: Path | None = None  # where relative paths of a file of images start
    facts: Sequence[Path] = ()
    prompt: Path | None = None
    shots: Path | None = None
    against: Sequence[Path] = ()
    batch_out: Path | None = None

    def check(self, roles: Iterable[Role]) -> None:
        """ConfigError for what does not go together."""
        config, kind, roles = self.config, kind_of(self.config.kind), set(roles)
        if kind.writer != "nobody" and "by" not in roles:
            raise ConfigError(f"{config.kind} needs --by, a model or a URL")
        if kind.writer in ("told", "nobody") and config.sees:
            raise ConfigError(f"{config.kind} is written without the pictures; leave --see out")
        if "judge" in roles and config.kind != "preferences":
            raise ConfigError(f"--judge is for preferences, not for {config.kind}")
        if "captioner" in roles and (config.sees and config.kind != "preferences"):
            raise ConfigError(f"{config.kind} is shown the pictures here and needs no --captioner")
        if config.language is not None:
            pick({name: name for name in LANGUAGES}, config.language, "language")
        if config.format is not None:
            if config.kind not in ("critique", "preferences"):
                raise ConfigError(f"--format is for critique and preferences, not for {config.kind}")
            pick({each.name: each for each in (*POINTWISE, *PAIRWISE)}, config.format, "format")
        if self.out.suffix != ".jsonl":
            raise ConfigError(f"--out {self.out} must end in .jsonl; --parquet writes a table beside it")


@contextmanager
def open_job(
    order: Order, responders: Mapping[Role, Open], held_sets: Sequence[HeldSet] = ()
) -> Iterator[Job]:
    """Everything read, then everybody ready. DataError, with file:line, for files that cannot be used."""
    order.check(responders)
    config, kind = order.config, kind_of(order.config.kind)
    prompts: dict[str, Prompt] = {name: load_prompt(name) for name in OTHER_PROMPTS}
    prompts[config.kind] = (
        Prompt(config.kind, {})
        if kind.prompt is None
        else load_prompt(config.kind, order.prompt, order.shots)
    )
    if order.shots is not None and "ask" not in prompts[config.kind].sections:
        raise ConfigError(f"{config.kind} is asked without examples; leave --shots out")
    items, facts = Items(order.images, images=order.folder, group=kind.group), Facts(order.facts)
    if config.on_unknown == "stop":
        facts.check(items)
    held = Held(config.ngram)
    for path in order.against:
        held.add_file(path)
    for name, asked in held_sets:
        held.add(name, asked)
    with ExitStack() as stack:
        writers = {role: stack.enter_context(open_writer(*find())) for role, find in responders.items()}
        batch = None
        if order.batch_out is not None:
            batch = BatchOut(stack.enter_context(RowFile(order.batch_out)))
            writers = {role: batch.writer(writer) for role, writer in writers.items()}
        yield Job(config, items, facts, prompts, writers, held, order.out, batch)
