"""The data card beside a file: what it is, who wrote it, what was dropped and why, how varied it is; and rows."""

import html
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llavakit.core.errors import shorten
from llavakit.core.files import write_text
from llavakit.core.page import page
from llavakit.synth.figures import Diversity, diversity, turns_of
from llavakit.synth.rows import FIELD
from llavakit.synth.run import Result, answers_of, dropped_of
from llavakit.synth.tally import cost_of
from llavakit.synth.work import Job
from llavakit.version import __version__
from llavakit.vision.thumbnail import picture_element

SHOWN = 24  # rows of the page, with their pictures
CODE = re.compile(r"`([^`]+)`")


@dataclass(frozen=True)
class Section:
    """A heading, sentences, and a table whose first row is its head."""

    title: str
    lines: Sequence[str] = ()
    table: Sequence[Sequence[str]] = ()
    quoted: Sequence[str] = field(default=())  # texts as they are


def card_of(out: Path) -> Path:
    """The card as Markdown; the page is beside it."""
    return out.with_suffix(".card.md")


def write_card(job: Job, result: Result) -> None:
    """The card as Markdown, and as a page with rows and their pictures."""
    sections = list(_sections(job, result))
    path = card_of(job.out)
    write_text(path, "\n".join(_markdown(job.out.name, sections)))
    shown = result.sample.rows(SHOWN)
    body = [
        *map(_section_html, sections),
        "<h2>Rows</h2>",
        *(row_element(row, job.out.parent) for row in shown),
    ]
    write_text(
        path.with_suffix(".html"), page(job.out.name, html.escape(job.kind.about), {"row": "rows"}, body)
    )


def _sections(job: Job, result: Result) -> Iterator[Section]:
    config, tally = job.config, result.tally
    state = "" if result.published and not result.trouble else "The run did not come to its end. "
    yield Section(
        "What it is",
        [
            f"{tally.accepted} rows of the kind `{config.kind}`: {job.kind.about}.",
            f"{state}Made from {tally.used} of {len(job.items) * config.rounds} uses of {len(job.items)} items in "
            f"`{job.items.source}`, {100 * tally.acceptance:.1f} % of which gave a row.",
            f"Written by llavakit {__version__}.",
        ],
    )
    yield Section("Who wrote it", _writers(job))
    yield Section("What it cost", _cost(job, result))
    yield _dropped(job, result)
    varied = diversity([turns_of(row) for row in result.sample.rows()])
    if varied is not None:
        yield _varied(varied)
    yield Section("Evaluation sets", _held(job))
    asked = [f"{name}:\n{text}" for name, text in job.prompts[config.kind].sections.items()]
    yield Section("The prompt", [f"Digest `{job.prompts[config.kind].digest}`."], quoted=asked)


def _writers(job: Job) -> list[str]:
    lines = [
        f"{role}: `{writer.model}`" + (f", weights `{writer.weights}`" if writer.weights else "")
        for role, writer in job.writers.items()
    ]
    config = job.config
    told = (
        "shown the picture"
        if job.kind.always_sees or config.sees
        else "told what is known, not shown the picture"
    )
    if not lines:
        return ["Nobody: the answers were there."]
    return [
        *lines,
        f"The writer is {told}.",
        f"Temperature {config.temperature:g}, at most {config.max_tokens} tokens, seed {config.seed}, up to "
        f"{config.attempts} attempts; {len(job.prompts[config.kind].shots)} examples.",
    ]


def _cost(job: Job, result: Result) -> list[str]:
    tally, price = result.tally, job.config.price
    lines = [
        f"{tally.asked} requests, {tally.prompt_tokens} tokens read and {tally.answer_tokens} said.",
        f"Answers of broken JSON that could be mended: {tally.mended}; asked for again: {tally.unread}.",
    ]
    cost = cost_of(tally.prompt_tokens, tally.answer_tokens, price)
    if cost is not None and price is not None:
        each = f", {cost / tally.accepted:.5f} a row" if tally.accepted else ""
        lines.append(
            f"Cost {cost:.4f}{each}, at {price[0]:g} and {price[1]:g} a million tokens read and said."
        )
    if tally.unpriced:
        lines.append(
            f"Of {tally.unpriced} requests no server said how many tokens they had: cost is more than that."
        )
    return lines


def _dropped(job: Job, result: Result) -> Section:
    tally = result.tally
    head = ("reason", "items", "an example")
    rows = [
        (reason, str(count), _cell("; ".join(found for _, found in tally.examples[reason][:1])))
        for reason, count in tally.dropped.most_common()
    ]
    lost = [f"{tally.lost} items had no answer; the same command asks again."] if tally.lost else []
    lines = [
        f"All of them, whole: `{dropped_of(job.out).name}`; every answer: `{answers_of(job.out).name}`.",
        *lost,
    ]
    return Section("What was dropped", lines, [head, *rows] if rows else ())


def _varied(found: Diversity) -> Section:
    one, two, three = found.distinct
    rows = [
        ("figure", f"of {found.rows} rows, drawn"),
        ("words of an answer, mean and 95th percentile", f"{found.words:.1f}, {found.words_p95:.0f}"),
        ("different words, pairs, triples among all", f"{one:.3f}, {two:.3f}, {three:.3f}"),
        ("overlap of two answers, mean", f"{found.overlap:.3f}"),
        ("different beginnings of questions", str(found.num_openings)),
        ("the most frequent", _cell(", ".join(f"{words} {count}" for words, count in found.openings))),
    ]
    return Section("How varied it is", (), rows)


def _held(job: Job) -> list[str]:
    held = job.held
    if not held.names:
        return ["Compared with none: `--against` names what a model will be measured with."]
    return [
        f"Compared with {', '.join(held.names)}: {held.pictures} pictures by how they look, {held.questions} "
        f"questions by {job.config.ngram} words that follow each other. What was found is among the dropped ones."
    ]


def _cell(text: str) -> str:
    return shorten(" ".join(text.split()), 160)


def _markdown(name: str, sections: Sequence[Section]) -> Iterator[str]:
    yield f"# {name}\n"
    for section in sections:
        yield f"## {section.title}\n"
        yield from (f"{line}\n" for line in section.lines)
        for number, row in enumerate(section.table):
            yield "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |"
            if number == 0:
                yield "|---" * len(row) + "|"
        if section.table:
            yield ""
        yield from ("".join(f"    {line}\n" for line in text.splitlines()) for text in section.quoted)


def _section_html(section: Section) -> str:
    texts = [CODE.sub(r"<code>\1</code>", html.escape(line)) for line in section.lines]
    lines = "".join(f"<p>{text}</p>" for text in texts)
    rows = []
    for number, row in enumerate(section.table):
        tag = "td" if number else "th"
        rows.append(f"<tr>{''.join(f'<{tag}>{html.escape(cell)}</{tag}>' for cell in row)}</tr>")
    table = f'<table class="words">{"".join(rows)}</table>' if rows else ""
    quoted = "".join(f"<p>{html.escape(text)}</p>" for text in section.quoted)
    return f"<h2>{html.escape(section.title)}</h2>{lines}{table}{quoted}"


def row_element(row: Mapping[str, Any], folder: Path) -> str:
    """A row as HTML, with its pictures."""
    media = row.get("image", [])
    pictures = "".join(
        picture_element(folder / each) for each in (media if isinstance(media, list) else [media])
    )
    videos = f"<p>{html.escape(str(row['video']))}</p>" if "video" in row else ""
    turns = "".join(
        f"<p>{html.escape(question)}</p><p><b>{html.escape(answer)}</b></p>"
        for question, answer in turns_of(row)
    )
    worse = f"<p>worse: {html.escape(row['output_2']['value'])}</p>" if "output_2" in row else ""
    origin = row[FIELD]
    tokens = f"{origin['prompt_tokens']} tokens read, {origin['answer_tokens']} said"
    told = f"<p>{html.escape(row['id'])}; {tokens}</p>"
    return f'<article class="row"><div>{pictures}{videos}</div><div>{turns}{worse}{told}</div></article>'
