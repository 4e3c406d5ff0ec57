"""A reward model on the policy's base: adapters and a head beside those that learn, where the base is the same."""

from pathlib import Path

import torch
from torch import Tensor

from llavakit.align.reward_model import RewardModel, Rewards, encoder_of, open_reward_model
from llavakit.core.types import Batch
from llavakit.model.adapters import (
    FIRST,
    adapter_names,
    adapter_parameters,
    add_second_adapter,
    fill_second_adapter,
    fingerprint,
    read_adapter,
    read_carried,
    use_adapter,
)
from llavakit.model.checkpoint import Checkpoint
from llavakit.model.directory import load_card, resolve, settings_of
from llavakit.model.llava import Score
from llavakit.train.freezing import is_trained
from llavakit.train.run import Run
from llavakit.train.sharding import is_sharded

SHAPE = {"r", "alpha", "targets", "tower"}  # what adapters on one layer must have alike


class OnPolicyBase:
    """Scores with adapters and a head of its own; the policy's are in use again when it has done so."""

    def __init__(self, checkpoint: Checkpoint, folder: Path, *, bf16: bool) -> None:
        self.model, self.bf16 = checkpoint.model, bf16
        language = self.model.language
        self.name = f"reward{len(adapter_names(language))}"
        add_second_adapter(language, self.name)
        fill_second_adapter(language, self.name, folder)
        for parameter in adapter_parameters(language, self.name).values():
            parameter.requires_grad_(False)
        self.score = Score(self.model.width)
        self.score.load_state_dict(read_carried(folder, "score"))
        self.score.to(self.model.device)

    @torch.no_grad()
    def rewards(self, batch: Batch) -> Tensor:
        """float32[A], as `Engine.rewards`."""
        batch = batch.to(self.model.device)
        training = self.model.training
        self.model.eval()
        use_adapter(self.model.language, self.name)
        with torch.autocast(batch.ids_T.device.type, torch.bfloat16, enabled=self.bf16):
            scores_A: Tensor = self.score(self.model.hidden(batch)[batch.ends_A])
        use_adapter(self.model.language, FIRST)
        self.model.train(training)
        return scores_A


def open_beside(run: Run, checkpoint: Checkpoint, path: str) -> RewardModel[Rewards]:
    """The reward model of a directory: on the policy's base if that is its own, else a model of its own."""
    folder = resolve(Path(path))
    card = load_card(folder)
    if card.grading is None or not shares_base(checkpoint, folder):
        return open_reward_model(path)
    engine = OnPolicyBase(checkpoint, folder, bf16=run.precision == "bf16")
    return RewardModel(engine, encoder_of(checkpoint.model, checkpoint.tokenizer, card), card.grading)


def shares_base(checkpoint: Checkpoint, folder: Path) -> bool:
    """Whether a reward model is adapters like the policy's, on the same weights: base and connector."""
    mine, theirs = checkpoint.adapter, read_adapter(settings_of(folder), folder)
    model = checkpoint.model
    if mine is None or theirs is None or is_sharded(model) or is_trained(model.connector):
        return False
    if mine.lora.model_dump(include=SHAPE) != theirs.lora.model_dump(include=SHAPE) or mine.lora.tower:
        return False
    if fingerprint(mine.base) != fingerprint(theirs.base):
        return False
    carried, own = read_carried(folder, "connector"), model.connector.state_dict()
    return carried.keys() == own.keys() and all(
        torch.equal(carried[key].to(own[key]), own[key]) for key in own
    )
