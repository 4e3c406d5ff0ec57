"""HTML that needs nothing else: a run's table of tasks, one task's answers, the answers that two runs differ in."""

import base64
import html
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from llavakit.core.errors import DataError
from llavakit.eval.compare import Comparison, Flip
from llavakit.eval.score import Score, Verdict
from llavakit.text.conversation import Image, ImageSource, Video
from llavakit.vision.image import load_image
from llavakit.vision.video import name_of

SHOWN = 200  # answers on a page; their pictures are in it
SIDE = 200  # pixels of a picture
STYLE = """
body { font: 15px/1.4 system-ui, sans-serif; margin: 2em auto; max-width: 60em; color: #222 }
article { display: flex; gap: 1em; border-top: 1px solid #ccc; padding: .8em 0 }
.wrong b { color: #b01e28 } .right b { color: #14783c } .unread b { color: #9a6700 }
img { max-width: 200px; max-height: 200px } p { margin: .2em 0; white-space: pre-wrap }
table { border-collapse: collapse } td, th { padding: .3em .8em; border-top: 1px solid #ccc; text-align: right }
td:first-child, th:first-child { text-align: left }
"""
SCRIPT = """
const kind = document.querySelector("select"), text = document.querySelector("input");
function show() {
  for (const each of document.querySelectorAll("article, tbody tr"))
    each.hidden = (kind.value && !each.classList.contains(kind.value))
      || !each.textContent.toLowerCase().includes(text.value.toLowerCase());
}
kind.onchange = text.oninput = show;
kind.value = location.hash.slice(1);
if (kind.selectedIndex < 0) kind.value = "";
show();
"""
VERDICTS = {"unread": "not read", "wrong": "wrong", "right": "right"}


def draw_page(score: Score, verdicts: Sequence[Verdict]) -> str:
    """A task's answers: not read and wrong ones first, with pictures, and a filter."""
    ordered = sorted(verdicts, key=lambda v: -1.0 if v.point is None else v.point)[:SHOWN]
    figures = ", ".join(f"{html.escape(name)} {value:.2f}" for name, value in score.figures.items())
    return page(
        score.title,
        f"Rules {html.escape(score.rules)}: {figures}. {score.answered} answers, {score.unparsed} not read, "
        f"{score.truncated} cut; the {len(ordered)} with the fewest points.",
        VERDICTS,
        map(_article, ordered),
    )


def draw_index(name: str, results: Mapping[str, Mapping[str, Mapping[str, Any]]], page_name: str) -> str:
    """All tasks of a run by rule set, with a filter; the figures lead to the answers behind them."""
    head = ("task", "rules", "figure", "score", "95 %", "n", "not read", "cut", "skipped")
    rows = []
    for task, sets in results.items():
        for rules, score in sets.items():
            figure, value = next(iter(score["figures"].items()))
            between = "" if score["interval"] is None else "{:.1f} to {:.1f}".format(*score["interval"])
            link = f"{html.escape(task)}/{page_name}"
            unread = f'<a href="{link}#unread">{score["unparsed"]}</a>' if score["unparsed"] else "0"
            cells = (
                f'<a href="{link}">{html.escape(task)}</a>', html.escape(rules), html.escape(figure),
                f'<a href="{link}#wrong">{value:.2f}</a>', between, score["answered"], unread,
                score["truncated"], score["skipped"],
            )  # fmt: skip
            kinds = ("has-unread" if score["unparsed"] else "", "has-cut" if score["truncated"] else "")
            rows.append(f'<tr class="{" ".join(kinds)}">{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>')
    table = "".join(f"<th>{word}</th>" for word in head)
    return page(
        f"Scores of {name}",
        "Each score leads to the answers behind it.",
        {"has-unread": "with answers not read", "has-cut": "with answers cut"},
        ("<table><thead><tr>", table, "</tr></thead><tbody>", *rows, "</tbody></table>"),
    )


def draw_comparison(found: Comparison, first: str, second: str) -> str:
    """The answers that two runs differ in, those that became worse first."""
    ordered = sorted(found.flips, key=lambda flip: flip.better)[:SHOWN]
    told = (
        f"A: {first}, B: {second}. Rules {found.rules}: {found.name} {found.first:.2f} and {found.second:.2f}, "
        f"p {found.p:.4f} ({found.test}). {len(found.flips)} answers of {found.questions} have other points; "
        f"{len(ordered)} are here."
    )
    return page(
        f"{found.task}: A against B", html.escape(told), {"worse": "worse", "better": "better"},
        map(_flip, ordered),
    )  # fmt: skip


def page(title: str, told: str, kinds: Mapping[str, str], body: Iterable[str]) -> str:
    """A page with a filter by kind (a class of the articles or rows in `body`) and by text; `told` is HTML."""
    options = "".join(f'<option value="{name}">{words}' for name, words in kinds.items())
    return "\n".join(
        (
            f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>',
            f"<style>{STYLE}</style><h1>{html.escape(title)}</h1>",
            f"<p>{told}</p>",
            f'<p><select aria-label="kind"><option value="">all{options}</select> '
            '<input aria-label="filter" placeholder="filter"></p>',
            *body,
            f"<script>{SCRIPT}</script></html>",
        )
    )


def _article(verdict: Verdict) -> str:
    point = verdict.point
    kind = "unread" if point is None else "right" if point >= 0.5 else "wrong"
    return _shown(kind, verdict, f"<p><b>{_answer(verdict)}</b></p>", f"points: {_points(verdict)}")


def _flip(flip: Flip) -> str:
    answers = f"<p>A: {_answer(flip.before)}</p><p><b>B: {_answer(flip.after)}</b></p>"
    told = f"points: {_points(flip.before)} and {_points(flip.after)}"
    return _shown("right better" if flip.better else "wrong worse", flip.after, answers, told)


def _shown(kind: str, verdict: Verdict, answers: str, points: str) -> str:
    """A question with its pictures, what was said, and what is right."""
    question = verdict.question
    media = "".join(
        _picture(part.source) if isinstance(part, Image) else f"<p>{html.escape(name_of(part.source))}</p>"
        for part in question.parts
        if isinstance(part, Image | Video)
    )
    return (
        f'<article class="{kind}"><div>{media}</div><div>'
        f"<p>{html.escape(question.conversation.messages[0].text)}</p>{answers}"
        f"<p>reference: {html.escape(str(question.reference))}; {points}; "
        f"{html.escape(question.id)}, {html.escape(verdict.given.finish)}</p></div></article>"
    )


def _answer(verdict: Verdict) -> str:
    return html.escape(verdict.given.answer) or "(nothing)"


def _points(verdict: Verdict) -> str:
    return "not read" if verdict.point is None else f"{verdict.point:.2f}"


def _picture(source: ImageSource) -> str:
    """A small copy in the page; pictures that have gone since they were asked about are named."""
    try:
        picture = load_image(source)
    except DataError as error:
        return f"<p>{html.escape(str(error))}</p>"
    picture.thumbnail((SIDE, SIDE))
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=80)
    return f'<img alt="" src="data:image/jpeg;base64,{base64.b64encode(out.getvalue()).decode()}">'
