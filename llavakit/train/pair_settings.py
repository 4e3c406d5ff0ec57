"""Settings of learning from pairs. Apart from the losses, which need PyTorch."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from llavakit.core.config import Config
from llavakit.core.errors import ConfigError, pick

Divergence = Literal["reverse_kl", "forward_kl", "js_divergence", "alpha_divergence"]
LOSS_NAMES = (  # of pair_losses.py; a test holds them together
    "sigmoid", "cdpo", "robust", "hinge", "ipo", "ipo_sum", "sigmoid_norm", "bco_pair", "nca_pair",
    "apo_zero", "apo_down", "sppo_hard", "exo_pair", "aot", "aot_unpaired", "discopop", "simpo", "cpo",
    "odds_ratio",
)  # fmt: skip
REFERENCE_FREE = ("simpo", "cpo", "odds_ratio", "sft")

# Weighted terms with a name of their own. `sft` is the likelihood of the chosen answers, per token of the step.
PRESETS: dict[str, dict[str, float]] = {
    "mpo": {"sigmoid": 0.8, "bco_pair": 0.2, "sft": 1.0},  # arXiv 2411.10442
    "orpo": {"odds_ratio": 1.0, "sft": 1.0},
}


class PairSettings(Config):
    """What the losses of pairs can be told. A loss reads the settings that its formula has."""

    beta: float = Field(0.1, gt=0, le=1000, allow_inf_nan=False)  # how strongly the reference holds
    label_smoothing: float = Field(
        0.0, ge=0, lt=0.5
    )  # share of pairs whose labels are believed to be swapped
    divergence: Divergence = "reverse_kl"  # f-DPO (arXiv 2309.16240): how a log-ratio becomes a score
    alpha: float = Field(0.5, gt=0, le=10)  # alpha_divergence; 1 is reverse_kl
    margin: float = Field(1.0, ge=0, le=1000)  # simpo: by how much chosen shall be better
    tau: float = Field(0.05, gt=0, le=100)  # discopop: temperature between its two losses
    shift: float = Field(0.0, ge=-1e6, le=1e6)  # bco_pair: running mean of the rewards, 0 without one
    length_weight: float = Field(1.0, ge=0, le=1)  # LD-DPO: what tokens beyond the shorter answer count
    changed_weight: float = Field(1.0, gt=0, le=1000)  # RLHF-V: what tokens count that one answer alone has


SFT_TERM = "sft"  # the likelihood of the chosen answers, per token of the step


class PreferenceConfig(PairSettings):
    """What a run learns from pairs. `loss=mpo` names a preset, `loss={sigmoid: 1.0, sft: 0.1}` weighs terms."""

    loss: dict[str, Annotated[float, Field(gt=0, lt=1e6)]] = Field(default_factory=lambda: {"sigmoid": 1.0})
    reference: Path | None = (
        None  # folder of what the start gives for the answers; default: copies of weights
    )

    @field_validator("loss", mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        if isinstance(value, str):
            return PRESETS.get(value, {value: 1.0})
        return value

    @field_validator("loss")
    @classmethod
    def _known(cls, terms: dict[str, float]) -> dict[str, float]:
        for name in terms:
            pick(dict.fromkeys((*LOSS_NAMES, SFT_TERM)), name, "preference.loss")
        if not terms:
            raise ConfigError("preference.loss is empty; name at least one loss, as sigmoid")
        return terms

    @model_validator(mode="after")
    def _used(self) -> Self:
        if self.reference is not None and not self.needs_reference:
            raise ConfigError(
                f"preference.reference={self.reference}: no loss of {', '.join(self.loss)} has one; drop it"
            )
        return self

    @property
    def needs_reference(self) -> bool:
        return not set(self.loss) <= set(REFERENCE_FREE)

    @property
    def keeps_copies(self) -> bool:
        """Whether the reference is copies of the weights that learn."""
        return self.needs_reference and self.reference is None
