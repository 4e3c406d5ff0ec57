"""Answers of the model as it is now, by the engine: tokens in, tokens out."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice

import torch
from torch import Tensor

from llavakit.align.drawn import Drawn, Sampled
from llavakit.align.pictures import Pictures, Shown
from llavakit.align.prompts import Prompt
from llavakit.align.value import NAME as VALUE
from llavakit.core.errors import ConfigError
from llavakit.data.encode import Sample
from llavakit.engine.decoder import ModuleDecoder, fuse
from llavakit.engine.engine import Engine
from llavakit.engine.request import Event
from llavakit.engine.sampler import Sampling
from llavakit.model.adapters import CARRIED, merged_weights
from llavakit.model.build import build
from llavakit.model.checkpoint import Checkpoint
from llavakit.model.llava import PARTS, Llava
from llavakit.model.rope import cast
from llavakit.text.conversation import Conversation
from llavakit.train.freezing import is_trained
from llavakit.train.policy_settings import PolicyConfig
from llavakit.train.run import Run
from llavakit.train.sharding import gather_full, is_sharded, reshard

AHEAD = 128  # answers that are asked for before others have ended: twice what the engine says side by side


class Sampler(ABC):
    """Who answers prompts for the model that learns."""

    @abstractmethod
    def refresh(self) -> None:
        """Take the weights that the model has now. Every rank calls it."""

    @abstractmethod
    def answers(self, asked: Iterable[tuple[Prompt, int]]) -> list[list[Sampled]]:
        """`policy.answers` answers to each prompt, drawn from its seed on, in the order of the prompts.

        Prompts are taken as they are come to, so that the pictures of a few are in memory.
        """

    def tell(self, talk: Conversation) -> Conversation:
        """How the model is asked what a record asks; its media stay as they are."""
        return talk

    def close(self) -> None:  # noqa: B027 (most hold nothing)
        """Let go of what it holds beside the model."""


class EngineSampler(Sampler):
    """Samples from the model that learns. `copy` has weights of its own, which `refresh` brings up to date."""

    def __init__(self, run: Run, policy: PolicyConfig, checkpoint: Checkpoint, pictures: Pictures) -> None:
        self.pictures = pictures
        self.policy, self.learner, self.tokenizer = policy, checkpoint.model, checkpoint.tokenizer
        self.template = checkpoint.card.prompt()
        self.shared = policy.engine == "shared"
        self.bf16 = run.precision == "bf16"
        model = self._shared_model() if self.shared else _copy(run, checkpoint, bf16=self.bf16)
        decoder = ModuleDecoder(model) if self.shared else fuse(model, kernels="auto", release=True)
        training = model.training
        stop_ids = self.tokenizer.stop_ids(self.template)
        with self._precise():  # it is tried out
            self.engine = Engine(model, stop_ids, tokenizer=self.tokenizer, decoder=decoder)
        model.train(training)

    def _shared_model(self) -> Llava:
        if is_sharded(self.learner):
            raise ConfigError(
                "policy.engine=shared: no rank of a sharded model can answer alone; use copy, or parallel.mode=ddp"
            )
        return self.learner

    def _precise(self) -> torch.autocast:
        """What modules that learn compute in; a copy has the right type by itself."""
        return torch.autocast(self.learner.device.type, torch.bfloat16, enabled=self.shared and self.bf16)

    def refresh(self) -> None:
        """As `Sampler`."""
        self.engine.refresh({} if self.shared else trained_weights(self.learner))

    def answers(self, asked: Iterable[tuple[Prompt, int]]) -> list[list[Sampled]]:
        """As `Sampler`; what is drawn is the same whoever runs beside it."""
        policy, failed = self.policy, list[Exception]()
        ahead, groups, open_groups = iter(asked), list[list[Sampled]](), list[list[Sampled]]()
        most = max(1, AHEAD // policy.answers)
        with self.drawing():
            while True:
                for prompt, seed in islice(ahead, most - len(open_groups)):
                    groups.append(self.begin(prompt.sample, seed, policy.answers, failed.append))
                    open_groups.append(groups[-1])
                if not self.engine.busy:
                    break
                self.engine.step()
                open_groups = [group for group in open_groups if any(not each.finish for each in group)]
        if failed:
            raise failed[0]
        return groups

    @contextmanager
    def drawing(self) -> Iterator[None]:
        """The model as it answers, while the engine steps."""
        training = self.learner.training
        self.learner.eval()
        try:
            with self._precise():
                yield
        finally:
            # Nothing runs any more: what keys, values and pictures took is free while the model learns.
            self.engine.abort("cancelled")
            self.learner.train(training)

    def begin(
        self,
        sample: Sample,
        seed: int,
        count: int,
        failed: Callable[[Exception], object],
        ended: Callable[[], object] = lambda: None,
    ) -> list[Sampled]:
        """`count` answers, filled while the engine steps; `failed` and `ended` hear how each comes out."""
        policy = self.policy
        sampling = Sampling(
            temperature=policy.temperature, top_p=policy.top_p, max_tokens=policy.max_tokens, seed=seed,
            n=count, logprobs=0, ignore_end=True,
        )  # fmt: skip
        drawn = [Drawn(self.tokenizer, self.template, policy.cut_at) for _ in range(count)]

        def ends(choice: int, token: int) -> bool:
            return drawn[choice].ends(token)

        def listen(event: Event) -> None:
            if event.error is not None:
                failed(event.error)
            if event.token is not None:
                assert event.logprob is not None
                drawn[event.choice].add(event.token, event.logprob)
            if event.finish is not None:
                drawn[event.choice].finish(event.finish)
                ended()

        request = self.engine.prepare(sample, sampling, album=Shown(self.pictures))
        self.engine.submit(request, listen, ends)
        return [each.answer for each in drawn]


@torch.no_grad()
def trained_weights(model: Llava) -> dict[str, Tensor]:
    """The weights of every part of which something learns, adapters merged, by the names a plain model has."""
    reshard(model)
    return {
        f"{name}.{key}": tensor
        for name in PARTS
        if is_trained(model.part(name))
        for key, tensor in merged_weights(model.part(name), gather_full)
        if not key.startswith(f"{VALUE}.")
    }


def _copy(run: Run, checkpoint: Checkpoint, *, bf16: bool) -> Llava:
    """The model that the run started from, with weights of its own and without adapters."""
    start = run.model.start if checkpoint.adapter is None else checkpoint.adapter.base
    model = build(run.model.model_copy(update={"start": start, "lora": None})).model
    for name in CARRIED:  # what adapters that the run starts from brought along; those of the base are others
        own = checkpoint.model.part(name).state_dict()
        model.part(name).load_state_dict({key: gather_full(tensor) for key, tensor in own.items()})
    model.requires_grad_(False)
    if bf16:
        cast(model.language, torch.bfloat16)
        for part in (model.tower, model.connector, model.newline):
            part.to(torch.bfloat16)
    return model.to(checkpoint.model.device)
