"""The loop: ask the model, run what it calls, tell it what came of it, until it answers or a bound is reached.

Every turn is an event of the run, kept before it is shown. A run ends with an answer in any case; what no call gave
is never told as if one had.
"""

import json
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from threading import Event as Flag

from llavakit.agent.asking import Asking
from llavakit.agent.budget import cut
from llavakit.agent.conclusion import conclude
from llavakit.agent.events import (
    CallMade,
    Decided,
    Event,
    Forced,
    Piece,
    Returned,
    Running,
    Said,
    Unread,
    Waiting,
)
from llavakit.agent.forms import Form
from llavakit.agent.openai_calls import ToolCaller
from llavakit.agent.policy import Decision, Kept, Policy, Subject, decide
from llavakit.agent.run import BETWEEN, Run, card_digest
from llavakit.agent.running import run_calls
from llavakit.agent.state import Step
from llavakit.agent.telling import tell
from llavakit.core.errors import DataError
from llavakit.engine.responder import GREEDY, Responder
from llavakit.engine.sampler import Sampling
from llavakit.text.calls import Call, Card, Result, ToolError, read_arguments
from llavakit.text.conversation import Conversation
from llavakit.tools.registry import Registry

Ask = Callable[
    [Call, Card, str], Decision | None
]  # a person's word about a call, and why it is asked; None: not now


class Agent:
    """A model with tools. It has one run at a time."""

    def __init__(
        self,
        responder: Responder,
        registry: Registry,
        form: Form,
        *,
        policy: Policy | None = None,
        kept: Kept | None = None,
        ask: Ask | None = None,
        sampling: Sampling = GREEDY,
        own_system: str = "",
        holds_calls: bool = False,
        stop: Flag | None = None,
    ) -> None:
        """`ask` is a person; without one, a call that needs one makes the run wait.

        `own_system` is what the template says where nobody else does. `holds_calls`: the responder is our engine,
        which can hold calls in free text to the schemas of their tools. `stop` may be set by another thread: then
        no tool is waited for any more.
        """
        self.responder, self.registry, self.form = responder, registry, form
        self.policy, self.kept, self.ask = policy or Policy(), kept, ask
        self.sampling, self.own_system, self.holds_calls = sampling, own_system, holds_calls
        self._stop = stop or Flag()
        self._asked: Asking | None = None

    def go(self, run: Run) -> Iterator[Event | Piece]:
        """Everything that happens, until the run has its answer or waits for a person."""
        state = run.state
        while state.answered is None:
            step = state.steps[-1] if state.steps else None
            if step is not None and step.pending:
                yield from self._finish(run, step)
                if state.waiting is not None:
                    return
            elif step is not None and (step.said.last or not (step.calls or step.unread)):
                yield from run.keep(*self._heard(run, step))
            else:
                if state.forced is None and (why := self._spent(run)):
                    yield from run.keep(Forced(why=why))
                yield from self._ask(run)

    def tell(self, run: Run) -> Conversation:
        """The conversation as the model sees it now."""
        return tell(run, self.form, self._cards(run), self.own_system)

    def _spent(self, run: Run) -> str:
        """Which bound is reached; empty while none is."""
        budget, state = run.state.begun.budget, run.state
        if len(state.steps) >= budget.steps:
            return f"{budget.steps} steps are used up"
        if state.num_calls >= budget.calls:
            return f"{budget.calls} calls are used up"
        if state.seconds >= budget.seconds:
            return _late(budget.seconds)
        return ""

    def _ask(self, run: Run) -> Iterator[Event | Piece]:
        """One text of the model."""
        last, budget = run.state.forced is not None, run.state.begun.budget
        seconds = budget.answer_seconds if last else budget.seconds - run.state.seconds
        said = yield from self._listen(run, () if last else self._cards(run), last=last, seconds=seconds)
        yield from run.keep(said)

    def _heard(self, run: Run, step: Step) -> Sequence[Event]:
        """What a text of the model comes to: calls and complaints about them, or the answer."""
        said, cards = step.said, () if step.said.last else self._cards(run)
        if said.finish != "stop" and not said.last:
            why = _late(run.state.begun.budget.seconds) if said.finish == "time" else said.finish
            return Unread(problem="this was not finished"), Forced(why=why)
        heard = self.form.read(said.text, cards)
        if said.last or (heard.words and not (heard.calls or heard.problems)):
            return (conclude(run.state, heard.words, said.finish),)
        servers = {card.name: card.server for card in cards}
        made = [
            CallMade(
                id=f"call_{number}",
                name=call.name,
                arguments=call.arguments,
                server=servers.get(call.name, ""),
            )
            for number, call in enumerate(heard.calls, 1 + len(run.state.calls()))
        ]
        problems = heard.problems if made or heard.problems else ("neither a call nor an answer",)
        return *made, *(Unread(problem=problem) for problem in problems)

    def _cards(self, run: Run) -> Sequence[Card]:
        return self.registry.cards_for(run.desk.unit)

    def _sampling(self, cards: Sequence[Card]) -> Sampling:
        """How the model speaks: held to a schema, or its calls, where the form has one and the engine can."""
        schema = self.form.schema(cards)
        if schema is not None:
            return self.sampling.model_copy(update={"json_schema": schema})
        calls = self.form.call_schema(cards) if self.holds_calls else None
        return self.sampling if calls is None else self.sampling.model_copy(update={"call_schema": calls})

    def _listen(
        self, run: Run, cards: Sequence[Card], *, last: bool, seconds: float
    ) -> Generator[Piece, None, Said]:
        """The model's next text, in pieces and whole."""
        begun, sampling = time.monotonic(), self._sampling(cards)
        if self._asked is not None and not self._asked.over(
            seconds
        ):  # it hangs: two at once are too much for it
            return Said(text="", finish="time", last=last, seconds=time.monotonic() - begun)
        try:
            model = self.responder
            if last and isinstance(model, ToolCaller):
                model = model.closing()
            self._asked = asking = Asking(model, self.tell(run), sampling, seconds=seconds)
            for piece in asking:
                yield Piece(text=piece)
            text, finish = asking.text, asking.finish
        except DataError as error:  # the conversation has outgrown the model, say
            text, finish = "", f"the model could not be asked: {error}"
        return Said(text=text, finish=finish, last=last, seconds=time.monotonic() - begun)

    def _finish(self, run: Run, step: Step) -> Iterator[Event]:
        """Decide about the step's calls, run those that may, and note what came of all of them."""
        for call in step.pending:
            if call.id not in step.decided:
                yield from self._decide(run, call)
                if run.state.waiting is not None:
                    return
        ready = []
        for call in step.pending:
            decided = step.decided[call.id]
            arguments = json.dumps(decided.arguments) if decided.do == "modify" else call.arguments
            made = Call(call.name, arguments, call.id)
            if decided.do not in ("approve", "modify"):
                error = f"not called: {decided.why or NO[decided.by]}"
                yield from run.keep(self._returned(run, Result(made, error=error)))
            elif call.id in step.running and not self._harmless(call.name):
                error = "the run was interrupted during this call; whether it was done is not known"
                yield from run.keep(self._returned(run, Result(made, error=error)))
            else:
                ready.append(made)
                if call.id not in step.running:
                    yield from run.keep(Running(id=call.id))
        budget = run.state.begun.budget
        seconds = max(min(budget.tool_seconds, budget.seconds - run.state.seconds), 0.0)
        results = run_calls(
            self.registry, run.desk, ready, seconds=seconds, tries=budget.tries, stop=self._stop
        )
        for result in results:
            yield from run.keep(self._returned(run, result))

    def _harmless(self, name: str) -> bool:
        """Whether a call may be done again: of our own tools, those that change nothing."""
        tool = self.registry.tools.get(name)
        return tool is None or (tool.card.read_only and not tool.card.server)

    def _decide(self, run: Run, call: CallMade) -> Iterator[Event]:
        decision = self._decision(run, call)
        if decision.do == "ask":
            tool = self.registry.tools[call.name]
            made = Call(call.name, call.arguments, call.id)
            answer = None if self.ask is None else self.ask(made, tool.card, decision.why)
            if answer is None:
                yield from run.keep(Waiting(id=call.id, why=decision.why))
                return
            decision = replace(answer, by="person")
            if self.kept is not None:
                self.kept.pin(_subject(call, tool.card), decision.do if decision.lasting else None)
        yield from run.keep(
            Decided(
                id=call.id,
                do=decision.do,
                why=decision.why,
                by=decision.by,
                arguments=dict(decision.arguments),
            )
        )
        if decision.do == "stop" and run.state.forced is None:
            yield from run.keep(Forced(why=decision.why or "the run was stopped"))

    def _decision(self, run: Run, call: CallMade) -> Decision:
        """What bounds, rules and earlier decisions say."""
        state, budget = run.state, run.state.begun.budget
        if state.forced is not None:
            return Decision("reject", state.forced, by="loop")
        decided = state.steps[-1].decided.values()
        if state.num_calls + sum(each.do in ("approve", "modify") for each in decided) >= budget.calls:
            return Decision("reject", f"{budget.calls} calls are used up", by="loop")
        if state.repeats(call.name, call.arguments) >= budget.same - 1:
            why = f"{call.name} has given the same result to the same call {budget.same - 1} times"
            return Decision("stop", why, by="loop")
        tool = self.registry.tools.get(call.name)
        if tool is None:
            return Decision("approve", by="loop")  # the registry says what there is instead
        return decide(self.policy, self.kept, _subject(call, tool.card))

    def _returned(self, run: Run, result: Result) -> Returned:
        """A result as an event: a long text is put aside, and what is new on the desk is noted."""
        most, text = run.state.begun.budget.result_tokens, result.text
        if cut(text, most, "") != text:
            text = cut(text, most, run.desk.add_text(text, made_by=result.call.name))
        new = {name: known for name, known in list(run.desk.names.items()) if name not in run.state.names}
        return Returned(
            id=result.call.id, value=result.value, pictures=result.pictures, error=result.error, text=text,
            names=new, seconds=result.seconds,
        )  # fmt: skip


NO = {
    "policy": "a rule forbids it",
    "person": "a person said no",
    "kept": "a person said no",
    "loop": "a bound",
}


def _subject(call: CallMade, card: Card) -> Subject:
    """What is decided about. An outside tool goes by the name that its server gave it."""
    arguments = None
    with suppress(ToolError):
        arguments = read_arguments(Call(call.name, call.arguments))
    name = card.name.removeprefix(f"{card.server}{BETWEEN}") if card.server else card.name
    return Subject(name, card.server, arguments, card.read_only, card_digest(card))


def _late(seconds: float) -> str:
    return f"{seconds:g} seconds are used up"
