"""Learning from judged answers on any checkpoint: `model.start=DIR data.files=PAIRS`; or from its own."""

from pathlib import Path

from llavakit.model.settings import ModelConfig
from llavakit.train.kto_settings import KtoConfig
from llavakit.train.pair_settings import PreferenceConfig
from llavakit.train.policy_settings import PolicyConfig
from llavakit.train.reward_settings import RewardModelConfig
from llavakit.train.run import Run
from llavakit.train.settings import LearningRates, OptimConfig

REWARD_RATE = 2e-5  # LLaVA-RLHF's, for adapters
RATE = 5e-7  # LLaVA-NeXT's and LLaVA-Hound's, for whole models; adapters take ten to a hundred times as much


def dpo() -> Run:
    """Pairs of answers on any checkpoint: model.start=DIR data.files=FILE. Language model, DPO with beta 0.1."""
    return _preferences("dpo", PreferenceConfig())


def mpo() -> Run:
    """As dpo, with MPO's three terms: preference, quality and likelihood."""
    return _preferences("mpo", PreferenceConfig.model_validate({"loss": "mpo"}))


def iterative_dpo() -> Run:
    """Own answers to questions in three rounds, the best of five against the worst, by policy.rewards."""
    return _preferences("iterative-dpo", PreferenceConfig()).model_copy(
        update={
            "policy": PolicyConfig(
                learn="pairs", prompts=256, answers=5, temperature=0.7, top_p=0.9, minibatches=32, tries=1
            ),
            "optim": OptimConfig(
                lr=LearningRates(language=RATE, newline=RATE), warmup=0.1, steps=96, cycles=3
            ),
        }
    )


def online_dpo() -> Run:
    """As iterative-dpo, with new answers for every step, measured against the run's start."""
    return _preferences("online-dpo", PreferenceConfig()).model_copy(
        update={"policy": PolicyConfig(learn="pairs", anchor="start", prompts=16, answers=4)}
    )


def rejection_sft() -> Run:
    """SFT on the best of eight own answers to every question, by policy.rewards (rejection sampling)."""
    return _preferences("rejection-sft", PreferenceConfig()).model_copy(
        update={"preference": None, "policy": PolicyConfig(learn="best", at_least=0.5, prompts=64)}
    )


def reward() -> Run:
    """A reward model of any checkpoint: model.start=DIR data.files=PAIRS, with facts reward.facts={file: FILE}."""
    return Run(
        name="reward",
        out=Path("runs/reward"),
        train=("language", "newline", "score"),  # as released: the connector stays as it is
        model=ModelConfig(start=Path("runs/demo")),
        reward=RewardModelConfig(),
        optim=OptimConfig(lr=LearningRates(language=REWARD_RATE, newline=REWARD_RATE, score=REWARD_RATE)),
        save_every=50,
    )


def kto() -> Run:
    """Single answers that are wanted or not, or pairs, on any checkpoint: model.start=DIR data.files=FILE. KTO."""
    return _preferences("kto").model_copy(update={"kto": KtoConfig()})


def _preferences(name: str, preference: PreferenceConfig | None = None) -> Run:
    return Run(
        name=name,
        out=Path("runs") / name,
        train=("language", "newline"),  # the released runs keep the connector as it is
        model=ModelConfig(start=Path("runs/demo")),
        preference=preference,
        optim=OptimConfig(lr=LearningRates(language=RATE, newline=RATE), warmup=0.1),
        save_every=100,
    )
