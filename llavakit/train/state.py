"""Everything beside the weights that a resumed run needs, in safetensors and JSON: no pickle."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.optim import AdamW

from llavakit.core.errors import CheckpointError
from llavakit.data.loader import Position
from llavakit.model.llava import Llava
from llavakit.train.guard import Guard

TENSORS, FACTS = "train_state.safetensors.state", "train_state.json"


@dataclass
class State:
    """Where a run stands."""

    step: int = 0  # steps done
    steps: int = 0  # steps in all
    position: Position = field(default_factory=Position)  # the next row of data
    seconds: float = 0.0  # training time so far
    tokens: int = 0
    guard: Guard = field(default_factory=Guard)  # what it compares the next step with


def save_state(state: State, optimizer: AdamW, model: Llava, folder: Path) -> None:
    """Write the optimizer's moments by parameter name, the random state, and the position in the data."""
    names = {id(param): name for name, param in model.named_parameters()}
    tensors: dict[str, Tensor] = {"rng": torch.get_rng_state()}
    for param, moments in optimizer.state.items():
        for key, value in moments.items():
            tensors[f"{key}/{names[id(param)]}"] = value
    # The suffix keeps weight loaders, which read every *.safetensors of a folder, from reading this one.
    save_file(tensors, folder / TENSORS)
    (folder / FACTS).write_text(json.dumps(asdict(state), indent=2) + "\n")


def read_state(folder: Path) -> State:
    """Where the run of a checkpoint stands. One without training state cannot be resumed, and says so."""
    if not (folder / FACTS).is_file():
        raise CheckpointError(
            f"{folder}: has weights but no training state; it can start a run, not resume one"
        )
    facts = json.loads((folder / FACTS).read_text())
    return State(
        **{**facts, "position": Position(**facts["position"]), "guard": Guard(**facts.get("guard", {}))}
    )


def load_state(optimizer: AdamW, model: Llava, folder: Path) -> State:
    """Put moments and random state back; returns where the run stands."""
    state = read_state(folder)
    tensors = load_file(folder / TENSORS)
    torch.set_rng_state(tensors.pop("rng"))
    params = dict(model.named_parameters())
    for key, value in tensors.items():
        kind, _, name = key.partition("/")
        if name not in params:
            raise CheckpointError(f"{folder}: training state for {name!r}, which the model does not have")
        optimizer.state[params[name]][kind] = value
    return state
