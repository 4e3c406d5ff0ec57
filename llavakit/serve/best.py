"""The best of several answers, by a judge, in the place of one (`llavakit serve --best-of`)."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager
from dataclasses import replace

from llavakit.core.errors import ConfigError
from llavakit.critic.best import choose_best, warm
from llavakit.critic.judge import Judge
from llavakit.engine.sampler import Sampling
from llavakit.serve.choice import Delta
from llavakit.serve.conversation import calling
from llavakit.serve.errors import ApiError
from llavakit.serve.running import Answer
from llavakit.serve.schema import ChatRequest
from llavakit.serve.usage import Usage
from llavakit.text.conversation import Conversation


class BestOf:
    """How many answers are drawn, and who compares them. Close it in the end."""

    def __init__(self, judge: Judge, count: int, *, threads: int = 1) -> None:
        """`threads`: requests judged side by side; a model here takes one after the other."""
        if count < 2:
            raise ConfigError(f"--best-of {count}: the best of fewer than two answers is no choice")
        self.judge, self.count = judge, count
        self.pool = ThreadPoolExecutor(threads, "llavakit-judge")

    def check(self, request: ChatRequest) -> None:
        """ApiError for what a judge of texts cannot choose from."""
        if (request.n or 1) > 1:
            raise ApiError(f"every answer here is the best of {self.count}; ask for one", param="n")
        how = calling(request)
        if how.free or how.forced:
            raise ApiError(f"answers here are the best of {self.count} texts; calls are none", param="tools")

    def several(self, sampling: Sampling) -> Sampling:
        """As many answers as are compared, drawn so that they differ."""
        return warm(sampling).model_copy(update={"n": self.count})

    def choose(self, talk: Conversation, texts: Sequence[str]) -> int | None:
        """The place of the best; None where the judge said too little. Waits for the judge."""
        [best] = choose_best(self.judge, [(talk, texts)])
        return best

    def close(self) -> None:
        """Wait for no judge any more."""
        self.pool.shutdown(wait=False, cancel_futures=True)


class BestAnswer:
    """An `Answer` of several choices of which one is told, when all are said and judged."""

    def __init__(
        self,
        answer: Answer,
        choose: Callable[[Sequence[str]], Awaitable[int | None]],
        within: Callable[[], AbstractAsyncContextManager[None]],
    ) -> None:
        self._answer, self._choose, self._within = answer, choose, within
        self.num_choices = 1
        self.notes: dict[str, object] = {"best_of": answer.num_choices}

    @property
    def usage(self) -> Usage:
        """Tokens of all choices; the judge's are not counted."""
        return self._answer.usage

    async def __aiter__(self) -> AsyncIterator[list[Delta]]:
        said: list[list[Delta]] = [[] for _ in range(self._answer.num_choices)]
        async for deltas in self._answer:
            for delta in deltas:
                said[delta.choice].append(delta)
        async with self._within():
            best = await self._choose(["".join(delta.text for delta in deltas) for deltas in said])
        self.notes["judged"] = best is not None
        yield [replace(delta, choice=0) for delta in said[best or 0]]

    def close(self) -> bool:
        """As `Answer.close`."""
        return self._answer.close()
