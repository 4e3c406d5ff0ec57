"""Learning from pairs of answers on any checkpoint: `model.start=DIR data.files=PAIRS`."""

from pathlib import Path

from llavakit.model.settings import ModelConfig
from llavakit.train.pair_settings import PreferenceConfig
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


def _preferences(name: str, preference: PreferenceConfig) -> Run:
    return Run(
        name=name,
        out=Path("runs") / name,
        train=("language", "newline"),  # the released runs keep the connector as it is
        model=ModelConfig(start=Path("runs/demo")),
        preference=preference,
        optim=OptimConfig(lr=LearningRates(language=RATE, newline=RATE), warmup=0.1),
        save_every=100,
    )
