"""Settings of learning from single answers that are wanted or not. Apart from the loss, which needs PyTorch."""

from pydantic import Field

from llavakit.core.config import Config


class KtoConfig(Config):
    """KTO (arXiv 2402.01306). `data.files` are single answers with a label, or pairs of any kind."""

    beta: float = Field(0.1, gt=0, le=1000)  # how strongly the reference holds
    desirable_weight: float = Field(1.0, ge=0, le=1e6)  # of wanted answers
    undesirable_weight: float = Field(1.0, ge=0, le=1e6)  # and of unwanted ones: bring (weight x count) close
