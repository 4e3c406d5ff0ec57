"""Every answer that was paid for, in a journal: a run that goes on, or starts again, asks for none of them twice.

A row is named by all that an answer depends on: who was asked (with the weights), the words, what the pictures
show, the sampling with its seed.
"""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from threading import Lock
from typing import Any

from llavakit.core.errors import ConfigError, DataError, UserError
from llavakit.core.journal import Journal, Row, continue_journal, scan_journal
from llavakit.core.number_map import NumberMap
from llavakit.engine.responder import Answer
from llavakit.engine.sampler import Sampling
from llavakit.text.conversation import Conversation, Image, Part, Text
from llavakit.vision.image import digest
from llavakit.vision.video import video_digest

SYNCED_EVERY = 64  # answers; a machine that loses power forgets so many at most
FIELDS = ("key", "text", "finish", "prompt_tokens", "answer_tokens")


class Stopped(UserError):
    """Nothing more is asked, as the run ends."""


class Answers:
    """The answers of a file by their key, on disk; in memory 30 bytes each. Any number of threads may ask."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._places = NumberMap()
        self._coming: dict[str, Future[Answer]] = {}
        self._lock = Lock()
        self._written = 0
        self._stopped = False

    def stop(self) -> None:
        """Let nobody be asked any more; what is under way is still kept."""
        self._stopped = True

    def learn(self, key: str, begin: int) -> None:
        """Know of a row that the file has."""
        self._places.put(_short(key), begin)

    def find(self, key: str) -> Answer | None:
        """The answer of this key, if there is one."""
        with self._lock:
            return self._find(key)

    def get(self, key: str, ask: Callable[[], Answer]) -> tuple[Answer, bool]:
        """(the answer, whether it was there already). Of threads with one key the first asks, the others wait."""
        with self._lock:
            known = self._find(key)
            if known is not None:
                return known, True
            if self._stopped:
                raise Stopped("the run ends")
            coming = self._coming.get(key)
            mine = None
            if coming is None:
                mine = self._coming[key] = Future()
        if coming is not None:
            return coming.result(), True
        assert mine is not None
        try:
            answer = ask()
            self.add(key, answer)
            mine.set_result(answer)
        except (UserError, OSError) as error:
            mine.set_exception(error)
            raise
        finally:
            mine.cancel()  # what has a result or an error stays as it is
            with self._lock:
                del self._coming[key]
        return answer, False

    def add(self, key: str, answer: Answer) -> None:
        """Keep an answer."""
        row = dict(
            zip(
                FIELDS,
                (key, answer.text, answer.finish, answer.prompt_tokens, answer.answer_tokens),
                strict=True,
            )
        )
        with self._lock:
            self._places.put(_short(key), self._journal.write([row]))
            self._written += 1
            if self._written % SYNCED_EVERY == 0:
                self._journal.sync()

    def _find(self, key: str) -> Answer | None:
        begin = self._places.get(_short(key))
        row = None if begin is None else self._journal.read_at(begin)
        if row is None or row["key"] != key:
            return None
        return Answer(row["text"], row["finish"], row["prompt_tokens"], row["answer_tokens"])


@contextmanager
def open_answers(path: Path, header: Row) -> Iterator[Answers]:
    """The answers of a file, whose first line says what run they belong to. ConfigError for those of another."""
    with continue_journal(path) as journal:
        answers, rows = Answers(journal), scan_journal(path)
        had = next(rows, (0, None))[1]
        if had is None:
            journal.add([header])
        else:
            _compare(path, had, header)
        for number, (begin, row) in enumerate(rows, 2):
            if row.keys() != set(FIELDS):
                raise DataError("not an answer that was written here", path=path, line=number)
            answers.learn(row["key"], begin)
        yield answers
        journal.sync()


def _compare(path: Path, had: Row, header: Row) -> None:
    for name in {**had, **header}:
        if had.get(name) != header.get(name):
            raise ConfigError(
                f"{path} has answers of a run with {name} {had.get(name)!r}, not {header.get(name)!r}; "
                "use another --out"
            )


def name_request(who: Any, talk: Conversation, sampling: Sampling) -> str:
    """The key of a request. DataError for a picture or video that cannot be read."""
    said = [[message.role, [_content(part) for part in message.parts]] for message in talk.messages]
    told = json.dumps([who, said, sampling.model_dump(mode="json", exclude_defaults=True)], sort_keys=True)
    return blake2b(told.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def _content(part: Part) -> list[str]:
    """What a part says or shows."""
    if isinstance(part, Text):
        return ["text", part.text]
    if isinstance(part, Image):
        return ["image", digest(part.source)]
    return ["video", video_digest(part.source)]


def _short(key: str) -> int:
    return int(key[:16], 16)
