"""Conversations of any dialect written in another; only the record at hand is in memory."""

import json
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from llavakit.core.errors import ConfigError, DataError
from llavakit.core.files import draft_of
from llavakit.core.progress import bar
from llavakit.data.check import SHOWN, Flaw, flaw_line
from llavakit.data.dialects.table import DIALECTS, Dialect
from llavakit.data.dialects.writing import joined
from llavakit.data.mixture import Mixture
from llavakit.data.records import ADVICE, Record
from llavakit.text.conversation import Conversation, Image, Part, Text, Video

WRITTEN = {dialect.name: dialect for dialect in DIALECTS if dialect.write is not None}


@dataclass
class Conversion:
    """What became of the records."""

    written: int = 0
    dialects: Counter[str] = field(default_factory=Counter)  # of the records that were read
    flaws: Counter[str] = field(default_factory=Counter)
    first: list[tuple[str, Flaw]] = field(default_factory=list)


def convert_mixture(mixture: Mixture, dialect: Dialect, out: Path, bad: Path) -> Conversion:
    """Write every chosen record as a line of `out`; one that cannot be read, or not be said, is a line of `bad`.

    Neither file may be there before; they appear when all is written, and `bad` only if it has a line.
    """
    for path in (out, bad):
        if path.exists():
            raise ConfigError(f"{path} is there already and is not replaced; choose a new name")
    out.parent.mkdir(parents=True, exist_ok=True)
    drafts = {path: draft_of(path) for path in (out, bad)}
    found = Conversion()
    try:
        with (
            drafts[out].open("w", encoding="utf-8") as lines,
            drafts[bad].open("w", encoding="utf-8") as flaws,
            bar("records", len(mixture)) as progress,
        ):
            for record in mixture:
                try:
                    lines.write(_line(record, dialect, out.parent) + "\n")
                    found.written += 1
                    found.dialects[record.dialect().name] += 1
                except DataError as error:
                    flaw = Flaw(error.kind, error.what.removesuffix(ADVICE))
                    flaws.write(flaw_line(record.name, flaw))
                    found.flaws[flaw.kind] += 1
                    found.first += [(record.name, flaw)] * (len(found.first) < SHOWN)
                progress.advance()
        drafts[out].replace(out)
        if found.flaws:
            drafts[bad].replace(bad)
    finally:
        for draft in drafts.values():
            with suppress(OSError):
                draft.unlink()
    return found


def _line(record: Record, dialect: Dialect, folder: Path) -> str:
    """The record as JSON in another dialect. DataError if it cannot be read, or if it would not say the same."""
    assert dialect.write is not None
    talk, rest = record.read()
    try:
        text = json.dumps(rest | dialect.write(talk, folder), ensure_ascii=False, allow_nan=False)
        again = replace(record, raw=json.loads(text), folder=folder, members=None).conversation()
    except DataError as error:
        raise record.error(
            f"{dialect.name} cannot say it: {error.what.removesuffix(ADVICE)}", error.kind
        ) from None
    except (TypeError, ValueError, RecursionError) as error:
        raise record.error(f"{dialect.name} cannot say it: a field is no JSON: {error}") from None
    if _comparable(again) != _comparable(talk):
        raise record.error(f"{dialect.name} cannot say it: read again it is another conversation")
    return text


def _comparable(talk: Conversation) -> list[Any]:
    """What two conversations are compared by: neighbouring texts are one, and paths are whole."""
    return [
        (message.role, message.weight, [_whole(part) for part in joined(message.parts)])
        for message in talk.messages
    ]


def _whole(part: Part) -> Any:
    if isinstance(part, Video) and isinstance(part.source, tuple):
        return [_whole(Image(frame)) for frame in part.source]
    if isinstance(part, Text) or not isinstance(part.source, Path):
        return part
    return type(part), part.source.absolute()
