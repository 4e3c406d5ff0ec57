"""Learning to judge on any checkpoint: `model.start=DIR data.files=FILE`, records as LLaVA-Critic-113k has them."""

from pathlib import Path

from llavakit.data.settings import DataConfig
from llavakit.model.settings import ModelConfig
from llavakit.train.policy_settings import Algorithm, PolicyConfig
from llavakit.train.reward_terms import Exact, Format, RewardsConfig
from llavakit.train.run import Run
from llavakit.train.settings import LearningRates, OptimConfig

R1_RATE = 1e-6  # LLaVA-Critic-R1's, for whole models of 7B and 11B, the tower included
RATE = 2e-6  # LLaVA-Critic's, of whole models of 7B and 72B; small ones take far more


def critic() -> Run:
    """Prompts and verdicts on any checkpoint: model.start=DIR data.files=FILE. Connector and decoder, 2e-6."""
    return Run(
        name="critic",
        out=Path("runs") / "critic",
        train=("connector", "language", "newline"),
        model=ModelConfig(start=Path("runs/demo")),
        optim=OptimConfig(lr=LearningRates(connector=RATE, language=RATE, newline=RATE)),
        save_every=500,
    )


def critic_r1() -> Run:
    """Own verdicts on labelled pairs, by GRPO: 0.9 for the right box, 0.1 for thinking before it (Critic-R1).

    arXiv 2509.00676 and its published configuration: eight answers to 256 prompts, in two steps. It samples with
    top_p 0.99; here from the whole distribution, which is the one the loss is told of.
    """
    rewards = RewardsConfig(
        terms={"exact": Exact(weight=0.9, take="boxed"), "format": Format(weight=0.1, style="think_boxed")}
    )
    return Run(
        name="critic-r1",
        out=Path("runs") / "critic-r1",
        train=("tower", "connector", "language", "newline"),
        model=ModelConfig(start=Path("runs/demo")),
        data=DataConfig(tokens=8192),
        policy=PolicyConfig(
            algorithm=Algorithm(kl_coef=0.01), rewards=rewards, prompts=256, answers=8, minibatches=2,
            max_tokens=2048,
        ),
        optim=OptimConfig(
            lr=LearningRates(tower=R1_RATE, connector=R1_RATE, language=R1_RATE, newline=R1_RATE),
            weight_decay=0.01, warmup=0.0, final=1.0, epochs=15,
        ),
        checkpointing=True,
        save_every=50,
    )  # fmt: skip
