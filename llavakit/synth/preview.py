"""A look before paying: a few items worked on, with what was asked and said, and what all of them will cost.

The answers are kept beside the file as those of a run are, so none of them is paid for twice.
"""

import html
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

from llavakit.core.files import write_text
from llavakit.core.page import page
from llavakit.engine.responder import Answer
from llavakit.synth.answers import open_answers
from llavakit.synth.run import answers_of, header_of, uses
from llavakit.synth.tally import Tally, cost_of
from llavakit.synth.work import Job, Made, work
from llavakit.text.conversation import Conversation, Image, Text
from llavakit.vision.thumbnail import picture_element
from llavakit.vision.video import name_of


def look(job: Job, count: int) -> list[Made]:
    """What comes of the first items. RemoteError where nobody answers."""
    threads = max([writer.at_once for writer in job.writers.values()], default=1)
    with open_answers(answers_of(job.out), header_of(job)) as answers, ThreadPoolExecutor(threads) as pool:
        found = list(pool.map(lambda use: work(job, answers, *use), islice(uses(job), count)))
    for made in found:
        if made.lost is not None:
            raise made.lost
    return found


def tell(found: Sequence[Made]) -> list[str]:
    """What was asked and said, as text for a terminal."""
    lines = []
    for made in found:
        lines += ["", f"== {made.item.id}: {_verdict(made)}"]
        for asked in made.asked:
            lines += [
                f"-- {asked.role} is asked",
                *_said(asked.talk),
                f"-- {asked.role} says",
                asked.answer.text,
            ]
            lines.append(f"({_tokens(asked.answer)}, ended by {asked.answer.finish})")
    return lines


def estimate(job: Job, found: Sequence[Made]) -> str:
    """What the whole run will read, say and cost, from the real counts of these items."""
    tally = Tally()
    for made in found:
        tally.used += 1
        tally.accepted += made.draft is not None
        tally.count(made.asked)
    total = len(job.items) * job.config.rounds
    if job.config.rows is not None and tally.accepted:
        total = min(total, round(job.config.rows / tally.acceptance))
    times = total / max(1, tally.used)
    read, said = round(tally.prompt_tokens * times), round(tally.answer_tokens * times)
    cost = cost_of(read, said, job.config.price)
    told = "" if cost is None else f", cost {cost:.2f}"
    unknown = f"; {tally.unpriced} requests came without token counts" if tally.unpriced else ""
    return (
        f"{tally.accepted} of {tally.used} gave a row; about {total} items in all: {read} tokens to be read, "
        f"{said} to be said{told}{unknown}"
    )


def preview_of(out: Path) -> Path:
    """The page, beside the file that a run will write."""
    return out.with_suffix(".preview.html")


def write_preview(job: Job, found: Sequence[Made]) -> Path:
    """The same as a page, with the pictures."""
    path = preview_of(job.out)
    told = html.escape(estimate(job, found))
    kinds = {"accepted": "rows", "dropped": "dropped"}
    write_text(path, page(f"Preview of {job.out.name}", told, kinds, map(_article, found)))
    return path


def _article(made: Made) -> str:
    media = "".join(
        picture_element(part.source)
        if isinstance(part, Image)
        else f"<p>{html.escape(name_of(part.source))}</p>"
        for part in made.item.media
    )
    steps = "".join(
        f"<p>{html.escape(chr(10).join(_said(asked.talk)))}</p><p><b>{html.escape(asked.answer.text)}</b></p>"
        f"<p>{html.escape(_tokens(asked.answer))}</p>"
        for asked in made.asked
    )
    kind = "dropped" if made.draft is None else "accepted"
    return (
        f'<article class="{kind}"><div>{media}</div><div><p>{html.escape(made.item.id)}: '
        f"{html.escape(_verdict(made))}</p>{steps}</div></article>"
    )


def _verdict(made: Made) -> str:
    if made.dropped is not None:
        return f"dropped, {made.dropped}"
    return "a row, unless it is like an earlier one"


def _said(talk: Conversation) -> list[str]:
    """A conversation as text; its media are named."""
    lines = []
    for message in talk.messages:
        parts = [
            part.text if isinstance(part, Text) else f"({type(part).__name__.lower()})"
            for part in message.parts
        ]
        lines.append(f"{message.role}: {' '.join(parts)}")
    return lines


def _tokens(answer: Answer) -> str:
    if answer.prompt_tokens is None or answer.answer_tokens is None:
        return "tokens not told"
    return f"{answer.prompt_tokens} tokens read, {answer.answer_tokens} said"
