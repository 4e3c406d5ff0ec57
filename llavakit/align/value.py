"""The value model of PPO: adapters and a head of its own on the policy's base: one base serves all roles."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from llavakit.align.shared_reward import shares_base
from llavakit.core.errors import CheckpointError, ConfigError
from llavakit.core.types import Batch
from llavakit.model.adapters import (
    FIRST,
    adapter_parameters,
    add_second_adapter,
    fill_second_adapter,
    read_carried,
    use_adapter,
)
from llavakit.model.checkpoint import Checkpoint
from llavakit.model.directory import load_card, resolve
from llavakit.train.sharding import is_sharded

NAME = "value"  # of its adapters, and of its module in the decoder
FILE = "value.safetensors"


class ValueModel:
    """What an answer is going to be worth, seen from each of its tokens."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        """Adapters begin as copies of the policy's, the head at zero: values are 0 at first."""
        assert checkpoint.adapter is not None, "settings of a run without adapters have no value model"
        if is_sharded(checkpoint.model):
            raise ConfigError(
                "policy.algorithm.advantage=gae needs parallel.mode=ddp: the base is not cut yet"
            )
        self.model, self._checkpoint = checkpoint.model, checkpoint
        language = self.model.language
        policy = {name: p.detach().clone() for name, p in adapter_parameters(language).items()}
        add_second_adapter(language, NAME)
        self._adapters = adapter_parameters(language, NAME)
        with torch.no_grad():
            for name, parameter in self._adapters.items():
                parameter.copy_(policy[name.replace(f".{NAME}.", f".{FIRST}.")])
        self.head = nn.Linear(int(language.config.hidden_size), 1, device=self.model.device)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        language.add_module(
            NAME, self.head
        )  # so that whoever takes the decoder's parameters has the head's too

    def begin_from(self, folder: Path) -> None:
        """Take adapters and head of a reward model: of one with adapters of the same shape on the same base."""
        folder = resolve(folder)
        if load_card(folder).grading is None or not shares_base(self._checkpoint, folder):
            raise ConfigError(
                f"policy.algorithm.value.start={folder}: no reward model as adapters on the base and connector of "
                "this run, with the same model.lora (and a connector that does not learn)"
            )
        fill_second_adapter(self.model.language, NAME, folder)
        self.head.load_state_dict(read_carried(folder, "score"))

    def values(self, batch: Batch) -> Tensor:
        """float32[L]: the value in front of each learned token. Its adapters stay in use, for the backward pass."""
        use_adapter(self.model.language, NAME)
        hidden_LD = self.model.hidden(batch)[batch.predict_L]
        with torch.autocast(hidden_LD.device.type, enabled=False):
            values_L1: Tensor = self.head(hidden_LD.float())
        return values_L1[:, 0]

    def use_policy(self) -> None:
        """Compute with the policy's adapters again."""
        use_adapter(self.model.language, FIRST)

    def save(self, folder: Path) -> None:
        """Write adapters and head beside a checkpoint's own files."""
        tensors = {name: each.detach().cpu().contiguous() for name, each in self._tensors().items()}
        save_file(tensors, folder / FILE, metadata={"format": "pt"})

    def load(self, folder: Path) -> None:
        """Go on from what `save` wrote."""
        file = folder / FILE
        if not file.is_file():
            raise CheckpointError(f"{file} is not there: the value model of this run cannot go on without it")
        stored, mine = load_file(file), self._tensors()
        if {name: each.shape for name, each in stored.items()} != {n: each.shape for n, each in mine.items()}:
            raise CheckpointError(f"{file}: does not fit the adapters of this run")
        with torch.no_grad():
            for name, tensor in stored.items():
                mine[name].copy_(tensor)

    def _tensors(self) -> dict[str, Any]:
        head = {f"head.{name}": parameter for name, parameter in self.head.named_parameters()}
        return {**self._adapters, **head}
