"""Reading a whole mixture once, decoding all of it: what is wrong, source by source, and how long samples are."""

import hashlib
import json
from array import array
from collections import Counter
from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import numpy as np
from rich.table import Table
from rich.text import Text

from llavakit.core.errors import DataError, printable, shorten
from llavakit.core.plot import SMALL, add_legend, new_figure, style
from llavakit.core.progress import bar
from llavakit.data.ahead import map_ahead, pool_of
from llavakit.data.encode import Encoder
from llavakit.data.mixture import Mixture
from llavakit.data.records import ADVICE, FAULTS, Record
from llavakit.text.conversation import Conversation, Image, Medium
from llavakit.text.template import check_roles
from llavakit.vision.depth import SpareBits
from llavakit.vision.frames import VideoConfig, choose_frames
from llavakit.vision.image import load_image, spare_bits
from llavakit.vision.video import load_frames, probe_video

FLAWS = {
    "record": "unreadable, not of the format, or more than the template can say",
    "placeholders": "the text has more or fewer <image> than there are images",
    "answer": "an answer is empty, or none is learned",
    "unread": "something looks like a medium or a weight, and is not read",
    "missing": "a picture or video is not there",
    "corrupt": "a picture or video cannot be decoded",
    "long": "more tokens than a row holds",
    "duplicate": "an id that an earlier record of the source has",
}
BARS = 60  # of the plot, at most
BAD, LENGTHS = "bad_records.jsonl", "lengths.png"
MODALITIES = ("text", "image", "video", "unknown")
UNKNOWN = "unknown"  # modality and dialect of a record that cannot be read
SHOWN = 10  # flaws that are printed; the file has all


class Flaw(NamedTuple):
    """What is wrong with a record; `kind` is a row of FLAWS."""

    kind: str
    reason: str


@dataclass
class Tally:
    """What was found in one source."""

    name: str
    records: int = 0
    bad: int = 0
    kinds: Counter[str] = field(default_factory=Counter)  # records by modality
    dialects: Counter[str] = field(default_factory=Counter)  # records by how they are written
    flaws: Counter[str] = field(default_factory=Counter)  # records by kind of flaw
    dark: list[SpareBits] = field(default_factory=list)  # of pictures whose grey uses a part of its bits only
    lengths: "array[int]" = field(default_factory=lambda: array("q"))  # tokens of the encoded ones


@dataclass(frozen=True)
class Report:
    """The tallies in the order of the sources, and the first flaws with their records' names."""

    tallies: list[Tally]
    first: list[tuple[str, Flaw]]

    @property
    def num_bad(self) -> int:
        return sum(tally.bad for tally in self.tallies)


@dataclass(frozen=True)
class _Finding:
    """One record examined."""

    index: int
    name: str
    id: int | None  # a digest
    shown_id: str
    modality: str
    dialect: str
    tokens: int | None
    flaws: list[Flaw]
    dark: list[SpareBits]


def check_mixture(
    mixture: Mixture,
    out: Path,
    *,
    encoder: Encoder | None = None,
    tokens: int = 4096,
    workers: int = 1,
    ignore: Collection[str] = (),
) -> Report:
    """Read every record that a mixture chooses and decode its media; flaws go to `out`/bad_records.jsonl as found.

    Lengths are known with an `encoder` only; a sample above `tokens` is then a flaw. Kinds in `ignore` are not
    looked for in the result.
    """
    tallies = [Tally(source.name) for source in mixture.sources]
    seen: list[dict[int, int]] = [{} for _ in tallies]

    def examine(index: int) -> _Finding:
        return _examine(index, mixture[index], encoder, tokens)

    out.mkdir(parents=True, exist_ok=True)
    with (
        (out / BAD).open("w", encoding="utf-8") as file,
        bar("records", len(mixture)) as progress,
        pool_of(workers) as pool,
    ):
        listed = FlawList(file)
        for found in map_ahead(pool, examine, range(len(mixture)), 4 * workers):
            number = mixture.source_of(found.index)
            tally, flaws = tallies[number], list(found.flaws)
            if found.id is not None:
                before = seen[number].setdefault(found.id, found.index)
                if before != found.index:
                    flaws.append(Flaw("duplicate", f"id {found.shown_id} is also at {mixture.place(before)}"))
            flaws = [flaw for flaw in flaws if flaw.kind not in ignore]
            tally.records += 1
            tally.kinds[found.modality] += 1
            tally.dialects[found.dialect] += 1
            tally.bad += bool(flaws)
            tally.flaws.update({flaw.kind for flaw in flaws})
            tally.dark += found.dark
            if found.tokens is not None:
                tally.lengths.append(found.tokens)
            listed.add(found.name, flaws)
            progress.advance()
    return Report(tallies, listed.first)


class FlawList:
    """Flaws as JSON lines of a file, and the first of them to be printed, with their records' names."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self.first: list[tuple[str, Flaw]] = []

    def add(self, name: str, flaws: Iterable[Flaw]) -> None:
        """What is wrong with a record."""
        for flaw in flaws:
            line = {"record": name, "kind": flaw.kind, "reason": flaw.reason}
            self._file.write(json.dumps(line, ensure_ascii=False) + "\n")
            self.first += [(name, flaw)] * (len(self.first) < SHOWN)


def _examine(index: int, record: Record, encoder: Encoder | None, tokens: int) -> _Finding:
    said = record.raw.get("id") if isinstance(record.raw, dict) else None
    shown = "" if said is None else _shown(said)
    key = hashlib.blake2b(shown.encode("utf-8", "surrogatepass"), digest_size=8).digest() if shown else None
    dialect = UNKNOWN
    with suppress(DataError):
        dialect = record.dialect().name
    modality, length, flaws = _look(record, encoder, tokens)
    digest = None if key is None else int.from_bytes(key, "big")
    dark = [] if flaws or (encoder is not None and encoder.image.depth is not None) else _dark(record)
    return _Finding(
        index, record.name, digest, printable(shorten(shown)), modality, dialect, length, flaws, dark
    )


def _dark(record: Record) -> list[SpareBits]:
    """Of each picture without a flaw that will look too dark, the bits it uses."""
    found = (spare_bits(picture.source) for picture in record.conversation().images)
    return [spare for spare in found if spare is not None]


def _shown(value: Any) -> str:
    """An id as text: equal for equal ids only."""
    try:
        return json.dumps(value, ensure_ascii=False, default=str)
    except (ValueError, RecursionError):
        return repr(value)


def _look(record: Record, encoder: Encoder | None, tokens: int) -> tuple[str, int | None, list[Flaw]]:
    """(modality, tokens if they could be counted, flaws)."""
    try:
        conversation = record.conversation()
    except DataError as error:
        return UNKNOWN, None, [Flaw(error.kind, error.what.removesuffix(ADVICE))]
    media = conversation.media
    modality = "text" if not media else "image" if all(isinstance(part, Image) for part in media) else "video"
    video = None if encoder is None else encoder.video
    flaws = [flaw for part in media if (flaw := decode(part, video or VideoConfig()))]
    if encoder is None and not flaws:
        try:  # what no template can say; an encoder tells it itself
            check_roles(conversation)
        except DataError as error:
            flaws = [Flaw("record", error.what)]
    if flaws or encoder is None:
        return modality, None, flaws
    return modality, *_measure(record, conversation, encoder, tokens)


def decode(part: Medium, video: VideoConfig) -> Flaw | None:
    """What is wrong with a picture, or with the frames of a video that are looked at."""
    try:
        if isinstance(part.source, Path) and not part.source.exists():
            return Flaw("missing", printable(f"not found: {part.source}"))
        if isinstance(part, Image):
            load_image(part.source)
        else:
            info = probe_video(part.source)
            load_frames(part.source, info, choose_frames(video, info))
    except DataError as error:
        return Flaw("corrupt", str(error))
    except FAULTS as error:
        return Flaw("corrupt", printable(f"cannot be read: {type(error).__name__}: {error}"))
    return None


def _measure(
    record: Record, conversation: Conversation, encoder: Encoder, tokens: int
) -> tuple[int | None, list[Flaw]]:
    try:
        length = encoder.encode(conversation).num_inputs
    except (DataError, *FAULTS) as error:
        return None, [Flaw("record", record.blame(error).what.removesuffix(ADVICE))]
    if length > tokens:
        return length, [Flaw("long", f"{length} tokens do not fit a row of {tokens}")]
    return length, []


def report_table(report: Report) -> Table:
    """A row per source: how many records, of what kind, what is wrong with them, and how long they are."""
    table = Table(box=None, header_style="bold")
    table.add_column("source", overflow="fold", max_width=28)
    table.add_column("records", justify="right", no_wrap=True)
    table.add_column("found", overflow="fold")
    for tally in report.tallies:
        lines = [
            f"{list_counts(tally.kinds, MODALITIES)}; read as {list_counts(tally.dialects, sorted(tally.dialects))}"
        ]
        lines.append(f"{tally.bad} bad: {list_counts(tally.flaws, FLAWS)}" if tally.bad else "0 bad")
        lines += _lengths(tally) + _too_dark(tally)
        style = "red" if tally.bad else None
        table.add_row(Text(tally.name), str(tally.records), Text("\n".join(lines)), style=style)
    return table


def list_counts(counts: Counter[str], names: Iterable[str]) -> str:
    """`3 missing, 9 corrupt`: those of the names that there are."""
    return ", ".join(f"{counts[name]} {name}" for name in names if counts[name])


def _too_dark(tally: Tally) -> list[str]:
    """A note, no flaw: 12-bit values in files that say 16."""
    if not tally.dark:
        return []
    used, taken = max(tally.dark)
    return [
        f"{len(tally.dark)} pictures look dark: no header says how many bits their grey has, and they use {used} "
        f"of {taken}; model.image_depth={used} shows them"
    ]


def _lengths(tally: Tally) -> list[str]:
    if not tally.lengths:
        return []
    lengths = np.frombuffer(tally.lengths, dtype=np.int64)
    most, usual = int(lengths.max()), float(np.percentile(lengths, 95))
    return [f"{int(lengths.sum())} tokens: mean {lengths.mean():.0f}, 95 % up to {usual:.0f}, most {most}"]


def draw_lengths(report: Report, tokens: int, path: Path) -> None:
    """How many samples have how many tokens, source by source, as a PNG; the dashed line is a row's budget."""
    tallies = [tally for tally in report.tallies if tally.lengths]
    columns = [np.frombuffer(tally.lengths, dtype=np.int64) for tally in tallies]
    most = max(int(column.max()) for column in columns)
    width, edges = bars_of(most)
    figure = new_figure(8, 4.5)
    axes = figure.subplots()
    # A name that begins with an underscore would be left out of the legend.
    labels = [tally.name.lstrip("_") for tally in tallies]
    axes.hist(columns, bins=edges.tolist(), stacked=True, label=labels)
    if tokens <= 1.2 * most:
        axes.axvline(tokens, color="black", linestyle="--", linewidth=1)
    style(axes, f"Samples by length, {width} token{'s' * (width > 1)} a bar", grid="y")
    axes.set_xlabel("tokens of a sample", fontsize=SMALL)
    add_legend(axes)
    figure.savefig(path)


def bars_of(most: int) -> tuple[int, np.ndarray]:
    """(tokens a bar, edges of the bars) for lengths up to `most`.

    A bar counts whole tokens: others leave gaps in the picture that are not in the data.
    """
    width = -(-(most + 1) // BARS)
    return width, np.arange(0, most + 1 + width, width) - 0.5
