"""Learning to judge on any checkpoint: `model.start=DIR data.files=FILE`, records as LLaVA-Critic-113k has them."""

from pathlib import Path

from llavakit.model.settings import ModelConfig
from llavakit.train.run import Run
from llavakit.train.settings import LearningRates, OptimConfig

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
