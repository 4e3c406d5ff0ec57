"""A collection from files to files: opened, where it stood before if it was begun; and its report."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from llavakit.align.collect.items import Found, read_gold, read_items
from llavakit.align.collect.report import report_lines, report_table
from llavakit.align.collect.session import Rules, Session, check_name
from llavakit.core.errors import ConfigError, DataError
from llavakit.core.journal import open_journal
from llavakit.core.progress import console, say
from llavakit.data.votes import SUFFIX, gather_votes, read_votes

SHOWN = 5  # records that are left out, told one by one


@contextmanager
def open_session(
    files: list[Path],
    out: Path,
    gold: list[Path],
    rules: Rules,
    *,
    images: Path | None = None,
    unread: Sequence[str] = (),
    annotator: str | None = None,
) -> Iterator[Session]:
    """The session of some files of pairs, with the votes that `out` holds already. Nothing to ask is an error."""
    if out.suffix != SUFFIX:
        raise ConfigError(
            f"--out {out} must end in {SUFFIX}: so it is read as votes by data convert and training"
        )
    if annotator is not None:
        check_name(annotator)
    found = read_items(files, images, out.parent, unread)
    _tell("pairs", found)
    if not found.items:
        raise DataError(f"nothing to ask: no pair of answers in {', '.join(map(str, files))}")
    tests = read_gold(gold, images, out.parent) if gold else Found([], [])
    if gold:
        _tell("gold items", tests)
        if not tests.items:
            raise DataError(f"--gold: no pair whose better answer is known in {', '.join(map(str, gold))}")
    with open_journal(out) as (rows, journal):
        votes = gather_votes(rows, out)
        if rows:
            say(f"{out}: {len(votes.all)} votes are there already; going on")
        yield Session(found.items, tests.items, votes, journal, rules)


def show_report(path: Path) -> None:
    """Print what a file of votes came to."""
    votes = read_votes(path)
    if not votes.of:
        raise DataError("no vote yet", path=path)
    for line in report_lines(votes):
        say(line)
    console.print(report_table(votes))


def _tell(what: str, found: Found) -> None:
    say(
        f"{len(found.items)} {what}"
        + (f", {len(found.left_out)} record(s) left out:" if found.left_out else "")
    )
    for reason in found.left_out[:SHOWN]:
        say(f"  {reason}")
    if len(found.left_out) > SHOWN:
        say(f"  and {len(found.left_out) - SHOWN} more; llavakit data pairs lists all")
