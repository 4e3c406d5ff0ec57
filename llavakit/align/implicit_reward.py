"""The reward that a model has learned from preferences without a reward model: DPO's, against where it started."""

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

import torch

from llavakit.core.errors import ConfigError
from llavakit.data.encode import Encoder, Sample
from llavakit.data.pack import collate, pack_rows
from llavakit.model import checkpoint
from llavakit.model.card import Card
from llavakit.text.conversation import Conversation, learn_last_answer
from llavakit.train.answers import answer_logprobs

SAME = (
    "tower",
    "image",
    "video",
    "template",
    "im_start_end",
)  # of two cards, so that a sample is one for both


class ImplicitReward:
    """beta (log p - log p of the reference), of the last answers of conversations."""

    def __init__(self, policy: Path, reference: Path, *, beta: float = 0.1, tokens: int = 4096) -> None:
        """Both directories are read. ConfigError where they would not read a conversation alike."""
        self._policy, self._reference = checkpoint.load(policy), checkpoint.load(reference)
        _check_alike(self._policy.card, self._reference.card, policy, reference)
        card = self._policy.card
        self.encoder = Encoder(self._policy.tokenizer, card.prompt(), card.image, card.video)
        self.beta, self.tokens = beta, tokens
        for loaded in (self._policy, self._reference):
            loaded.model.eval()
            if torch.cuda.is_available():
                loaded.model.cuda()

    def scores(self, conversations: Sequence[Conversation]) -> list[float]:
        """Neighbours that differ in their last answers only share what is before it."""
        talks = [learn_last_answer(talk) for talk in conversations]
        groups = [list(alike) for _, alike in groupby(talks, key=lambda talk: talk.messages[:-1])]
        samples = [self.encoder.encode_alternatives(alike) for alike in groups]
        scores: dict[int, list[float]] = {}
        for row in pack_rows([sample.num_inputs for sample in samples], self.tokens):
            found = iter(self._ratios([samples[at] for at in row]))
            scores |= {at: [next(found) for _ in groups[at]] for at in row}
        return [self.beta * ratio for at in range(len(groups)) for ratio in scores[at]]

    @torch.inference_mode()
    def _ratios(self, samples: list[Sample]) -> list[float]:
        """log p / p of the reference of every answer of a packed row."""
        tiles = [media.tiles() for sample in samples for media in sample.media]
        batch = collate(samples, tiles).to(self._policy.model.device)
        mine, _ = answer_logprobs(self._policy.model, batch)
        theirs, _ = answer_logprobs(self._reference.model, batch)
        ratios: list[float] = (mine - theirs).tolist()
        return ratios


def _check_alike(mine: Card, other: Card, policy: Path, reference: Path) -> None:
    one, two = mine.model_dump(include=set(SAME)), other.model_dump(include=set(SAME))
    apart = [name for name in SAME if one[name] != two[name]]
    if apart:
        raise ConfigError(
            f"{policy} and {reference} do not read alike ({', '.join(apart)}); "
            "the reference is what a run started from"
        )
