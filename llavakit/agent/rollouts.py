"""Answers that call tools as something to learn from: the loop of calls as a sampler of the policy's rounds.

A rollout is a run of the same loop that answers people, with the model's tokens kept as they were drawn. What comes
back from a tool is tokenised alone and goes on from those tokens, so the learner reads what the sampler read, and
learns the model's own tokens alone. The engine steps in the caller's thread; every run waits for it in its own.
"""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from queue import Empty, SimpleQueue
from tempfile import TemporaryDirectory

from llavakit.agent.budget import Budget
from llavakit.agent.forms import FORMS
from llavakit.agent.loop import Agent
from llavakit.agent.opening import AgentConfig
from llavakit.agent.responder import begin_talk, nobody, question_of, system_of
from llavakit.agent.telling import first_turns
from llavakit.align.drawn import Sampled
from llavakit.align.exchanges import CALLS, FAILED, USED, Exchange
from llavakit.align.experience import go_on
from llavakit.align.prompts import Prompt
from llavakit.align.sampler import AHEAD, EngineSampler, Sampler
from llavakit.core.errors import DataError
from llavakit.core.types import Segment
from llavakit.data.encode import Sample
from llavakit.data.loader import Loader
from llavakit.engine.responder import GREEDY, Answer, Responder
from llavakit.engine.sampler import Sampling
from llavakit.text.conversation import Conversation, Message, Text, Video, system
from llavakit.tools.desk import PREFIXES
from llavakit.tools.registry import Registry
from llavakit.tools.skills import open_tools
from llavakit.train.policy_settings import PolicyConfig, ToolLoop
from llavakit.vision.image import image_size

AT_ONCE = 32  # runs under way; the engine says what they ask side by side
NO_VIDEOS = "tools are for pictures: answers that call them take no videos"
DAY = 86400.0  # no bound: what a run comes to must not depend on how fast the machine is


@dataclass(frozen=True, eq=False)
class Asked:
    """A turn that the engine is to say, and where its answer is waited for."""

    sample: Sample
    seed: int
    answer: "Future[Sampled]" = field(default_factory=Future)


class ToolSampler(Sampler):
    """Draws answers whose calls are run. Without a call, the answer is the one that the plain sampler draws."""

    def __init__(
        self, policy: PolicyConfig, loop: ToolLoop, engine: EngineSampler, loader: Loader, registry: Registry
    ) -> None:
        self.policy, self.engine, self.registry = policy, engine, registry
        self.encoder, self.most = loader.encoder, loader.config.tokens
        budget = Budget(
            steps=loop.steps, calls=loop.calls, seconds=DAY, answer_seconds=DAY, tool_seconds=loop.seconds, tries=1,
            result_tokens=loop.result_tokens, pictures=loop.pictures,
        )  # fmt: skip
        self.config = AgentConfig(form=loop.form, boxes=loop.boxes, budget=budget)
        self.form = FORMS[loop.form]
        self._questions: SimpleQueue[Asked | None] = SimpleQueue()  # None: a run has ended
        self._over = False  # the round; whatever still runs of it is not answered

    def refresh(self) -> None:
        """As `Sampler`."""
        self.engine.refresh()

    def close(self) -> None:
        """End the tools' processes."""
        self.registry.close()

    def tell(self, talk: Conversation) -> Conversation:
        """As the loop tells the model, with the record's own pictures. DataError for videos."""
        if len(talk.media) > len(talk.images):
            raise DataError(NO_VIDEOS)
        question, history = question_of(talk)
        named = {
            f"{PREFIXES['image']}_{number}": (image, image_size(image.source))
            for number, image in enumerate(talk.images, 1)
        }
        own = system_of(talk)
        cards = self.registry.cards_for(self.config.boxes)
        head = self.form.system(cards, self.encoder.template.system if own is None else own)
        turns = first_turns(question, history, named, self.form)
        return Conversation((*([system(head)] if head else []), *turns))

    def answers(self, asked: Iterable[tuple[Prompt, int]]) -> list[list[Sampled]]:
        """As `Sampler`. An error of the model or of the machine is raised, one of a tool is a result."""
        ahead, groups = iter(asked), list[list[Future[Sampled]]]()
        under_way = list[Future[Sampled]]()
        most = max(1, AHEAD // self.policy.answers)
        waiting, self._over = set[Asked](), False
        with (
            self.engine.drawing(),
            TemporaryDirectory(prefix="llavakit-") as folder,
            ThreadPoolExecutor(AT_ONCE, thread_name_prefix="llavakit-run") as pool,
        ):
            config = self.config.model_copy(update={"runs": Path(folder)})
            try:
                while True:
                    free = most - -(-len(under_way) // self.policy.answers)
                    for prompt, seed in islice(ahead, max(free, 0)):
                        group = [
                            pool.submit(self._run, prompt, seed + choice, config)
                            for choice in range(self.policy.answers)
                        ]
                        for run in group:
                            run.add_done_callback(lambda _: self._questions.put(None))
                        groups.append(group)
                        under_way += group
                    if not under_way:
                        return [[run.result() for run in group] for group in groups]
                    self._serve(waiting)
                    for run in under_way:
                        if run.done():
                            run.result()  # an error ends the round at once
                    under_way = [run for run in under_way if not run.done()]
            finally:
                pool.shutdown(wait=False, cancel_futures=True)
                self._refuse(waiting)

    def ask(self, sample: Sample, seed: int) -> Sampled:
        """A turn that goes on from these tokens; waits for it. Called by runs, in their threads."""
        asked = Asked(sample, seed)
        self._questions.put(asked)
        if self._over:
            raise DataError("the round is over")
        return asked.answer.result()

    def _serve(self, waiting: set[Asked]) -> None:
        """Take what runs ask, and step; where there is nothing to step, wait until a run asks or ends."""
        with suppress(Empty):
            if not self.engine.engine.busy:
                self._begin(self._questions.get(), waiting)
            while True:
                self._begin(self._questions.get_nowait(), waiting)
        if self.engine.engine.busy:
            self.engine.engine.step()

    def _begin(self, asked: Asked | None, waiting: set[Asked]) -> None:
        if asked is None:
            return

        def failed(error: Exception) -> None:
            waiting.discard(asked)
            if not asked.answer.done():
                asked.answer.set_exception(error)

        def ended() -> None:
            waiting.discard(asked)
            if not asked.answer.done():
                asked.answer.set_result(turn)

        waiting.add(asked)
        try:
            [turn] = self.engine.begin(asked.sample, asked.seed, 1, failed, ended)
        except DataError as error:  # it cannot be asked: the run hears why, and ends
            failed(error)

    def _refuse(self, waiting: set[Asked]) -> None:
        """Nothing is waited for any more; does nothing where all runs have ended."""
        self._over = True
        with suppress(Empty):
            while True:
                asked = self._questions.get_nowait()
                if asked is not None:
                    waiting.add(asked)
        for asked in waiting:
            if not asked.answer.done():
                asked.answer.set_exception(DataError("the round is over"))

    def _run(self, prompt: Prompt, seed: int, config: AgentConfig) -> Sampled:
        """One rollout."""
        voice = Voice(self, prompt, seed)
        agent = Agent(voice, self.registry, self.form, ask=nobody, own_system=self.encoder.template.system)
        with begin_talk(agent, prompt.asked, config) as run:
            for _ in agent.go(run):
                pass
            assert run.state.answered is not None  # nobody is waited for
            calls = [back for _, back in run.state.calls() if back is not None]
            failed = sum(back.error is not None for back in calls)
            counts = {CALLS: float(len(calls)), USED: float(len(calls) - failed), FAILED: float(failed)}
            if not voice.turns:  # not even the prompt could be asked
                raise DataError(f"{prompt.key}: {run.state.steps[-1].said.finish}")
            said, cards = run.state.steps[-1].said, self.registry.cards_for(self.config.boxes)
            own = self.form.read(said.text, () if said.last else cards).words
            # Where the model has no words, a run tells what its calls gave: not the model's to be praised for.
            text = run.state.answered.plain if own else ""
            return voice.sampled(text, counts, whole=said.finish == "stop")


class Voice(Responder):
    """The model in one run: what it is asked goes on from the tokens that it said."""

    def __init__(self, sampler: ToolSampler, prompt: Prompt, seed: int) -> None:
        self._sampler, self._prompt, self._seed = sampler, prompt, seed
        self._sample = prompt.sample  # up to where the newest turn began
        self.turns: list[Sampled] = []
        self._replies: list[Message] = []

    def stream(self, conversation: Conversation, *, sampling: Sampling = GREEDY) -> Iterator[str]:
        """The next turn. DataError where there is no room for it, or where the turn before was cut."""
        policy, encoder = self._sampler.policy, self._sampler.encoder
        sample = self._sample
        if self.turns:
            if self.turns[-1].finish != "stop":
                raise DataError("the turn before this one was cut")
            reply = _held(conversation.messages[-1])
            sample = go_on([sample, _said(self.turns[-1]), encoder.encode_reply(reply)])
        else:
            told = [message.text for message in conversation.messages]
            assert told == [message.text for message in self._prompt.talk.messages], "asked as it was encoded"
        if sample.num_tokens + policy.max_tokens > self._sampler.most:
            raise DataError(
                f"{sample.num_tokens} tokens and an answer do not fit data.tokens={self._sampler.most}"
            )
        turn = self._sampler.ask(sample, self._seed + policy.answers * len(self.turns))
        if self.turns:
            self._replies.append(reply)
        self._sample, self.turns = sample, [*self.turns, turn]
        yield turn.text

    def sampled(self, text: str, counts: dict[str, float], *, whole: bool) -> Sampled:
        """All that was said, as one answer; `text` is what it comes to, `whole` whether nothing more was asked."""
        exchanges = tuple(
            Exchange(len(turn.ids), turn.text, reply)
            for turn, reply in zip(self.turns, self._replies, strict=False)
        )
        ids = [token for turn in self.turns for token in turn.ids]
        logprobs = [number for turn in self.turns for number in turn.logprobs]
        finish = "stop" if whole and self.turns[-1].finish == "stop" else "length"
        return Sampled(ids, logprobs, text, finish, exchanges, counts)

    def answers(self, conversations: Sequence[Conversation], *, sampling: Sampling = GREEDY) -> list[Answer]:
        """One after the other."""
        return [Answer("".join(self.stream(talk, sampling=sampling)), "stop") for talk in conversations]

    def num_tokens(self, answer: str) -> int | None:
        """Not asked for here."""
        return None

    def describe(self, video: Video) -> str:
        """A run takes no videos."""
        raise DataError(NO_VIDEOS)


def _said(turn: Sampled) -> Sample:
    return Sample(tuple(turn.ids), (1.0,) * len(turn.ids), (Segment(0, len(turn.ids)),))


def _held(reply: Message) -> Message:
    """With the bytes of its pictures, whose files go with the run."""
    parts = [
        part
        if isinstance(part, Text) or not isinstance(part.source, Path)
        else replace(part, source=part.source.read_bytes())
        for part in reply.parts
    ]
    return replace(reply, parts=tuple(parts))


def open_loop(policy: PolicyConfig, loop: ToolLoop, engine: EngineSampler, loader: Loader) -> ToolSampler:
    """What `open_policy` (llavakit/align/opening.py) asks for where `policy.tools` names some."""
    return ToolSampler(policy, loop, engine, loader, open_tools(loop.names))
