"""Answers of the model as it is now, by the engine: tokens in, tokens out."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import islice

import torch
from torch import Tensor

from llavakit.align.value import NAME as VALUE
from llavakit.core.errors import ConfigError
from llavakit.data.encode import Sample
from llavakit.engine.decoder import ModuleDecoder, fuse
from llavakit.engine.engine import Engine
from llavakit.engine.request import Event
from llavakit.engine.sampler import Sampling
from llavakit.model.adapters import merged_weights
from llavakit.model.build import build
from llavakit.model.checkpoint import Checkpoint
from llavakit.model.llava import PARTS, Llava
from llavakit.model.rope import cast
from llavakit.text.reply import Reply
from llavakit.train.freezing import is_trained
from llavakit.train.policy_settings import PolicyConfig
from llavakit.train.run import Run
from llavakit.train.sharding import gather_full, is_sharded, reshard

AHEAD = 128  # answers that are asked for before others have ended: twice what the engine says side by side


@dataclass
class Sampled:
    """One answer, its end token included where it came."""

    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)  # of the model, at temperature 1
    text: str = ""
    finish: str = ""  # "stop" or "length", when it has come to its end


class Sampler:
    """Samples from the model that learns. `copy` has weights of its own, which `refresh` brings up to date."""

    def __init__(self, run: Run, policy: PolicyConfig, checkpoint: Checkpoint) -> None:
        self.policy, self.learner, self.tokenizer = policy, checkpoint.model, checkpoint.tokenizer
        template = checkpoint.card.prompt()
        self.stops = self.tokenizer.stop_strings(template)
        self.stop_ids = self.tokenizer.stop_ids(template)
        self.shared = policy.engine == "shared"
        self.bf16 = run.precision == "bf16"
        model = self._shared_model() if self.shared else _copy(run, checkpoint, bf16=self.bf16)
        decoder = ModuleDecoder(model) if self.shared else fuse(model, kernels="auto", release=True)
        training = model.training
        self.engine = Engine(model, self.stop_ids, tokenizer=self.tokenizer, decoder=decoder)
        model.train(training)

    def _shared_model(self) -> Llava:
        if is_sharded(self.learner):
            raise ConfigError(
                "policy.engine=shared: no rank of a sharded model can answer alone; use copy, or parallel.mode=ddp"
            )
        return self.learner

    def refresh(self) -> None:
        """Take the weights that the model has now. Every rank of a sharded model calls it."""
        self.engine.refresh({} if self.shared else trained_weights(self.learner))

    def answers(self, asked: Iterable[tuple[Sample, int]]) -> list[list[Sampled]]:
        """`policy.answers` answers to each prompt; drawn from its seed on, whoever runs beside it.

        Prompts are taken as the engine comes to them, so that the pictures of a few are in memory.
        """
        training, failed = self.learner.training, list[Exception]()
        self.learner.eval()
        ahead, groups, open_groups = iter(asked), list[list[Sampled]](), list[list[Sampled]]()
        most = max(1, AHEAD // self.policy.answers)
        with torch.autocast(self.learner.device.type, torch.bfloat16, enabled=self.shared and self.bf16):
            while True:
                for prompt, seed in islice(ahead, most - len(open_groups)):
                    groups.append(self._ask(prompt, seed, failed))
                    open_groups.append(groups[-1])
                if not self.engine.busy:
                    break
                self.engine.step()
                open_groups = [group for group in open_groups if any(not each.finish for each in group)]
        self.learner.train(training)
        if failed:
            raise failed[0]
        return groups

    def _ask(self, prompt: Sample, seed: int, failed: list[Exception]) -> list[Sampled]:
        """Answers that will be filled while the engine steps."""
        policy = self.policy
        sampling = Sampling(
            temperature=policy.temperature, top_p=policy.top_p, max_tokens=policy.max_tokens, seed=seed,
            n=policy.answers, logprobs=0, ignore_end=True,
        )  # fmt: skip
        replies = [Reply(self.tokenizer, self.stops) for _ in range(policy.answers)]
        found = [Sampled() for _ in replies]
        is_cut = [False] * policy.answers

        def ends(choice: int, token: int) -> bool:
            """The end is said like any other token: it is learned too."""
            replies[choice].add(token)
            is_cut[choice] = policy.cut_at is not None and policy.cut_at in replies[choice].text
            return token in self.stop_ids or replies[choice].ended or is_cut[choice]

        def listen(event: Event) -> None:
            if event.error is not None:
                failed.append(event.error)
            answer = found[event.choice]
            if event.token is not None:
                assert event.logprob is not None
                answer.ids.append(event.token)
                answer.logprobs.append(event.logprob)
            if event.finish is not None:
                replies[event.choice].finish()
                answer.text = replies[event.choice].text.strip()
                answer.finish = "length" if is_cut[event.choice] else event.finish

        self.engine.submit(self.engine.prepare(prompt, sampling), listen, ends)
        return found


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
    if run.model.lora is not None and run.model.lora.four_bit:
        raise ConfigError(
            "policy.engine=copy would hold the decoder a second time, not in four bits; use policy.engine=shared"
        )
    start = run.model.start if checkpoint.adapter is None else checkpoint.adapter.base
    model = build(run.model.model_copy(update={"start": start, "lora": None})).model
    model.requires_grad_(False)
    if bf16:
        cast(model.language, torch.bfloat16)
        for part in (model.tower, model.connector, model.newline):
            part.to(torch.bfloat16)
    return model.to(checkpoint.model.device)
