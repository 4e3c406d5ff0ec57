"""What people look at: a table of scores in 80 columns, and a page of one task's answers, wrong ones first."""

import base64
import html
import io
from collections.abc import Sequence

from llavakit.core.errors import DataError
from llavakit.eval.score import Score, Verdict
from llavakit.text.conversation import Image, ImageSource
from llavakit.vision.image import load_image

SHOWN = 200  # answers on the page; their pictures are in it
SIDE = 200  # pixels of a picture
HEAD = f"{'task':<14}{'rules':<11}{'score':>18}{'95 %':>15}{'n':>8}{'unread':>7}{'cut':>6}"
STYLE = """
body { font: 15px/1.4 system-ui, sans-serif; margin: 2em auto; max-width: 60em; color: #222 }
article { display: flex; gap: 1em; border-top: 1px solid #ccc; padding: .8em 0 }
.wrong b { color: #b01e28 } .right b { color: #14783c } .unread b { color: #9a6700 }
img { max-width: 200px; max-height: 200px } p { margin: .2em 0; white-space: pre-wrap }
"""
SCRIPT = """
const kind = document.querySelector("select"), text = document.querySelector("input");
function show() {
  for (const each of document.querySelectorAll("article"))
    each.hidden = (kind.value && !each.classList.contains(kind.value))
      || !each.textContent.toLowerCase().includes(text.value.toLowerCase());
}
kind.onchange = text.oninput = show;
"""


def draw_table(scores: Sequence[Score]) -> str:
    """Scores by rule set. What was not read comes with the bounds that it leaves."""
    lines = [HEAD]
    for score in scores:
        name, value = score.headline
        between = "" if score.interval is None else f"{score.interval[0]:.1f}-{score.interval[1]:.1f}"
        lines.append(
            f"{score.task:<14}{score.rules:<11}{f'{name} {value:.2f}':>18}{between:>15}"
            f"{score.answered:>8}{score.unparsed:>7}{score.truncated:>6}"
        )
        if score.unparsed:
            lines.append(
                f"{'':<14}not read: {score.if_wrong:.2f} if wrong, {score.if_chance:.2f} if answered by chance"
            )
        if score.skipped:
            lines.append(f"{'':<14}{score.skipped} questions could not be asked and are in no score")
        left = score.questions - score.answered - score.skipped
        if left:
            lines.append(f"{'':<14}{left} of {score.questions} questions are not answered yet")
    return "\n".join(lines)


def draw_page(score: Score, verdicts: Sequence[Verdict]) -> str:
    """HTML that needs nothing else: not read and wrong answers first, with pictures, and a filter."""
    ordered = sorted(verdicts, key=lambda v: -1.0 if v.point is None else v.point)[:SHOWN]
    figures = ", ".join(f"{html.escape(name)} {value:.2f}" for name, value in score.figures.items())
    return "\n".join(
        (
            f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(score.title)}</title>',
            f"<style>{STYLE}</style><h1>{html.escape(score.title)}</h1>",
            f"<p>Rules {html.escape(score.rules)}: {figures}. {score.answered} answers, {score.unparsed} not read, "
            f"{score.truncated} cut; the {len(ordered)} with the fewest points.</p>",
            '<p><select aria-label="kind"><option value="">all<option value="unread">not read'
            '<option value="wrong">wrong<option value="right">right</select> <input aria-label="filter" '
            'placeholder="filter"></p>',
            *(_article(verdict) for verdict in ordered),
            f"<script>{SCRIPT}</script></html>",
        )
    )


def _article(verdict: Verdict) -> str:
    question, point = verdict.question, verdict.point
    kind = "unread" if point is None else "right" if point >= 0.5 else "wrong"
    asked = question.conversation.messages[0].text
    pictures = "".join(_picture(part.source) for part in question.parts if isinstance(part, Image))
    told = "not read" if point is None else f"{point:.2f}"
    return (
        f'<article class="{kind}"><div>{pictures}</div><div><p>{html.escape(asked)}</p>'
        f"<p><b>{html.escape(verdict.given.answer) or '(nothing)'}</b></p>"
        f"<p>reference: {html.escape(str(question.reference))}; points: {told}; "
        f"{html.escape(question.id)}, {html.escape(verdict.given.finish)}</p></div></article>"
    )


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
