"""Where drafts become rows, one after the other in the order of the items: doubles, evaluation sets, provenance."""

from collections.abc import Mapping
from hashlib import blake2b
from typing import Any

from llavakit.core.errors import DataError
from llavakit.core.number_map import NumberMap
from llavakit.data.records import ADVICE
from llavakit.rules.shingles import SimilarTexts, words_of
from llavakit.synth.draft import Draft, Dropped
from llavakit.synth.figures import Sample
from llavakit.synth.rows import RowFile, make_row
from llavakit.synth.tally import Tally, cost_of
from llavakit.synth.work import Job, Made
from llavakit.vision.likeness import SimilarPictures

COMPARED_FROM = 20  # words; shorter answers are alike by nature
HOPELESS = 20  # items in a row that a writer fails, each of which was paid for
FAILURES = frozenset(("unread", "truncated", "empty", "declined"))
LOST = 8  # items in a row that nobody answers
LONGEST_FOUND = 2000  # letters of what a filter found that are kept


class Keeper:
    """Takes what was made; `trouble` says why nothing more should be asked."""

    def __init__(self, job: Job, rows: RowFile, dropped: RowFile) -> None:
        self.job, self.tally, self.sample = job, Tally(), Sample()
        self._rows, self._dropped = rows, dropped
        self._texts = SimilarTexts(job.config.similar)
        self._pictures = SimilarPictures(job.config.near or 0)
        self._names = NumberMap()  # of each name, by its digest, how many rows have it
        self._failed = self._unanswered = 0
        self.trouble = ""

    def take(self, made: Made) -> None:
        """Write the row of an item, or why it has none. OSError where the disk is full."""
        tally = self.tally
        tally.used += 1
        tally.count(made.asked)
        tally.mended, tally.unread = tally.mended + made.mended, tally.unread + made.unread
        if made.missing:
            tally.missing += 1
            return
        if made.lost is not None:
            tally.lost += 1
            self._unanswered += 1
            if self._unanswered >= LOST:
                self.trouble = f"{self._unanswered} requests in a row had no answer: {made.lost}"
            return
        self._unanswered = 0
        try:
            if made.dropped is not None:
                raise made.dropped
            self._accept(made)
            self._failed = 0
        except Dropped as dropped:
            self._drop(made, dropped)

    def _accept(self, made: Made) -> None:
        """Dropped for a row that others make useless."""
        draft = made.draft
        assert draft is not None
        self._refuse_held(made, draft)
        look = made.look if self.job.config.near is not None else None
        if look is not None and self._pictures.find(look) is not None:
            raise Dropped("similar picture", f"looks like that of an earlier row: {made.item.id}")
        text = draft.answers
        if (
            self.job.kind.compared
            and len(words_of(text)) >= COMPARED_FROM
            and self._texts.meet(text) is not None
        ):
            raise Dropped("similar text", text)
        name = self._name(made)
        try:
            row = make_row(name, made.item, draft, made.after, self._origin(made), self.job.out)
        except DataError as error:
            raise Dropped("form", error.what.removesuffix(ADVICE)) from None
        self._rows.add(row)
        self.tally.accepted += 1
        self.sample.add(name, row)
        if look is not None:
            self._pictures.add(look)

    def _refuse_held(self, made: Made, draft: Draft) -> None:
        held = self.job.held
        if made.look is not None and (found := held.find_picture(made.look)):
            raise Dropped("held picture", found)
        if found := held.find_question(turn.question for turn in draft.turns):
            raise Dropped("held question", found)

    def _drop(self, made: Made, dropped: Dropped) -> None:
        self.tally.drop(dropped.reason, made.item.id, dropped.found)
        texts = [] if made.draft is None else [[turn.question, turn.answer] for turn in made.draft.turns]
        self._dropped.add(
            {
                "item": made.item.id,
                "reason": dropped.reason,
                "found": dropped.found[:LONGEST_FOUND],
                "turns": texts,
            }
        )
        if dropped.reason not in FAILURES:
            self._failed = 0
            return
        self._failed += 1
        if self._failed >= HOPELESS:
            self.trouble = f"{self._failed} items in a row gave no row, the last one: {dropped}"

    def _name(self, made: Made) -> str:
        """The row's id: what it is, of which item, and a number where an item has several."""
        name = f"{self.job.config.kind}-{made.item.id}"
        short = int.from_bytes(blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")
        number = (self._names.get(short) or 0) + 1
        self._names.put(short, number)
        return name if number == 1 else f"{name}-{number}"

    def _origin(self, made: Made) -> Mapping[str, Any]:
        """Where a row comes from. The same fields in every row of a file."""
        config, writers = self.job.config, self.job.writers
        prompt = sum(each.answer.prompt_tokens or 0 for each in made.asked)
        said = sum(each.answer.answer_tokens or 0 for each in made.asked)
        return {
            "kind": config.kind,
            "prompt": self.job.prompts[config.kind].digest,
            "writers": [
                {"role": role, **writer.who} for role, writer in writers.items()
                if any(each.role == role for each in made.asked)
            ],
            "seed": config.seed,
            "turn": made.turn,
            "temperature": config.temperature,
            "max_tokens": config.max_tokens,
            "parents": [made.item.id, *(each.key for each in made.asked)],
            "pictures": list(made.pictures),
            "prompt_tokens": prompt,
            "answer_tokens": said,
            "cost": cost_of(prompt, said, config.price),
        }  # fmt: skip
