"""A model behind a worker, with the face of `Chat`: several threads may ask it at once."""

from collections.abc import Iterator, Sequence
from queue import SimpleQueue

from llavakit.data.encode import Encoder, PlanMedia
from llavakit.data.media import plan_media
from llavakit.engine.engine import Engine
from llavakit.engine.request import Event
from llavakit.engine.responder import GREEDY, Answer, Responder
from llavakit.engine.sampler import Sampling
from llavakit.engine.worker import Worker
from llavakit.text.conversation import Conversation, Video
from llavakit.text.reply import Reply


class WorkerResponder(Responder):
    """Answers by requests to a worker; counts the tokens of all that it was asked and said."""

    def __init__(
        self,
        engine: Engine,
        worker: Worker,
        encoder: Encoder,
        *,
        salt: bytes = b"",
        plan: PlanMedia = plan_media,
    ) -> None:
        """`worker` runs the engine, which finds what it keeps of prompts again for the same `salt` only.

        `plan` plans pictures and videos, and with that says who decodes them.
        """
        self._engine, self._worker, self._encoder, self._salt = engine, worker, encoder, salt
        self._plan = plan
        self.prompt_tokens = self.answer_tokens = self.image_tokens = 0

    def stream(self, conversation: Conversation, *, sampling: Sampling = GREEDY) -> Iterator[str]:
        """The next assistant text in pieces; left alone, the request is cancelled."""
        encoder = self._encoder
        sample = encoder.encode(conversation, open_turn=True, plan=self._plan)
        stops = (*encoder.tokenizer.stop_strings(encoder.template), *sampling.stop)
        reply, shown = Reply(encoder.tokenizer, stops), 0
        events: SimpleQueue[Event] = SimpleQueue()

        def ends(choice: int, token: int) -> bool:
            reply.add(token)
            return reply.ended

        asked = sampling.model_copy(update={"stop": (), "n": 1})  # the reply looks for the stops
        prepared = self._engine.prepare(sample, asked, salt=self._salt)
        self.prompt_tokens += sample.num_tokens
        self.image_tokens += sum(medium.plan.num_tokens for medium in sample.media)
        ticket = self._worker.submit(prepared, events.put, ends)
        try:
            while True:
                event = events.get()
                if event.error is not None:
                    raise event.error
                self.answer_tokens += event.token is not None
                text = reply.text  # grown by `ends`, in the worker's thread, before the event came
                if len(text) > shown:
                    yield text[shown:]
                    shown = len(text)
                if event.finish is not None:
                    break
        finally:
            ticket.cancel()
        if rest := reply.finish():
            yield rest

    def answers(self, conversations: Sequence[Conversation], *, sampling: Sampling = GREEDY) -> list[Answer]:
        """One after the other."""
        return [
            Answer("".join(self.stream(talk, sampling=sampling)).strip(), "stop") for talk in conversations
        ]

    def num_tokens(self, answer: str) -> int:
        """Tokens of an answer."""
        return len(self._encoder.tokenizer.hf(answer)["input_ids"])

    def describe(self, video: Video) -> str:
        """Videos are not asked about here."""
        return ""
