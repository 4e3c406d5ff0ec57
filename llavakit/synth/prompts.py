"""What writers are asked: a file a kind, in our own words, cut into sections; a user's file may take its place.

Sections are headed `## name`; `$name` in them is a slot. The digest of a file and its examples names them in every
row.
"""

import json
import re
from dataclasses import dataclass
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from llavakit.core.errors import ConfigError, DataError, nearest
from llavakit.data.dialects.reader import Fields
from llavakit.data.records import read_records
from llavakit.synth.items import Known, read_known

HEADING = re.compile(r"^## ([a-z]+)\n", re.MULTILINE)
REPLY = "reply"  # the field of an example's answer


@dataclass(frozen=True)
class Shot:
    """An example: what is known about a picture, and what should be written."""

    known: Known
    reply: str


@dataclass(frozen=True)
class Prompt:
    """The sections of a prompt file, and the examples that go with them."""

    name: str  # of the kind, or the file
    sections: dict[str, str]
    shots: tuple[Shot, ...] = ()
    digest: str = ""

    def say(self, section: str, **slots: object) -> str:
        """A section with its slots filled. ConfigError for a section or a slot that there is not."""
        if section not in self.sections:
            raise ConfigError(
                f"prompt {self.name}: no section '## {section}'{nearest(section, self.sections)}"
            )
        try:
            return Template(self.sections[section]).substitute({k: str(v) for k, v in slots.items()})
        except KeyError as error:
            known = ", ".join(f"${name}" for name in slots) or "none"
            raise ConfigError(f"prompt {self.name}: {error} is no slot of '## {section}' ({known})") from None
        except ValueError as error:
            raise ConfigError(
                f"prompt {self.name}, '## {section}': {error}; write $$ for a dollar sign"
            ) from None


def load_prompt(kind: str, file: Path | None = None, shots: Path | None = None) -> Prompt:
    """The kind's own prompt, or that of a file; examples are rows as those of facts, with `reply`."""
    source = files("llavakit.synth").joinpath("prompts", f"{kind}.md") if file is None else file
    try:
        text = source.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: cannot be read as a prompt: {error}") from None
    pieces = HEADING.split(text)
    if len(pieces) < 3:
        raise ConfigError(f"{file}: no section; a prompt has at least '## task'")
    sections = {name: body.strip() for name, body in zip(pieces[1::2], pieces[2::2], strict=True)}
    examples = () if shots is None else tuple(_read_shots(shots))
    told = repr((sections, [(shot.known, shot.reply) for shot in examples]))
    return Prompt(
        kind if file is None else str(file), sections, examples, sha256(told.encode()).hexdigest()[:16]
    )


def _read_shots(path: Path) -> list[Shot]:
    found = []
    for record in read_records(path):
        reply = record.raw.get(REPLY) if isinstance(record.raw, dict) else None
        if not isinstance(reply, str | dict):
            raise DataError(
                f"an example has facts and {REPLY!r}, a text or an object", path=path, line=record.line
            )
        rest = {name: value for name, value in record.raw.items() if name != REPLY}
        try:
            known = read_known(Fields(rest, ""))
        except DataError as error:
            raise DataError(error.what, path=path, line=record.line) from None
        found.append(Shot(known, _as_text(reply)))
    if not found:
        raise DataError("no example in it", path=path)
    return found


def _as_text(reply: Any) -> str:
    return reply if isinstance(reply, str) else json.dumps(reply, ensure_ascii=False)


def describe(known: Known, *, boxes: bool = True) -> str:
    """What is known, as LLaVA's writer read it: captions a line each, then `category: [x1, y1, x2, y2]`."""
    lines = list(known.captions)
    if boxes:
        lines += [f"{box.label}: [{', '.join(f'{c:.3f}' for c in box.corners)}]" for box in known.boxes]
    return "\n".join(lines)


def describe_figure(known: Known) -> str:
    """What is known about a figure, as LLaVA-Med's writer read it."""
    lines = [f"Figure Caption: {' '.join(known.captions)}"]
    if known.mentions:
        lines += ["Figure Context:", *(f"\t- {mention}" for mention in known.mentions)]
    return "\n".join(lines)
