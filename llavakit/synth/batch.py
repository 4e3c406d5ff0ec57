"""OpenAI's batch files: requests that a run would make, written out; and their answers, taken in.

A request is named by its key, so answers find their place whatever order they come in. A kind that asks in several
steps takes a batch for each.
"""

from pathlib import Path
from threading import Lock

from llavakit.core.errors import ConfigError, DataError, RemoteError, UserError
from llavakit.core.journal import scan_journal
from llavakit.engine.responder import Answer
from llavakit.engine.sampler import Sampling
from llavakit.remote import Remote, read_answer
from llavakit.synth.answers import Answers, name_request
from llavakit.synth.rows import RowFile
from llavakit.synth.writers import Writer
from llavakit.text.conversation import Conversation
from llavakit.wire import CHAT


class Missing(UserError):
    """An answer is not there, and in this run nobody is asked."""


class BatchOut:
    """Writers that write down what they are asked, each request once."""

    def __init__(self, rows: RowFile) -> None:
        self.rows = rows
        self._keys: set[str] = set()
        self._lock = Lock()

    def writer(self, asked: Writer) -> Writer:
        """The same one, who is not asked. ConfigError for a model here: it needs no batch."""
        remote = asked.remote
        if remote is None:
            raise ConfigError(f"--batch-out is for a model behind a URL; {asked.model} is here")

        def note(talk: Conversation, sampling: Sampling) -> Answer:
            self._note(remote, name_request(asked.who, talk, sampling), talk, sampling)
            raise Missing("it is in the batch")

        return Writer(note, asked.model, asked.weights, remote)

    def _note(self, remote: Remote, key: str, talk: Conversation, sampling: Sampling) -> None:
        body = remote.body(talk, sampling)
        with self._lock:
            if key not in self._keys:
                self._keys.add(key)
                self.rows.add({"custom_id": key, "method": "POST", "url": f"/v1{CHAT}", "body": body})


def take_in(files: list[Path], answers: Answers) -> tuple[int, int]:
    """(answers taken, requests that failed) of batch result files. DataError, with file:line, for other lines."""
    taken = failed = 0
    for file in files:
        for number, (_, row) in enumerate(scan_journal(file), 1):
            key, response = row.get("custom_id"), row.get("response")
            if not isinstance(key, str) or "response" not in row:
                raise DataError(
                    "not a result of a batch: no 'custom_id' and 'response'", path=file, line=number
                )
            if not isinstance(response, dict) or response.get("status_code") != 200:
                failed += 1
                continue
            try:
                answer = read_answer(response.get("body"), f"{file}:{number}")
            except RemoteError as error:
                raise DataError(str(error)) from None
            if answers.find(key) is None:
                answers.add(key, answer)
                taken += 1
    return taken, failed
