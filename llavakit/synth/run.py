"""A run from pictures to a file: items worked on at once, taken in their order, so that one file comes of one seed.

What was paid for is in the journal of answers beside the file. The file itself is written anew from it whenever the
same command runs: after `kill -9` the second run asks for what is missing and comes to what one run would have.
"""

import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from llavakit.core.errors import ConfigError, DataError, Interrupted, TooManyFailures
from llavakit.core.journal import Row
from llavakit.core.progress import Bar, bar, say
from llavakit.synth.answers import Answers, open_answers
from llavakit.synth.batch import take_in
from llavakit.synth.figures import Sample
from llavakit.synth.items import Item
from llavakit.synth.keeper import Keeper
from llavakit.synth.rows import RowFile
from llavakit.synth.tally import Tally
from llavakit.synth.work import Job, Made, work

# Settings that choose among answers and ask for none: they may change between two runs.
FREE = ("rows", "rounds", "attempts", "language", "similar", "near", "ngram", "price", "on_unknown")
AHEAD = 4  # items per thread that are worked on before the first of them is taken
Use = tuple[Item, int]  # an item, and how often it was used before


@dataclass(frozen=True)
class Result:
    """What a run came to."""

    tally: Tally
    sample: Sample
    seconds: float
    published: bool  # whether the file is this run's
    trouble: str = ""  # why it ended before its end


def answers_of(out: Path) -> Path:
    """The journal of answers beside a file of rows."""
    return out.with_suffix(".answers")


def dropped_of(out: Path) -> Path:
    """Where a run writes what it did not take, and why."""
    return out.with_suffix(".dropped.jsonl")


def run_job(job: Job, batches_in: list[Path] | None = None) -> Result:
    """Make rows until there are as many as wanted. What is done is kept, whatever ends the run.

    Interrupted after Ctrl-C; the same command goes on. `trouble` in the result where a server or the input failed.
    """
    begun = time.monotonic()
    _refuse_foreign(job.out)
    with (
        open_answers(answers_of(job.out), header_of(job)) as answers,
        RowFile(job.out) as rows,
        RowFile(dropped_of(job.out)) as dropped,
    ):
        if batches_in:
            taken, failed = take_in(batches_in, answers)
            say(f"{taken} answers taken in, {failed} requests of the batch failed")
        keeper = Keeper(job, rows, dropped)
        try:
            _take_all(job, answers, keeper)
        except KeyboardInterrupt:
            published = _publish(rows, dropped, whole=False)
            said = f"{rows.count} rows{'' if published else ', fewer than the file has'}"
            raise Interrupted(f"{job.out}: {said}", "the same command", 130) from None
        except OSError as error:
            _publish(rows, dropped, whole=False)
            kept = f"{rows.count} rows are kept, and every answer that was paid for"
            raise TooManyFailures(f"{job.out}: {error.strerror}; {kept}") from None
        except DataError:  # a row of the images' file
            _publish(rows, dropped, whole=False)
            raise
        whole = not keeper.trouble and not keeper.tally.lost
        published = not keeper.tally.missing and _publish(rows, dropped, whole=whole)
    return Result(keeper.tally, keeper.sample, time.monotonic() - begun, published, keeper.trouble)


def header_of(job: Job) -> Row:
    """What a file of answers belongs to: rows of two of these are never mixed."""
    return {
        "images": str(job.items.source), "prompt": job.prompts[job.config.kind].digest,
        "writers": {role: writer.who for role, writer in job.writers.items()},
        **job.config.model_dump(mode="json", exclude=set(FREE)),
    }  # fmt: skip


def _refuse_foreign(out: Path) -> None:
    if out.exists() and not answers_of(out).exists():
        raise ConfigError(f"{out} is there already and was not made here; choose another --out")


def _publish(rows: RowFile, dropped: RowFile, *, whole: bool) -> bool:
    """Whether the rows took the place of the file; what was dropped goes with them."""
    published = rows.count > 0 and rows.publish(whole=whole)
    if published or not rows.path.exists():
        dropped.publish(whole=True)
    return published


def _take_all(job: Job, answers: Answers, keeper: Keeper) -> None:
    wanted, total = job.config.rows, len(job.items) * job.config.rounds
    threads = max([writer.at_once for writer in job.writers.values()], default=1)

    def room() -> int:
        """How many more may be under way: every one may give a row, and none is paid for that is not wanted."""
        if wanted is None:
            return AHEAD * threads
        return min(AHEAD * threads, wanted - keeper.tally.accepted - keeper.tally.missing)

    with bar(job.config.kind, wanted or total) as progress, _threads(threads, answers) as pool:
        todo, waiting = uses(job), deque[Future[Made]]()
        while not keeper.trouble:
            for item, turn in islice(todo, max(0, room() - len(waiting))):
                waiting.append(pool.submit(work, job, answers, item, turn))
            if not waiting:
                return
            before = keeper.tally.accepted
            keeper.take(waiting.popleft().result())
            _show(progress, job, keeper.tally, keeper.tally.accepted - before if wanted else 1)


@contextmanager
def _threads(count: int, answers: Answers) -> Iterator[ThreadPoolExecutor]:
    """A pool; at its end requests under way are waited for, since they are paid for, and no other is sent."""
    pool = ThreadPoolExecutor(count, thread_name_prefix="writer")
    try:
        yield pool
    finally:
        answers.stop()
        pool.shutdown(cancel_futures=True)


def _show(progress: Bar, job: Job, tally: Tally, count: int) -> None:
    note = f"{tally.accepted} rows, {sum(tally.dropped.values())} dropped"
    if tally.lost:
        note += f", {tally.lost} without an answer"
    remote = next((writer.remote for writer in job.writers.values() if writer.remote), None)
    if remote is not None:
        note += f", {remote.pace.limit} at once"
    progress.advance(count, note)


def uses(job: Job) -> Iterator[Use]:
    """Every item, round after round; of kinds with domains one of each in turn, as LLaVA-Med drew them."""
    for turn in range(job.config.rounds):
        if not job.kind.by_domain:
            yield from ((item, turn) for item in job.items)
            continue
        for index in _round_robin([job.facts.of(item).domain for item in job.items]):
            yield job.items[index], turn


def _round_robin(domains: list[str]) -> Iterator[int]:
    """Places of one item of each domain, then of the next one of each, until all had their turn."""
    queues: dict[str, deque[int]] = {}
    for index, domain in enumerate(domains):
        queues.setdefault(domain, deque()).append(index)
    while queues:
        for domain in list(queues):
            yield queues[domain].popleft()
            if not queues[domain]:
                del queues[domain]
