"""HTML that needs nothing else: a run's table of tasks, one task's answers, the answers that two runs differ in."""

import html
from collections.abc import Mapping, Sequence
from typing import Any

from llavakit.core.page import page
from llavakit.eval.compare import Comparison, Flip
from llavakit.eval.score import Score, Verdict
from llavakit.text.conversation import Image, Video
from llavakit.vision.thumbnail import picture_element
from llavakit.vision.video import name_of

SHOWN = 200  # answers on a page; their pictures are in it
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
        picture_element(part.source)
        if isinstance(part, Image)
        else f"<p>{html.escape(name_of(part.source))}</p>"
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
