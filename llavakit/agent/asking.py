"""A text of the model, piece by piece and by a deadline: a model that does not answer does not hold up the run."""

import time
from collections.abc import Iterator
from queue import Empty, SimpleQueue
from threading import Event as Flag
from threading import Thread

from llavakit.engine.fault import Boundary
from llavakit.engine.responder import Responder
from llavakit.engine.sampler import Sampling
from llavakit.text.conversation import Conversation


class Asking:
    """Iterate over the pieces; then `text` is all of it and `finish` says how it ended: `stop` or `time`."""

    def __init__(
        self, responder: Responder, talk: Conversation, sampling: Sampling, *, seconds: float
    ) -> None:
        """After `seconds` the text is what is there by then, and the model is told to stop."""
        self.text, self.finish = "", "stop"
        self._deadline = time.monotonic() + seconds
        self._pieces: SimpleQueue[str | Exception | None] = SimpleQueue()
        self._left = Flag()
        # A daemon: a model that hangs for ever must not keep the process from ending.
        self._thread = Thread(target=self._listen, args=(responder, talk, sampling), daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[str]:
        try:
            while True:
                piece = self._pieces.get(timeout=max(self._deadline - time.monotonic(), 0))
                if piece is None:
                    return
                if isinstance(piece, Exception):
                    raise piece
                self.text += piece
                yield piece
        except Empty:
            self.finish = "time"
        finally:
            self._left.set()

    def over(self, seconds: float) -> bool:
        """Whether the model has stopped, which it does at its next piece; it is waited for so long."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _listen(self, responder: Responder, talk: Conversation, sampling: Sampling) -> None:
        with Boundary() as own:
            for piece in responder.stream(talk, sampling=sampling):
                self._pieces.put(piece)
                if self._left.is_set():
                    break
        self._pieces.put(own.error)
