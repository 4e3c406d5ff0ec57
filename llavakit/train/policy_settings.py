"""Settings of learning from a model's own answers. Apart from the losses, which need PyTorch."""

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from llavakit.core.config import Config
from llavakit.core.errors import ConfigError, pick
from llavakit.train.reward_terms import TOTAL, RewardsConfig

Estimator = Literal["k1", "k1_clamped", "k2", "k3", "abs"]
Aggregation = Literal["token_mean", "sequence_mean", "constant"]
Scale = Literal["group", "batch", "none"]
Advantage = Literal["group", "leave_one_out", "gae"]
Learn = Literal["all", "pairs", "best"]


class PolicySettings(Config):
    """How far one update may go from the policy that generated."""

    ratio: Literal["token", "sequence"] = "token"  # sequence: GSPO, one ratio an answer
    clip_low: float = Field(0.2, ge=0, lt=1)  # a ratio counts down to 1 - clip_low
    clip_high: float = Field(0.2, ge=0, le=100)  # and up to 1 + clip_high (DAPO: 0.28)
    dual_clip: float | None = Field(None, gt=1, le=1e6)  # bound of a bad answer's loss, in advantages
    ratio_cap: float | None = Field(
        None, gt=1, le=1e6
    )  # bound of the ratio that is not clipped (TRL's delta)
    constant_weight: bool = False  # CISPO: the ratio, cut at `clip_high`, weighs log-probabilities
    kl_coef: float = Field(0.0, ge=0, le=100)  # KL to the reference: in the loss, or taken from rewards
    kl_estimator: Estimator = "k3"


class ValueConfig(Config):
    """PPO's value model, and what advantages are made of with it."""

    start: Path | None = None  # a reward model as adapters; default: the policy's adapters, a head of zeros
    coef: float = Field(0.1, ge=0, le=100)  # of its loss, beside the policy's
    clip: float = Field(0.2, gt=0, le=1e6)  # how far one round may move a value
    clip_in: Literal["returns", "units"] = "returns"  # deviations of the round's returns, or plain numbers
    gamma: float = Field(1.0, ge=0, le=1)
    lam: float = Field(0.95, ge=0, le=1)
    whiten: Literal["unbiased", "population", "none"] = "unbiased"  # advantages, over the round
    whiten_rewards: bool = False  # to deviation 1 over the round, keeping their mean
    reward_scale: float = Field(1.0, gt=0, le=1e6)  # of what each token gets, KL included


class Algorithm(PolicySettings):
    """What is learned from scored answers. `policy.algorithm=dapo` names a preset; each setting can follow it."""

    advantage: Advantage = "group"  # against the answer's group, the others of it, or a value model
    scale: Scale = "group"  # of group advantages: whose deviation they are divided by
    aggregation: Aggregation = "sequence_mean"
    constant: int | None = Field(None, ge=1)  # tokens an answer counts as by `constant`; default: max_tokens
    kl_in: Literal["loss", "reward"] = "loss"
    kl_target: float | None = Field(None, gt=0)  # nats an answer: then `kl_coef` is where a controller starts
    kl_horizon: int = Field(10_000, ge=1)  # answers in which the controller acts
    filter: str | None = None  # groups whose answers all have this term alike are replaced by other prompts
    value: ValueConfig = Field(default_factory=ValueConfig)  # for `gae`
    importance_cap: float | None = Field(
        None, gt=0, le=1e6
    )  # weigh tokens by learner / sampler, up to here; default: do not

    @model_validator(mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        return pick(ALGORITHMS, value, "policy.algorithm") if isinstance(value, str) else value

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.kl_target is not None and (self.kl_in != "reward" or not self.kl_coef):
            raise ConfigError(
                "kl_target controls a penalty of rewards: kl_in=reward and a kl_coef to start from"
            )
        return self


# Published settings. What a paper takes from its data (lengths, answers a prompt) is in `policy` itself.
ALGORITHMS: dict[str, dict[str, Any]] = {
    "grpo": {"kl_coef": 0.04},  # arXiv 2402.03300
    "dr_grpo": {"scale": "none", "aggregation": "constant"},  # arXiv 2503.20783
    "rloo": {  # arXiv 2402.14740: REINFORCE, an answer being one action
        "advantage": "leave_one_out", "aggregation": "constant", "constant": 1,
        "kl_coef": 0.05, "kl_in": "reward", "kl_estimator": "k1",
    },
    "gspo": {"ratio": "sequence", "clip_low": 3e-4, "clip_high": 4e-4},  # arXiv 2507.18071
    "dapo": {"aggregation": "token_mean", "clip_high": 0.28, "filter": TOTAL},  # arXiv 2503.14476
    "cispo": {"aggregation": "token_mean", "constant_weight": True, "clip_high": 5.0},  # arXiv 2506.13585
    "ppo": {  # LLaVA-RLHF's, corrected: see docs/rl.md
        "advantage": "gae", "aggregation": "token_mean", "kl_in": "reward", "kl_estimator": "k1", "kl_coef": 0.1,
    },
    "ppo_llava_rlhf": {  # arXiv 2309.14525, its code
        "advantage": "gae", "aggregation": "token_mean", "kl_in": "reward", "kl_estimator": "k1_clamped",
        "kl_coef": 0.1, "value": {"lam": 1.0, "whiten": "population", "reward_scale": 10.0, "clip_in": "units"},
    },
    "ppo_alpaca_farm": {  # arXiv 2305.14387, its code
        "advantage": "gae", "aggregation": "token_mean", "kl_in": "reward", "kl_estimator": "k1_clamped",
        "kl_coef": 0.0067, "value": {
            "lam": 1.0, "whiten": "population", "whiten_rewards": True, "clip_in": "units",
        },
    },
}  # fmt: skip


class ToolLoop(Config):
    """Tools that answers may call (docs/agent.md), and what one answer may take of them."""

    names: tuple[str, ...] = Field(min_length=1)
    form: Literal["hermes", "llava_plus", "json"] = (
        "hermes"  # how calls are written; nothing holds them to it here
    )
    boxes: Literal["0-1", "0-1000", "px"] = "0-1"  # what the numbers of boxes count
    steps: int = Field(4, ge=1)  # turns of the model, the last answer not counted
    calls: int = Field(8, ge=0)  # in all; 0: none is run
    seconds: float = Field(30.0, gt=0)  # of one call
    result_tokens: int = Field(200, ge=16)  # of one result
    pictures: int = Field(4, ge=0)  # that tools made and the model sees


class RolloutServer(Config):
    """A server that draws the answers: vLLM's, or `llavakit serve` (docs/rl.md)."""

    url: str
    model: str | None = None  # of several that it serves
    # it loads a directory with all weights, or (vLLM) adapters under a name of their own
    reload: Literal["directory", "lora"] = "directory"
    weights: Path | None = None  # where the server finds them under the same path; default: OUT/weights
    at_once: int = Field(32, ge=1)  # prompts under way
    seconds: float = Field(600, gt=0)  # what the answers to a prompt may take


class PolicyConfig(Config):
    """Learning from answers that the model samples and rewards score. A round is prompts with new answers."""

    algorithm: Algorithm = Field(default_factory=lambda: Algorithm.model_validate("grpo"))
    # all answers, by their advantages; pairs: best against worst, by `preference`; best: it alone, as in SFT
    learn: Learn = "all"
    anchor: Literal["round", "start"] = "round"  # pairs: the reference is who answered, or the run's start
    gap: float = Field(
        0.0, ge=0, le=1e6
    )  # pairs: by how much more than this the best must be above the worst
    at_least: float | None = Field(
        None, ge=-1e6, le=1e6
    )  # pairs, best: what the best must have to be learned
    rewards: RewardsConfig = Field(default_factory=RewardsConfig)
    prompts: int = Field(16, ge=1)  # of a round
    answers: int = Field(8, ge=1)  # to each of them
    epochs: int = Field(1, ge=1)  # how often a round's answers are learned from
    minibatches: int = Field(1, ge=1)  # optimizer steps into which one such epoch is cut
    max_tokens: int = Field(256, ge=1)  # of an answer
    cut_at: str | None = None  # a text that ends an answer as if it were cut off, as "?" in LLaVA-RLHF
    temperature: float = Field(1.0, gt=0, le=10)
    top_p: float = Field(1.0, gt=0, le=1)  # below 1 for pairs and best only
    engine: Literal["copy", "shared"] = "copy"  # fast decoder on its own weights; or the modules that learn
    tools: ToolLoop | None = None  # answers may have several turns, with calls of tools between them
    rollouts: RolloutServer | None = None  # who answers in the place of an engine here
    drift: float = Field(0.1, gt=0)  # nats: alarm if sampler and learner differ by more, in the mean
    unscorable: float = Field(0.01, ge=0, le=1)  # the run stops if more of its answers have no score
    tries: int = Field(10, ge=1)  # how often a round looks for other prompts in the place of filtered groups
    page_every: int = Field(10, ge=0)  # rounds between pages of answers; 0: none

    @model_validator(mode="after")
    def _fits(self) -> Self:
        grouped = self.algorithm.advantage != "gae"
        if grouped and self.answers < 2:
            raise ConfigError(
                f"policy.answers={self.answers}: advantages of groups compare answers; take at least 2"
            )
        if self.answers < 2 and self.rewards.normalise == "group":
            raise ConfigError("policy.rewards.normalise=group compares answers: policy.answers=2 or more")
        if self.tools is not None and self.rollouts is not None:
            raise ConfigError("policy.tools runs beside an engine here; leave policy.rollouts out")
        if self.learn == "all" and self.top_p != 1:
            raise ConfigError("policy.top_p below 1 draws from another distribution than the loss is told of")
        if self.learn != "all" and (self.algorithm.kl_in == "reward" or self.has_value):
            raise ConfigError(f"policy.learn={self.learn} has neither a penalty of rewards nor a value model")
        if self.tools is not None and self.learn != "all":
            raise ConfigError("policy.tools: answers with tools are all learned: policy.learn=all")
        self._check_choice()
        if self.minibatches > self.prompts:
            raise ConfigError(
                f"policy.minibatches={self.minibatches}, but a round has policy.prompts={self.prompts}"
            )
        if self.algorithm.importance_cap is not None and self.temperature != 1:
            raise ConfigError(
                "policy.algorithm.importance_cap needs policy.temperature=1: the sampler tells no other"
            )
        return self

    def _check_choice(self) -> None:
        """ConfigError for what says which answers are chosen where it would not be looked at."""
        if self.learn != "pairs" and (self.gap or self.anchor != "round"):
            name = "gap" if self.gap else "anchor"
            raise ConfigError(f"policy.{name} is for pairs of answers: policy.learn=pairs, or leave it out")
        if self.learn == "all" and self.at_least is not None:
            raise ConfigError(
                "policy.at_least is for answers that are chosen: policy.learn=best or pairs, or leave it out"
            )

    @property
    def needs_reference(self) -> bool:
        """Whether anything asks how far the model has gone from where it started."""
        if self.learn == "all":
            return self.algorithm.kl_coef > 0
        return self.learn == "pairs" and self.anchor == "start"

    @property
    def learns_once(self) -> bool:
        """Whether each answer is learned from once, before any weight moves, and nothing must be known of it first.

        Then the pass that learns finds the log-probabilities that others have to look up before it: they are the
        same. Not at other temperatures, where what the sampler tells (temperature 1) takes a look of its own.
        """
        how = self.algorithm
        once = self.learn == "all" and self.epochs == self.minibatches == 1
        return once and how.kl_in == "loss" and not self.has_value and self.temperature == 1

    @property
    def drops_groups(self) -> bool:
        """Whether prompts whose answers teach nothing give way to others."""
        return self.algorithm.filter is not None or self.learn != "all"

    @property
    def measured_at(self) -> float:
        """The temperature at which the learner looks at answers: its own, or that of the loss of pairs."""
        return self.temperature if self.learn == "all" else 1.0

    @property
    def room(self) -> int:
        """Tokens of answers that must fit a row beside their prompt: a pair cannot be cut in two."""
        return self.max_tokens * (2 if self.learn == "pairs" else 1)

    @property
    def copies_decoder(self) -> bool:
        """Whether an engine here answers with weights of its own."""
        return self.rollouts is None and self.engine == "copy"

    @property
    def has_value(self) -> bool:
        """Whether a value model learns beside the policy."""
        return self.algorithm.advantage == "gae"
