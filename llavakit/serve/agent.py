"""The loop of tool calls behind the chat door (`llavakit serve --agent`): the server runs the tools itself.

What the model says and calls on the way is told as `reasoning_content`, the answer with its marks as the content.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, ExitStack
from threading import Event as Flag
from typing import Any

from llavakit.agent.events import Answered, CallMade, Forced, Piece, Returned, Unread
from llavakit.agent.forms import FORMS
from llavakit.agent.loop import Agent
from llavakit.agent.opening import AgentConfig
from llavakit.agent.responder import begin_talk, nobody
from llavakit.core.errors import UserError
from llavakit.engine.asked import WorkerResponder
from llavakit.engine.fault import Boundary, report
from llavakit.engine.sampler import Sampling
from llavakit.serve.best import BestAnswer
from llavakit.serve.choice import Delta
from llavakit.serve.conversation import calling
from llavakit.serve.errors import ApiError
from llavakit.serve.running import Answer
from llavakit.serve.schema import ChatRequest
from llavakit.serve.usage import PromptDetails, Usage
from llavakit.text.conversation import Conversation


class Toolbox:
    """What the server's model may call, and how. Close it in the end."""

    def __init__(self, config: AgentConfig) -> None:
        """Opens the tools that the settings name. ConfigError for those that are not there."""
        self.config, self.policy, self._opened = config, config.rules(), ExitStack()
        self.registry = self._opened.enter_context(config.open())
        self.pool = ThreadPoolExecutor(config.at_once, "llavakit-agent")

    def close(self) -> None:
        """Wait for no run any more, and end what the tools hold."""
        self.pool.shutdown(wait=False, cancel_futures=True)
        self._opened.close()

    def check(self, request: ChatRequest) -> None:
        """ApiError for what the loop has no place for."""
        if (request.n or 1) > 1:
            raise ApiError("an agent gives one answer; ask for one", param="n")
        how = calling(request)
        if how.free or how.forced:
            raise ApiError("tools are run here, those of the server; ask without", param="tools")
        if request.response_format is not None and request.response_format.type != "text":
            raise ApiError("an agent's answer has no schema", param="response_format")
        if request.logprobs:
            raise ApiError("an agent's answer has no log-probabilities", param="logprobs")


class AgentAnswer:
    """An answer that the loop makes in a thread: iterate over its deltas, and `close` it, whatever happened."""

    num_choices = 1

    def __init__(
        self,
        toolbox: Toolbox,
        responder: WorkerResponder,
        talk: Conversation,
        sampling: Sampling,
        own_system: str,
        within: Callable[[], AbstractAsyncContextManager[None]],
    ) -> None:
        """`within` is around every wait, and ends those that take too long."""
        self._toolbox, self._responder, self._talk, self._sampling = toolbox, responder, talk, sampling
        self._own_system, self._within, self._loop = own_system, within, asyncio.get_running_loop()
        self._queue: asyncio.Queue[Delta | ApiError | None] = asyncio.Queue()
        self._left, self._open = Flag(), True
        self.notes: dict[str, object] = {}
        toolbox.pool.submit(self._work)

    @property
    def usage(self) -> Usage:
        """Tokens of all that the model was asked and said."""
        asked, said = self._responder.prompt_tokens, self._responder.answer_tokens
        seen = PromptDetails(image_tokens=self._responder.image_tokens)
        return Usage(
            prompt_tokens=asked, completion_tokens=said, total_tokens=asked + said, prompt_tokens_details=seen
        )

    async def __aiter__(self) -> AsyncIterator[Delta]:
        while self._open:
            async with self._within():
                delta = await self._queue.get()
            if isinstance(delta, ApiError):
                raise delta
            if delta is None:
                return
            self._open = delta.finish is None
            yield delta

    def close(self) -> bool:
        """Leave the run; whether it was still going on."""
        was_open, self._open = self._open, False
        self._left.set()
        return was_open

    def _work(self) -> None:
        """In the pool's thread."""
        with Boundary() as own:
            try:
                self._go()
            except UserError as error:
                self._tell(ApiError(str(error), param="messages"))
        if own.error is not None:
            report("a run of the agent failed", own.error)
            self._tell(ApiError("the agent failed at this request", status=500, code="agent_failed"))

    def _go(self) -> None:
        box = self._toolbox
        agent = Agent(
            self._responder, box.registry, FORMS[box.config.form], policy=box.policy, ask=nobody,
            sampling=self._sampling, own_system=self._own_system,
        )  # fmt: skip
        with begin_talk(agent, self._talk, box.config) as run:
            for event in agent.go(run):
                if self._left.is_set():
                    return
                for delta in told(event):
                    self._tell(delta)
            self.notes = {"calls": run.state.num_calls, "stopped": run.state.forced or ""}

    def _tell(self, delta: Delta | ApiError) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._queue.put_nowait, delta)


AnyAnswer = Answer | BestAnswer | AgentAnswer


def told(event: Any) -> Sequence[Delta]:
    """What a client hears of an event."""
    match event:
        case Piece():
            return (Delta(0, thought=event.text),)
        case CallMade():
            return (Delta(0, thought=f"\n{event.id}: {event.name}({event.arguments})\n"),)
        case Returned():
            return (Delta(0, thought=f"{event.id} gave {event.text}\n"),)
        case Unread():
            return (Delta(0, thought=f"\n{event.problem}\n"),)
        case Forced():
            return (Delta(0, thought=f"\nstopped: {event.why}\n"),)
        case Answered():
            return Delta(0, event.text), Delta(0, finish="stop")
    return ()
