"""The loop of tool calls behind the chat door (`llavakit serve --agent`): the server runs the tools itself.

What the model says and calls on the way is told as `reasoning_content`, the answer with its marks as the content.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, ExitStack
from typing import Any

from llavakit.agent.events import Answered, CallMade, Forced, Piece, Returned, Unread
from llavakit.agent.forms import FORMS
from llavakit.agent.loop import Agent
from llavakit.agent.opening import AgentConfig, can_hold
from llavakit.agent.responder import begin_talk, nobody
from llavakit.core.errors import ConfigError, UserError
from llavakit.data.media import Media, plan_media
from llavakit.engine.asked import WorkerResponder
from llavakit.engine.fault import Boundary, report
from llavakit.engine.sampler import Sampling
from llavakit.serve.best import BestAnswer
from llavakit.serve.budget import MemoryShare
from llavakit.serve.choice import Delta
from llavakit.serve.conversation import calling, media_urls
from llavakit.serve.decoding import Elsewhere, Job, Stopped
from llavakit.serve.errors import ApiError
from llavakit.serve.running import Answer
from llavakit.serve.schema import ChatRequest
from llavakit.serve.sizes import tile_bytes
from llavakit.serve.usage import PromptDetails, Usage
from llavakit.text.conversation import Conversation, Medium
from llavakit.vision.frames import VideoConfig
from llavakit.vision.plan import ImageConfig


class Toolbox:
    """What the server's model may call, and how. Close it in the end."""

    def __init__(self, config: AgentConfig) -> None:
        """Opens the tools that the settings name. ConfigError for those that are not there."""
        if config.form == "openai":
            raise ConfigError("form=openai is for an agent that asks a server; this one is the server")
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
        for medium in media_urls(request):
            if medium.sort == "video":
                raise ApiError("tools are for pictures: an agent takes no videos", param=medium.param)


class Shown:
    """Plans the pictures that the model of a run sees: those of the request and those that tools made.

    They are PNGs of ours by then, and are cut in the processes that decode. Their tiles are held of `share`.
    """

    def __init__(self, job: Job, share: MemoryShare) -> None:
        self._job, self._share = job, share
        self._tiles: dict[str, int] = {}  # bytes of each picture

    def __call__(self, part: Medium, image: ImageConfig, video: VideoConfig | None, *, alone: bool) -> Media:
        """As `plan_media`."""
        media = plan_media(part, image, video, alone=alone)
        self._tiles[media.name] = tile_bytes(media.plan)
        self._share.hold("tiles", sum(self._tiles.values()))
        return Elsewhere(media.source, media.plan, media.depth, self._job, "messages")


class AgentAnswer:
    """An answer that the loop makes in a thread, with the face of an `Answer`."""

    num_choices = 1

    def __init__(
        self,
        toolbox: Toolbox,
        responder: WorkerResponder,
        talk: Conversation,
        sampling: Sampling,
        own_system: str,
        job: Job,
        within: Callable[[], AbstractAsyncContextManager[None]],
    ) -> None:
        """`job` decodes what is put on the desk. `within` is around every wait, and ends those that are long."""
        self._toolbox, self._responder, self._talk, self._sampling = toolbox, responder, talk, sampling
        self._own_system, self._job, self._within = own_system, job, within
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[list[Delta] | ApiError] = asyncio.Queue()
        self._open = True
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

    async def __aiter__(self) -> AsyncIterator[list[Delta]]:
        while self._open:
            async with self._within():
                told = await self._queue.get()
            if isinstance(told, ApiError):
                raise told
            self._open = all(delta.finish is None for delta in told)
            yield told

    def close(self) -> bool:
        """Leave the run; whether it was still going on."""
        was_open, self._open = self._open, False
        self._job.stop.set()
        return was_open

    def _work(self) -> None:
        """In the pool's thread."""
        with Boundary() as own:
            try:
                self._go()
            except ApiError as error:
                self._tell(error)
            except UserError as error:
                self._tell(ApiError(str(error), param="messages"))
            except Stopped:
                return  # nobody waits for it any more
        if own.error is not None:
            report("a run of the agent failed", own.error)
            self._tell(ApiError("the agent failed at this request", status=500, code="agent_failed"))

    def _go(self) -> None:
        box = self._toolbox
        agent = Agent(
            self._responder, box.registry, FORMS[box.config.form], policy=box.policy, ask=nobody,
            sampling=self._sampling, own_system=self._own_system, holds_calls=can_hold(self._responder),
            stop=self._job.stop,
        )  # fmt: skip
        with begin_talk(agent, self._talk, box.config, redraw=self._job.redraw) as run:
            for event in agent.go(run):
                if self._job.stop.is_set():
                    return
                if deltas := told(event):
                    self._tell(deltas)
            self.notes = {"calls": run.state.num_calls, "stopped": run.state.forced or ""}

    def _tell(self, told: list[Delta] | ApiError) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._queue.put_nowait, told)


AnyAnswer = Answer | BestAnswer | AgentAnswer


def told(event: Any) -> list[Delta]:
    """What a client hears of an event."""
    match event:
        case Piece():
            return [Delta(0, thought=event.text)]
        case CallMade():
            return [Delta(0, thought=f"\n{event.id}: {event.name}({event.arguments})\n")]
        case Returned():
            return [Delta(0, thought=f"{event.id} gave {event.text}\n")]
        case Unread():
            return [Delta(0, thought=f"\n{event.problem}\n")]
        case Forced():
            return [Delta(0, thought=f"\nstopped: {event.why}\n")]
        case Answered():
            return [Delta(0, event.text), Delta(0, finish="stop")]
    return []
