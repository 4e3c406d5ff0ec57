"""Conversations of any dialect written in another; only the record at hand is in memory."""

import json
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from llavakit.core.errors import ConfigError, DataError
from llavakit.core.files import draft_of
from llavakit.core.progress import bar
from llavakit.data.check import Flaw, FlawList
from llavakit.data.dialects.kto import is_kto, split_kto, write_kto
from llavakit.data.dialects.pair_table import PAIR_DIALECTS, PairDialect
from llavakit.data.dialects.table import DIALECTS, Dialect
from llavakit.data.dialects.writing import comparable
from llavakit.data.mixture import Mixture
from llavakit.data.records import ADVICE, Record
from llavakit.text.conversation import Conversation

WRITTEN = {dialect.name: dialect for dialect in DIALECTS if dialect.write is not None}
PAIRS_WRITTEN = {dialect.name: dialect for dialect in PAIR_DIALECTS if dialect.write is not None}
UNDECIDED = "undecided"  # the kind of flaw that people may well mean: no answer is better
KTO = "kto"  # the target that takes pairs and single answers alike


@dataclass
class Conversion:
    """What became of the records."""

    written: int = 0
    dialects: Counter[str] = field(default_factory=Counter)  # of the records that were read
    flaws: Counter[str] = field(default_factory=Counter)
    first: list[tuple[str, Flaw]] = field(default_factory=list)

    @property
    def failed(self) -> bool:
        """Whether nothing came out, and not because people meant so."""
        return not self.written and not self.flaws.keys() <= {UNDECIDED}


def convert_mixture(mixture: Mixture, to: str, out: Path, bad: Path) -> Conversion:
    """Write every chosen record into `out`; one that cannot be read, or not be said, is a line of `bad`.

    `to` is a name of WRITTEN or of PAIRS_WRITTEN, or KTO, for which a pair becomes two lines.

    Neither file may be there before; they appear when all is written, `out` unless it failed and `bad` only if it
    has a line.
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
            listed = FlawList(flaws)
            for record in mixture:
                try:
                    texts, read_as = _lines(record, to, out.parent)
                    lines.writelines(f"{text}\n" for text in texts)
                    found.written += 1
                    found.dialects[read_as] += 1
                except DataError as error:
                    flaw = Flaw(error.kind, error.what.removesuffix(ADVICE))
                    listed.add(record.name, [flaw])
                    found.flaws[flaw.kind] += 1
                progress.advance()
        found.first = listed.first
        if not found.failed:
            drafts[out].replace(out)
        if found.flaws:
            drafts[bad].replace(bad)
    finally:
        for draft in drafts.values():
            with suppress(OSError):
                draft.unlink()
    return found


def _lines(record: Record, to: str, folder: Path) -> tuple[list[str], str]:
    """(the record in another dialect, how it was written before)."""
    if to == KTO:
        return _kto_lines(record, folder), KTO if is_kto(record.raw) else record.pair_dialect().name
    if to in PAIRS_WRITTEN:
        return [_pair_line(record, PAIRS_WRITTEN[to], folder)], record.pair_dialect().name
    return [_line(record, WRITTEN[to], folder)], record.dialect().name


def _line(record: Record, dialect: Dialect, folder: Path) -> str:
    """The record as JSON in another dialect. DataError if it cannot be read, or if it would not say the same."""
    write = dialect.write
    assert write is not None
    talk, rest = record.read()
    return _written(
        record,
        dialect.name,
        folder,
        [talk],
        lambda: rest | write(talk, folder),
        lambda new: [new.conversation()],
    )


def _pair_line(record: Record, dialect: PairDialect, folder: Path) -> str:
    """As `_line`, of a pair of answers."""
    write = dialect.write
    assert write is not None
    found = record.alternatives()
    chosen, rejected = record.choose(found)
    return _written(
        record, dialect.name, folder, [chosen, rejected],
        lambda: write(chosen, rejected, folder, found.rest), lambda new: [*new.pair()],
    )  # fmt: skip


def _kto_lines(record: Record, folder: Path) -> list[str]:
    """As `_line`, of every answer of a record and whether it is wanted."""
    judged = record.judged()
    if is_kto(record.raw):
        rest = replace(record, raw=split_kto(record.raw)[0]).read()[1]
    else:
        rest = record.alternatives().rest
    return [
        _written(
            record, KTO, folder, [talk],
            partial(write_kto, talk, wanted, folder, rest), lambda new: [new.judged()[0][0]],
        )
        for talk, wanted in judged
    ]  # fmt: skip


def _written(
    record: Record,
    name: str,
    folder: Path,
    talks: list[Conversation],
    write: Callable[[], dict[str, Any]],
    read: Callable[[Record], list[Conversation]],
) -> str:
    """What `write` gives as JSON, once `read` has found `talks` in it again."""
    try:
        text = json.dumps(write(), ensure_ascii=False, allow_nan=False)
        again = read(replace(record, raw=json.loads(text), folder=folder, members=None))
    except DataError as error:
        raise record.error(f"{name} cannot say it: {error.what.removesuffix(ADVICE)}", error.kind) from None
    except (TypeError, ValueError, RecursionError) as error:
        raise record.error(f"{name} cannot say it: a field is no JSON: {error}") from None
    if list(map(comparable, again)) != list(map(comparable, talks)):
        raise record.error(f"{name} cannot say it: read again it is another conversation")
    return text
