"""Settings of a reward model: what it is asked, what it is told, and what makes its scores good."""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from llavakit.core.config import Config
from llavakit.core.errors import ConfigError
from llavakit.data.facts import FactsConfig
from llavakit.text.grading import LEAD, Grading, read_suffix


class RewardModelConfig(Config):
    """What a run learns from pairs where `reward` is set. The defaults are LLaVA-RLHF's, but for the prompt."""

    facts: FactsConfig | None = None  # tell it what is known about the picture; default: not
    prompt: Path | None = None  # a file with what a released model was asked; default: our own turn
    lead: str = LEAD  # the sentence before the facts
    center: Literal["absolute", "squared", "none"] = "absolute"  # of a row's mean sum, or of every pair's sum
    center_weight: float = Field(1e-3, ge=0, le=1e3)  # TRL's for `squared`: 1e-2
    margin: float = Field(0.0, ge=0, le=1e3)  # by how much the better answer shall win
    margin_field: str | None = (
        None  # of a record: by how much there, times `margin` (Llama 2, TRL's `margin`)
    )

    @model_validator(mode="after")
    def _counts(self) -> Self:
        if self.margin_field is not None and not self.margin:
            raise ConfigError(
                f"margin_field={self.margin_field} counts times margin, which is 0; set margin=1"
            )
        return self

    def grading(self) -> Grading:
        """What the model will be asked wherever it scores; reads the prompt's file."""
        suffix = None if self.prompt is None else read_suffix(self.prompt)
        return Grading(suffix=suffix, lead=self.lead, facts=self.facts is not None)
