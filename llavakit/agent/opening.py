"""What a run is opened with: tools of ours and of outside servers, rules, and what the model brings along."""

import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from pydantic import Field

from llavakit.agent.budget import Budget
from llavakit.agent.forms import FORMS, Form, OpenAI
from llavakit.agent.openai_calls import ToolCaller
from llavakit.agent.policy import Kept, Policy, load_policy
from llavakit.agent.run import Run
from llavakit.agent.server_config import load_servers
from llavakit.agent.servers import Servers
from llavakit.chat import Chat
from llavakit.core.config import Config
from llavakit.core.errors import ConfigError, pick
from llavakit.core.progress import say
from llavakit.engine.asked import WorkerResponder
from llavakit.engine.responder import Responder
from llavakit.remote import Remote
from llavakit.text.calls import Card
from llavakit.tools.registry import Registry, Tool
from llavakit.tools.skills import open_tools
from llavakit.vision.boxes import Unit
from llavakit.vision.plan import ImageConfig


class AgentConfig(Config):
    """An agent of which a server has many runs."""

    form: Literal["hermes", "llava_plus", "json", "openai"] = "hermes"
    tools: tuple[str, ...] | None = None  # of ours; default: all
    mcp: Path | None = None  # a file of outside servers
    policy: Path | None = None  # a file of rules; what they ask about is refused, for nobody is there
    boxes: Unit = "0-1"
    budget: Budget = Budget()
    runs: Path | None = None  # folder that keeps the runs; without it they are removed when they are answered
    at_once: int = Field(default=4, ge=1)  # requests whose runs go on side by side

    def rules(self) -> Policy:
        """Those of the file, or the default ones."""
        return Policy() if self.policy is None else load_policy(self.policy)

    def open(self) -> AbstractContextManager[Registry]:
        """The tools that are named; makes the folder of the runs."""
        if self.runs is not None:
            self.runs.mkdir(parents=True, exist_ok=True)
        log = Path(os.devnull) if self.runs is None else self.runs / "servers.log"
        return open_registry(self.tools, self.mcp, log=log)


@contextmanager
def open_registry(
    names: Sequence[str] | None, servers: Path | None, *, log: Path, more: Sequence[Tool] = ()
) -> Iterator[Registry]:
    """Our tools of these names (None: all), all tools of a file of servers, and `more`.

    A server that does not start is one line; its tools are not there.
    """
    registry = open_tools(names)
    try:
        if servers is None:
            yield Registry([*registry.tools.values(), *more])
            return
        log.parent.mkdir(parents=True, exist_ok=True)
        with Servers(load_servers(servers), log=log) as running:
            for problem in running.problems:
                say(problem)
            yield Registry([*registry.tools.values(), *running.tools, *more])
    finally:
        registry.close()


def read_policy(rules: Path | None, decisions: Path | None) -> tuple[Policy, Kept]:
    """The rules of a file, and the decisions that people made for good (by default in the home folder)."""
    home = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    kept = Kept(decisions or home / "llavakit" / "decisions.json")
    return (Policy() if rules is None else load_policy(rules)), kept


def form_of(run: Run) -> Form:
    """How the run's calls are written."""
    return pick(FORMS, run.state.begun.form, "form")


def can_hold(responder: Responder) -> bool:
    """Whether calls in its text can be held to schemas: by our engine, with the library for grammars."""
    return isinstance(responder, Chat | WorkerResponder) and find_spec("llguidance") is not None


def caller(responder: Responder, form: str, cards: Sequence[Card]) -> Responder:
    """Who is asked in this form: with `openai` a server that is told of the tools, and that alone has it."""
    if form != OpenAI.name:
        return responder
    if not isinstance(responder, Remote):
        raise ConfigError(
            "the form openai is for a server (--remote); a model here has hermes, llava_plus or json"
        )
    return ToolCaller(responder, cards)


def shown_as(responder: Responder) -> tuple[ImageConfig | None, str]:
    """How a local model sees pictures, and the system text of its template; a server says neither."""
    if isinstance(responder, Chat):
        return responder.encoder.image, responder.encoder.template.system
    return None, ""
