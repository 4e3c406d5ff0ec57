"""A reward model behind a URL: `llavakit serve --model REWARD_DIR`, or vLLM's server; by POST /pooling."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any

from llavakit.align.reward_model import Score, Unscorable, finite
from llavakit.core.errors import DataError, RemoteError
from llavakit.text.conversation import Conversation
from llavakit.wire import POOLING, Server, write_message

API_KEY = "LLAVAKIT_API_KEY"  # of the environment, and in no file of settings


class RemoteRewardModel:
    """Asks a server as `RewardModel` asks a model here."""

    def __init__(self, url: str, *, model_name: str | None = None, api_key: str | None = None) -> None:
        """Without `api_key` the one of the environment is sent, if there is one."""
        key = api_key or (os.environ.get(API_KEY) or "").split(" ")[0] or None
        self._server = Server(url, model_name=model_name, api_key=key)

    @cached_property
    def wants_facts(self) -> bool:
        """Whether the model was taught with facts; servers that do not say so serve none that was."""
        return bool(self._server.entry().get("wants_facts"))

    def scores(
        self, conversations: Sequence[Conversation], facts: Sequence[Sequence[str]] | None = None
    ) -> list[Score]:
        """A score for each conversation's last answer; none where there is no answer, or none that is a number."""
        known = [()] * len(conversations) if facts is None else facts
        with ThreadPoolExecutor(self._server.at_once) as pool:
            return list(pool.map(self._score, conversations, known))

    def close(self) -> None:
        """Give the connections back."""
        self._server.close()

    def _score(self, conversation: Conversation, facts: Sequence[str]) -> Score:
        try:
            messages = [write_message(message) for message in conversation.messages]
            body: dict[str, Any] = {"model": self._server.model_name, "messages": messages}
            if facts or self.wants_facts:  # an empty list withholds them on purpose
                body["facts"] = list(facts)
            answer = self._server.post(POOLING, body)
        except (DataError, RemoteError) as error:
            return Unscorable(str(error))
        return _read(answer)


def _read(answer: Any) -> Score:
    """The one number of an answer. What pools every token (vLLM's default) is no reward."""
    try:
        [entry] = answer["data"]
        [value] = entry["data"]
    except (KeyError, TypeError, ValueError):
        return Unscorable(f"not one number: {str(answer)[:200]}")
    return (
        finite(value) if isinstance(value, int | float) else Unscorable(f"not a number: {str(value)[:200]}")
    )
