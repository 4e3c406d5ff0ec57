"""Reading all pairs of a mixture once: what is wrong, and whether length tells the answers apart."""

import re
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from hashlib import blake2b
from pathlib import Path

from rich.table import Table
from rich.text import Text

from llavakit.core.errors import DataError
from llavakit.core.progress import bar
from llavakit.data.ahead import map_ahead, pool_of
from llavakit.data.check import FLAWS, Flaw, FlawList, decode, list_counts
from llavakit.data.encode import Encoder
from llavakit.data.mixture import Mixture
from llavakit.data.records import ADVICE, FAULTS, Record
from llavakit.text.conversation import Conversation
from llavakit.vision.frames import VideoConfig

PAIR_FLAWS = FLAWS | {
    "undecided": "no answer is better: a tie, both bad, or annotators who do not agree",
    "duplicate": "the same question with the same two answers as an earlier pair",
    "swapped": "an earlier pair prefers the other one of the same two answers",
    "near": "the answers hardly differ: at most a word in twenty, or letter case and punctuation only",
}
BAD_PAIRS = "bad_pairs.jsonl"
NEAR = 0.95  # share of words that two answers have in common, in order, from which on they are nearly equal
WORD = re.compile(r"""[^\s.,;:!?"'()]+""")


@dataclass
class PairTally:
    """What was found in one source. Lengths are tokens where there is an encoder, else characters."""

    name: str
    pairs: int = 0
    bad: int = 0
    flaws: Counter[str] = field(default_factory=Counter)
    longer: int = 0  # pairs whose chosen answer is longer
    shorter: int = 0
    more: int = 0  # by how much chosen answers are longer, all together
    measured: int = 0


@dataclass(frozen=True)
class PairReport:
    """The tallies in the order of the sources, and the first flaws with their records' names."""

    tallies: list[PairTally]
    first: list[tuple[str, Flaw]]
    unit: str

    @property
    def num_bad(self) -> int:
        return sum(tally.bad for tally in self.tallies)


@dataclass(frozen=True)
class _Finding:
    """One pair examined."""

    index: int
    name: str
    flaws: list[Flaw]
    question: bytes = b""  # a digest of the question and both answers in any order; empty: not a pair
    chosen: bytes = b""
    more: int | None = None  # by how much the chosen answer is longer


def check_pairs(
    mixture: Mixture,
    out: Path,
    *,
    encoder: Encoder | None = None,
    tokens: int = 4096,
    workers: int = 1,
    ignore: Collection[str] = (),
) -> PairReport:
    """Read every pair and decode its media; flaws go to `out`/bad_pairs.jsonl as found, and nothing is ever cut.

    Tokens are counted with an `encoder` only; a pair above `tokens` is then a flaw. Kinds in `ignore` are none.
    """
    tallies = [PairTally(source.name) for source in mixture.sources]
    seen: dict[bytes, tuple[int, bytes]] = {}

    def examine(index: int) -> _Finding:
        return _examine(index, mixture[index], encoder, tokens)

    out.mkdir(parents=True, exist_ok=True)
    with (
        (out / BAD_PAIRS).open("w", encoding="utf-8") as file,
        bar("pairs", len(mixture)) as progress,
        pool_of(workers) as pool,
    ):
        listed = FlawList(file)
        for found in map_ahead(pool, examine, range(len(mixture)), 4 * workers):
            flaws = list(found.flaws)
            if found.question:
                before, chosen = seen.setdefault(found.question, (found.index, found.chosen))
                if before != found.index:
                    kind = "duplicate" if chosen == found.chosen else "swapped"
                    flaws.append(Flaw(kind, f"{PAIR_FLAWS[kind]}: {mixture.place(before)}"))
            flaws = [flaw for flaw in flaws if flaw.kind not in ignore]
            _count(tallies[mixture.source_of(found.index)], found, flaws)
            listed.add(found.name, flaws)
            progress.advance()
    return PairReport(tallies, listed.first, "characters" if encoder is None else "tokens")


def _count(tally: PairTally, found: _Finding, flaws: list[Flaw]) -> None:
    tally.pairs += 1
    tally.bad += bool(flaws)
    tally.flaws.update({flaw.kind for flaw in flaws})
    if found.more is not None:
        tally.measured += 1
        tally.more += found.more
        tally.longer += found.more > 0
        tally.shorter += found.more < 0


def _examine(index: int, record: Record, encoder: Encoder | None, tokens: int) -> _Finding:
    try:
        chosen, rejected = record.pair()
    except DataError as error:
        return _Finding(index, record.name, [Flaw(error.kind, error.what.removesuffix(ADVICE))])
    video = None if encoder is None else encoder.video
    flaws = [flaw for part in chosen.media if (flaw := decode(part, video or VideoConfig()))]
    said = [talk.messages[-1].text for talk in (chosen, rejected)]
    if are_near(*said):
        flaws.append(Flaw("near", PAIR_FLAWS["near"]))
    more: int | None = len(said[0]) - len(said[1])
    if encoder is not None:
        more = None
        try:
            more, length = _measure(chosen, rejected, encoder)
        except (DataError, *FAULTS) as error:
            if not flaws:  # else it says again that a picture is broken
                flaws.append(Flaw("record", record.blame(error).what.removesuffix(ADVICE)))
        else:
            if length > tokens:
                flaws.append(Flaw("long", f"{length} tokens do not fit a row of {tokens}"))
    question = _digest(repr((chosen.messages[:-1], sorted(said))))
    return _Finding(index, record.name, flaws, question, _digest(said[0]), more)


def _measure(chosen: Conversation, rejected: Conversation, encoder: Encoder) -> tuple[int, int]:
    """(by how many learned tokens the chosen answer is longer, tokens the pair takes of a row)."""
    sample = encoder.encode_alternatives([chosen, rejected])
    one, other = (
        sum(weight > 0 for weight in sample.weights[leaf.start : leaf.end]) for leaf in sample.leaves
    )
    return one - other, sample.num_inputs


def are_near(one: str, other: str) -> bool:
    """Whether two answers have nearly all words in common, in order."""
    mine, theirs = (WORD.findall(text.casefold()) for text in (one, other))
    if not (mine or theirs):  # signs only
        return False
    matcher = SequenceMatcher(None, mine, theirs, autojunk=False)
    return matcher.real_quick_ratio() >= NEAR and matcher.quick_ratio() >= NEAR and matcher.ratio() >= NEAR


def _digest(text: str) -> bytes:
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def pair_table(report: PairReport) -> Table:
    """A row per source: how many pairs, what is wrong with them, and how often the chosen answer is longer."""
    table = Table(box=None, header_style="bold")
    table.add_column("source", overflow="fold", max_width=28)
    table.add_column("pairs", justify="right", no_wrap=True)
    table.add_column("found", overflow="fold")
    for tally in report.tallies:
        lines = [f"{tally.bad} bad: {list_counts(tally.flaws, PAIR_FLAWS)}" if tally.bad else "0 bad"]
        if tally.measured:
            longer, shorter = (100 * count / tally.measured for count in (tally.longer, tally.shorter))
            mean = f"mean {tally.more / tally.measured:+.1f} {report.unit}"
            lines.append(f"chosen longer in {longer:.0f} %, shorter in {shorter:.0f} %; {mean}")
        style = "red" if tally.bad else None
        table.add_row(Text(tally.name), str(tally.pairs), Text("\n".join(lines)), style=style)
    return table
