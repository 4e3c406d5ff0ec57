"""What makes a run with `policy` learn from its own answers: handed to `train` (train/loop.py) by who calls it."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from llavakit.align.choosing import open_objective
from llavakit.align.learner import Learner
from llavakit.align.pictures import Pictures, See
from llavakit.align.prompts import Prompts
from llavakit.align.remote_sampler import RemoteSampler
from llavakit.align.rewards.composer import Composer, OpenCritic
from llavakit.align.rewards.models import OpenResponder
from llavakit.align.sampler import EngineSampler, Sampler
from llavakit.align.shared_reward import open_beside
from llavakit.align.source import Rounds
from llavakit.align.value import ValueModel
from llavakit.core.errors import ConfigError, nearest
from llavakit.data.loader import Loader
from llavakit.model.checkpoint import Checkpoint
from llavakit.model.llava import Llava
from llavakit.train.freezing import is_trained
from llavakit.train.objectives import Objective
from llavakit.train.policy_objective import PolicyObjective
from llavakit.train.policy_settings import PolicyConfig, ToolLoop
from llavakit.train.precision import autocast
from llavakit.train.ranks import Ranks
from llavakit.train.reference import CopiedReference, switch_off_dropout
from llavakit.train.reward_terms import TOTAL
from llavakit.train.run import Run
from llavakit.train.source import Source

OpenLoop = Callable[[PolicyConfig, ToolLoop, EngineSampler, Loader], Sampler]


def open_policy(
    run: Run,
    checkpoint: Checkpoint,
    loader: Loader,
    reference: CopiedReference | None,
    newest: Path | None,
    ranks: Ranks,
    *,
    open_responder: OpenResponder | None = None,
    open_critic: OpenCritic | None = None,
    open_loop: OpenLoop | None = None,
) -> tuple[Objective, Source]:
    """Loss and source of batches, as `train` asks for them (train/source.py: OpenPolicy).

    `open_responder` opens the judges of rewards that have some, `open_critic` their critics; `open_loop` is what
    lets answers call tools (llavakit/agent/rollouts.py).
    """
    policy = run.policy
    assert policy is not None
    wanted = policy.algorithm.filter
    names = (*policy.rewards.terms, TOTAL)
    if wanted is not None and wanted not in names:
        raise ConfigError(
            f"policy.algorithm.filter={wanted} is no term of policy.rewards{nearest(wanted, names)}"
        )
    switch_off_dropout(checkpoint.model)
    pictures = Pictures(_frozen_tower(run, checkpoint.model))
    sampler = _open_sampler(run, policy, checkpoint, loader, ranks, pictures, open_loop)
    value = ValueModel(checkpoint) if policy.has_value else None
    begins = policy.algorithm.value.start
    if value is not None and newest is not None:
        value.load(newest)
    elif value is not None and begins is not None:
        value.begin_from(begins)
    learner = Learner(
        policy, checkpoint.model, loader, reference, ranks, pictures=pictures, value=value,
        precision=run.precision,
    )  # fmt: skip
    reward = Composer(
        policy.rewards,
        open_model=partial(open_beside, run, checkpoint),
        open_responder=open_responder,
        open_critic=open_critic,
    )
    prompts = Prompts(loader, policy.room, pictures, sampler.tell)
    rounds = Rounds(run, policy, prompts, sampler, learner, reward, ranks)
    return open_objective(run, policy) or PolicyObjective(policy, value), rounds


def _frozen_tower(run: Run, model: Llava) -> See | None:
    """features_NRC of tiles_NHWC, as a training step computes them; None where the tower learns."""

    @torch.inference_mode(False)  # a prompt may come up in a step of the engine, and is learned from later
    @torch.no_grad()
    def see(tiles_NHWC: Tensor) -> Tensor:
        with autocast(model, run.precision):
            features_NRC: Tensor = model.tower(tiles_NHWC.to(model.device))
        return features_NRC.cpu()

    return None if is_trained(model.tower) else see


def _open_sampler(
    run: Run,
    policy: PolicyConfig,
    checkpoint: Checkpoint,
    loader: Loader,
    ranks: Ranks,
    pictures: Pictures,
    open_loop: OpenLoop | None,
) -> Sampler:
    """Who answers: a server, or an engine here, whose answers may call tools."""
    if policy.rollouts is not None:
        return RemoteSampler(run, policy, policy.rollouts, checkpoint, ranks)
    engine = EngineSampler(run, policy, checkpoint, pictures)
    if policy.tools is None:
        return engine
    if open_loop is None:
        raise ConfigError("policy.tools needs somebody who runs tools; pass open_loop")
    return open_loop(policy, policy.tools, engine, loader)
