"""A released stage as data, and the run it makes.

Publications count samples: so many in a step. Here a step is a number of packed rows, so the published number goes
through the length of a mean sample. That length is an assumption of ours, stated once per data set (`Mean`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from llavakit.data.settings import DataConfig
from llavakit.model.card import Card
from llavakit.model.families.row import Family, family_config, one_tile
from llavakit.model.settings import LoraSettings
from llavakit.train.pair_settings import PreferenceConfig
from llavakit.train.policy_settings import PolicyConfig
from llavakit.train.run import Run
from llavakit.train.settings import LearningRates, OptimConfig
from llavakit.vision.frames import plan_video
from llavakit.vision.plan import PICTURE, plan_image

RUNS, DATA = Path("runs"), Path("data")
RELEASED = Path("released")  # weights that others published and the user has put there
LCS_558K = "blip_laion_cc_sbu_558k.json"


@dataclass(frozen=True)
class Mean:
    """What a mean sample of a data set holds. None of it is published; it only sets how many rows make a step."""

    text: int  # tokens of all its turns, template included
    single: float = 1.0  # pictures that are alone in their sample
    several: float = 0.0  # pictures of samples that have more than one
    videos: float = 0.0

    def tokens(self, card: Card) -> float:
        """Tokens of such a sample under the card's rules, a video having all the frames it may have."""
        tokens = float(self.text)
        tokens += self.single * plan_image(card.image, PICTURE).num_tokens
        tokens += self.several * plan_image(card.image, PICTURE, alone=False).num_tokens
        if self.videos:
            assert card.video is not None
            tokens += (
                self.videos * plan_video(card.video, card.image, PICTURE, card.video.max_frames).num_tokens
            )
        return tokens


TEXT = (
    2048  # tokens of the longest sample's text, and how many pictures one with several has; ours, as Mean is
)
MANY = 16


def rows_for(samples: int, tokens_per_sample: float, row_tokens: int) -> int:
    """Packed rows of `row_tokens` tokens that hold about so many samples; at least one."""
    return max(1, round(samples * tokens_per_sample / row_tokens))


@dataclass(frozen=True)
class Stage:
    """One training stage of one released model. Calling it gives the complete run."""

    name: str
    system: str  # the publication
    does: str  # the stage, in a few words
    family: Family  # what the stages together make
    rates: Mapping[str, float]  # peak learning rate of each part that learns; `newline` follows `language`
    batch: int  # samples of a step, as published
    data: tuple[str, ...]  # files under data/, by the names they were published with
    mean: Mean
    start: Path | None = None  # the run it goes on from, or a directory of released weights
    tokens: int = 4096  # budget of a row; a longer sample cannot be read
    epochs: float = 1.0
    card: Mapping[str, object] = field(default_factory=dict)  # what this stage does unlike the finished model
    rope_factor: float | None = None
    lora: LoraSettings | None = None  # adapters in the decoder learn, its own weights do not
    media_front: float = 0.0
    preference: PreferenceConfig | None = None  # the data are pairs of answers
    policy: PolicyConfig | None = None  # the data are questions, which the model answers itself
    schedule: Mapping[str, object] = field(default_factory=dict)  # where warm-up and decay are not the usual
    unverified: tuple[str, ...] = ()  # numbers above that no source states

    def __call__(self) -> Run:
        card = self.family.card.model_copy(update=dict(self.card))
        model = family_config(self.family, start=self.start, **self.card)
        return Run(
            name=self.name,
            out=RUNS / self.name,
            train=self.train,
            model=model.model_copy(update={"rope_factor": self.rope_factor, "lora": self.lora}),
            data=DataConfig(
                files=tuple(DATA / file for file in self.data),
                tokens=self.tokens,
                media_front=self.media_front,
            ),
            optim=OptimConfig(
                lr=LearningRates(**{**self.rates, **self._newline}),
                rows=rows_for(self.batch, self.mean.tokens(card), self.tokens),
                epochs=self.epochs,
            ).model_copy(update=dict(self.schedule)),
            preference=self.preference,
            policy=self.policy,
            checkpointing=True,  # as every released script; less time without it, where memory allows
            save_every=500,
        )

    def longest(self, card: Card) -> int:
        """Tokens of the longest sample that is expected under a card's rules, at most those of a row."""
        if card.image.kind == "keep":  # a picture has as many tokens as it is large
            return self.tokens
        tile = card.image.size
        shapes = [(columns * tile, rows * tile) for columns in range(1, 7) for rows in range(1, 7)]
        shown = [plan_image(card.image, shape).num_tokens for shape in shapes]
        if self.mean.several:
            shown.append(MANY * plan_image(card.image, PICTURE, alone=False).num_tokens)
        if self.mean.videos and card.video is not None:
            shown.append(plan_video(card.video, card.image, PICTURE, card.video.max_frames).num_tokens)
        return min(self.tokens, max(shown) + TEXT)

    @property
    def train(self) -> tuple[str, ...]:
        """The parts that learn."""
        return (*self.rates, *self._newline)

    @property
    def _newline(self) -> dict[str, float]:
        """Released code trains the newline with the language model, where a model has one."""
        separators = self.family.card.model_copy(update=dict(self.card)).separators
        return {"newline": self.rates["language"]} if separators and "language" in self.rates else {}

    @property
    def description(self) -> str:
        """The line that `llavakit train list` shows."""
        doubts = f" Unverified: {', '.join(self.unverified)}." if self.unverified else ""
        epochs = f", {self.epochs:g} epochs" if self.epochs != 1 else ""
        return (
            f"{self.system}, {self.does}: {self.learns}; about {self.batch} samples a step{epochs}.{doubts}"
        )

    @property
    def learns(self) -> str:
        """The trained parts with their rates: `connector 1e-3`."""
        names = {} if self.lora is None else {"language": f"adapters (rank {self.lora.r})"}
        rates = {**self.rates, **self._newline}
        return ", ".join(f"{names.get(part, part)} {short(rate)}" for part, rate in rates.items())


# How a picture becomes one tile in stage 1: by the tower's own preprocessing.
ALIGNED = {"clip_vision_model": "square", "siglip_vision_model": "squash"}
CAPTIONS = Mean(text=32)
INSTRUCTIONS = Mean(text=448)


def alignment(
    name: str,
    system: str,
    row: Family,
    *,
    batch: int,
    lr: float = 1e-3,
    data: str = LCS_558K,
    tokens: int = 4096,
    unverified: tuple[str, ...] = (),
) -> Stage:
    """Stage 1: the connector alone learns from captions under the `plain` template.

    Images are one tile here, whatever follows: cut square by CLIP's own rule, squashed by SigLIP's.
    """
    return Stage(
        name=name,
        system=system,
        does="stage 1, alignment",
        family=row,
        rates={"connector": lr},
        batch=batch,
        data=(data,),
        mean=CAPTIONS,
        tokens=tokens,
        card={
            "template": "plain",
            "image": one_tile(ALIGNED[row.vision.model_type], row.vision),
            "video": None,
        },
        unverified=unverified,
    )


def full(language: float, tower: float) -> dict[str, float]:
    """Everything learns: the tower at a rate of its own, the connector with the language model."""
    return {"tower": tower, "connector": language, "language": language}


def short(rate: float) -> str:
    """2e-05 as people write it: 2e-5."""
    digits, _, power = f"{rate:e}".partition("e")
    return f"{float(digits):g}e{int(power)}"
