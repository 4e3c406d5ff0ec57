"""What a run came to, in a few lines for a terminal."""

from collections.abc import Iterator

from llavakit.synth.run import Result
from llavakit.synth.tally import cost_of
from llavakit.synth.work import Job


def tell_result(job: Job, result: Result) -> Iterator[str]:
    """Rows, what was dropped, what was asked and paid."""
    tally, price = result.tally, job.config.price
    yield f"{tally.accepted} rows of {tally.used} items in {result.seconds:.1f} s"
    for reason, count in tally.dropped.most_common():
        item, found = tally.examples[reason][0]
        yield f"dropped: {count} {reason}, as {item}: {' '.join(found.split())[:160]}"
    if tally.lost:
        yield f"no answer: {tally.lost} items; the same command asks again"
    if tally.asked:
        paid = cost_of(tally.paid_prompt, tally.paid_answer, price)
        whole = cost_of(tally.prompt_tokens, tally.answer_tokens, price)
        cost = "" if paid is None else f", cost {paid:.4f} now, {whole:.4f} in all"
        yield (
            f"{tally.asked} requests, {tally.known} of them answered before; {tally.prompt_tokens} tokens read, "
            f"{tally.answer_tokens} said{cost}"
        )
    if tally.mended or tally.unread:
        yield f"{tally.mended} answers of broken JSON were mended, {tally.unread} asked for again"
    wanted = job.config.rows
    if wanted is not None and tally.accepted < wanted and not result.trouble:
        yield f"{tally.accepted} of {wanted} rows: no picture is left; give more, or use each more often (--rounds)"
    if not result.published and job.out.exists():
        yield f"{job.out} stays as it was: it has as many rows or more"
