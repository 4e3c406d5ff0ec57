"""A run: every setting of one training stage. A recipe is a function that returns one."""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from llavakit.core.config import Config
from llavakit.core.errors import ConfigError
from llavakit.data.settings import DataConfig
from llavakit.model.card import Card
from llavakit.model.settings import ModelConfig
from llavakit.text.grading import Grading
from llavakit.train.kto_settings import KtoConfig
from llavakit.train.pair_settings import PreferenceConfig
from llavakit.train.policy_settings import PolicyConfig
from llavakit.train.reward_settings import RewardModelConfig
from llavakit.train.settings import (
    EvalConfig,
    OptimConfig,
    ParallelConfig,
    ProbeConfig,
    RetentionConfig,
    WatchConfig,
)

# What a resumed run may change: how it is computed, who looks on, not what is learned.
HARMLESS = {
    "name",
    "out",
    "save_every",
    "keep",
    "saved",
    "grace",
    "checkpointing",
    "compile",
    "data.on_bad",
    "data.edited",
    "data.workers",
    "data.lengths",
    "preference.reference",
    "policy.drift",
    "policy.rollouts.at_once",
    "policy.rollouts.seconds",
    "policy.rollouts.url",
    "policy.rollouts.weights",
    "policy.page_every",
}
HARMLESS_PARTS = {"parallel", "eval", "probes", "retention", "watch"}


class Run(Config):
    """Complete: the run.yaml a run writes repeats it."""

    name: str = "run"
    out: Path = Path("runs/run")
    seed: int = Field(0, ge=0, lt=2**63)
    train: tuple[str, ...] = ("connector", "language", "newline")  # the parts that learn; the rest is frozen
    embeddings: bool = True  # False: token embeddings and head stay; a quarter of a small model's weights
    precision: Literal["auto", "bf16", "float32"] = "auto"  # of products; weights and sums stay float32
    checkpointing: bool = False  # keep what goes into a block, recompute the rest: less memory
    compile: bool = False  # blocks by PyTorch's compiler, from the fifth step on; a minute or more of warm-up
    grace: float = Field(
        30.0, gt=0
    )  # seconds from SIGTERM to being killed: a step that is longer is not saved
    save_every: int = Field(0, ge=0)  # steps; 0 saves at the end (and on Ctrl-C or SIGTERM) only
    keep: int = Field(1, ge=1)  # checkpoints kept
    saved: Literal["float32", "bf16"] = (
        "float32"  # weights of checkpoints; what bf16 loses is kept beside them
    )
    model: ModelConfig = Field(default_factory=ModelConfig)
    data: DataConfig = Field(default_factory=DataConfig)
    preference: PreferenceConfig | None = (
        None  # learn from pairs of answers; default: from the answers there are
    )
    kto: KtoConfig | None = None  # learn from single answers that are wanted or not
    reward: RewardModelConfig | None = None  # learn from pairs what answers are worth: a reward model
    policy: PolicyConfig | None = None  # learn from the model's own answers to the data's questions
    optim: OptimConfig = Field(default_factory=OptimConfig)
    parallel: ParallelConfig = Field(default_factory=ParallelConfig)
    eval: EvalConfig = Field(default_factory=EvalConfig)
    probes: ProbeConfig = Field(default_factory=ProbeConfig)
    retention: RetentionConfig = Field(default_factory=RetentionConfig)
    watch: WatchConfig = Field(default_factory=WatchConfig)

    @property
    def lesson(self) -> str | None:
        """The setting that says what a model that answers already shall learn; None: from the answers there are."""
        return next(iter(self._lessons), None)

    @model_validator(mode="after")
    def _one_lesson(self) -> Self:
        if self._pairs_in_rounds and self.preference is None:
            raise ConfigError("policy.learn=pairs learns by `preference`, which is not set: preference={}")
        if len(self._lessons) > 1:
            raise ConfigError(f"a run learns one of {', '.join(self._lessons)}")
        self._check_own_answers()
        if self.reward is not None and "score" not in self.train:
            raise ConfigError(f"train={list(self.train)}: a reward model's head, score, has to learn")
        if self.saved == "bf16" and self.model.lora is not None:
            raise ConfigError(
                "saved=bf16 is for whole models: with model.lora adapters are saved, which are small"
            )
        if self.reward is not None and self.data.weights != "ours":
            raise ConfigError(f"data.weights={self.data.weights}: nothing of the answers is learned; drop it")
        return self

    def _check_own_answers(self) -> None:
        """ConfigError for what does not go with learning from the model's own answers."""
        if self.policy is None:
            return
        pairs, lora = self.preference, self.model.lora
        if self.policy.has_value and lora is None:
            raise ConfigError(
                "policy.algorithm.advantage=gae trains policy and value as adapters on one base: give model.lora, "
                "as model.lora='{r: 64, alpha: 16}'"
            )
        if self.policy.copies_decoder and lora is not None and lora.four_bit:
            raise ConfigError(
                "policy.engine=copy would hold the decoder a second time, and not in four bits; "
                "use policy.engine=shared"
            )
        if pairs is not None and (pairs.reference is not None or pairs.changed_weight != 1):
            raise ConfigError("preference.reference and changed_weight are for pairs of files; drop them")
        if self.eval.files:
            raise ConfigError(
                "eval.files: a run with `policy` has no loss on data files; `llavakit eval` measures it"
            )

    @property
    def _lessons(self) -> list[str]:
        named = {"preference": self.preference, "kto": self.kto, "reward": self.reward, "policy": self.policy}
        given = [name for name, settings in named.items() if settings is not None]
        return given[1:] if self._pairs_in_rounds and self.preference is not None else given

    @property
    def _pairs_in_rounds(self) -> bool:
        """Whether the model's own answers become pairs: then `preference` says how `policy` learns from them."""
        return self.policy is not None and self.policy.learn == "pairs"

    @property
    def reads_pairs(self) -> bool:
        """Whether a record of the data is two answers, of which one is better."""
        return (self.preference is not None and self.policy is None) or self.reward is not None

    @property
    def grading(self) -> Grading | None:
        """What a reward model is asked, where the run makes one."""
        return None if self.reward is None else self.reward.grading()

    @property
    def keeps_copies(self) -> bool:
        """Whether copies of the weights that learn are the reference."""
        if self.policy is not None:
            return self.policy.needs_reference
        return self.kto is not None or (self.preference is not None and self.preference.keeps_copies)

    def settled(self, card: Card, precision: str) -> "Run":
        """The run with nothing left to choose, so that its run.yaml repeats it. `precision` is for auto."""
        changes: dict[str, object] = {"model": self.model.model_copy(update=card.choices())}
        if self.precision == "auto":
            changes["precision"] = precision
        return self.model_copy(update=changes)

    def changed(self, other: "Run") -> list[str]:
        """Settings that differ and would make a resumed run another run."""
        mine, theirs = _flat(self.model_dump(mode="json")), _flat(other.model_dump(mode="json"))
        keys = [key for key in mine if key not in HARMLESS and key.partition(".")[0] not in HARMLESS_PARTS]
        return sorted(key for key in keys if mine[key] != theirs.get(key))


def _flat(tree: dict, prefix: str = "") -> dict[str, object]:
    out: dict[str, object] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            out |= _flat(value, f"{prefix}{key}.")
        else:
            out[prefix + key] = value
    return out
