"""Everything beside the weights that a resumed run needs, in safetensors and JSON: no pickle.

Every rank writes one file with its rows of the optimizer's moments, and the file's header says which rows they are.
Any number of ranks can read them back: each takes the rows that are its own now, from whatever files have them.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from itertools import zip_longest
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.optim import AdamW

from llavakit.core.errors import CheckpointError, ConfigError
from llavakit.data.loader import Position
from llavakit.data.mixture import Mixture, SourceFacts
from llavakit.model.formats.halves import lower_half, whole
from llavakit.model.llava import Llava
from llavakit.train.guard import Guard
from llavakit.train.ranks import Ranks
from llavakit.train.run import Run
from llavakit.train.sharding import first_row, local_shard, shaped_like, writes_shard

FACTS = "train_state.json"
# The suffix keeps weight loaders, which read every *.safetensors of a folder, from reading these.
TENSORS = "train_state.rank{rank:05d}-of-{ranks:05d}.safetensors.state"
RANDOM = ("random_cpu", "random_cuda")
LOST = "lost"  # the lower half of a float32 weight whose upper one is in the model's own files


@dataclass(frozen=True)
class Round:
    """Where a run stands that learns from its own answers (llavakit/align)."""

    number: int = 0  # of the round whose answers are learned from next
    learned: int = 0  # steps of it that are done; the answers are in the run's folder
    prompt: int = 0  # the next record to be asked, counted over epochs
    kl_coef: float | None = None  # where a controller has brought it
    answers: int = 0  # so far, and how many of them nothing could score
    unscorable: int = 0


@dataclass
class State:
    """Where a run stands."""

    step: int = 0  # steps done
    steps: int = 0  # steps in all
    position: Position = field(default_factory=Position)  # the next row of data
    round: Round | None = None
    seconds: float = 0.0  # training time so far
    tokens: int = 0
    ranks: int = 1  # that wrote the state
    guard: Guard = field(default_factory=Guard)  # what it compares the next step with
    sources: list[SourceFacts] = field(default_factory=list)  # the data it began with
    half: bool = False  # the weights beside it are in bf16, and what that lost of them is with the moments


def save_state(
    state: State, optimizer: AdamW, model: Llava, folder: Path, ranks: Ranks, *, half: bool = False
) -> None:
    """Write this rank's rows of the moments by parameter name, and its random state; the first one the facts.

    With `half`, the model's float32 weights are saved in bf16, and what that loses of them is written here.
    """
    tensors: dict[str, Tensor] = {"random_cpu": torch.get_rng_state()}
    if ranks.device.type == "cuda":
        tensors["random_cuda"] = torch.cuda.get_rng_state(ranks.device)
    rows: dict[str, int] = {}
    for name, value in exact_tensors(model).items() if half else ():
        if writes_shard(value, ranks):
            tensors[f"{LOST}/{name}"] = lower_half(local_shard(value))
            rows[f"{LOST}/{name}"] = first_row(value)
    for name, param in model.named_parameters():
        for kind, value in optimizer.state.get(param, {}).items():
            if writes_shard(value, ranks):
                tensors[f"{kind}/{name}"] = local_shard(value).contiguous()
                rows[f"{kind}/{name}"] = first_row(value)
    file = folder / TENSORS.format(rank=ranks.rank, ranks=ranks.size)
    save_file(tensors, file, metadata={"first_rows": json.dumps(rows)})
    if ranks.is_first:
        facts = asdict(state) | {"ranks": ranks.size, "half": half}
        (folder / FACTS).write_text(json.dumps(facts, indent=2) + "\n")


def read_state(folder: Path) -> State:
    """Where the run of a checkpoint stands. One without training state cannot be resumed, and says so."""
    if not (folder / FACTS).is_file():
        raise CheckpointError(
            f"{folder}: has weights but no training state; it can start a run, not resume one"
        )
    facts = json.loads((folder / FACTS).read_text())
    parts = {
        "position": Position(**facts["position"]),
        "round": Round(**facts["round"]) if facts.get("round") else None,
        "guard": Guard(**facts.get("guard", {})),
        "sources": [SourceFacts(**source) for source in facts.get("sources", [])],
    }
    return State(**facts | parts)


def load_state(optimizer: AdamW, model: Llava, folder: Path, ranks: Ranks) -> State:
    """Put moments and random state back; returns where the run stands.

    With as many ranks as wrote it, everything is bit for bit what it was. With another number the moments are
    too, and a rank that was not there before starts with the random state of its seed.
    """
    state = read_state(folder)
    stored = _Stored(folder, state, ranks.rank)
    params = dict(model.named_parameters())
    for key in stored.keys():  # noqa: SIM118  (not a dictionary)
        kind, _, name = key.partition("/")
        if kind == LOST:  # taken already
            continue
        if name not in params:
            raise CheckpointError(f"{folder}: training state for {name!r}, which the model does not have")
        optimizer.state[params[name]][kind] = stored.fill(key, params[name])
    for key, value in stored.random().items():
        if key == "random_cpu":
            torch.set_rng_state(value)
        elif ranks.device.type == "cuda":
            torch.cuda.set_rng_state(value, ranks.device)
    return state


@torch.no_grad()
def restore_weights(model: Llava, folder: Path, ranks: Ranks) -> None:
    """Give float32 weights back what they lost where the checkpoint has them in bf16."""
    state = read_state(folder)
    if not state.half:
        return
    stored = _Stored(folder, state, ranks.rank)
    known = set(stored.keys())
    for name, value in exact_tensors(model).items():
        if f"{LOST}/{name}" in known:
            lost, mine = stored.fill(f"{LOST}/{name}", value), local_shard(value)
            mine.copy_(whole(mine, local_shard(lost)))


def exact_tensors(model: Llava) -> dict[str, Tensor]:
    """What a checkpoint has of a model in float32, buffers too; tied tensors once."""
    found = {
        id(tensor): (name, tensor)
        for name, tensor in model.state_dict(keep_vars=True).items()
        if tensor.dtype == torch.float32
    }
    return {name: tensor.detach() for name, tensor in found.values()}


def refuse_other_data(state: State, records: Mixture, run: Run) -> None:
    """A position in the data means something in the data a run began with only; other data is a ConfigError."""
    found = records.facts()
    if not state.sources:  # written before this was kept
        return
    counts = [source.records for source in state.sources] == [source.records for source in found]
    for before, now in zip_longest(state.sources, found):
        if before == now or (run.data.edited == "accept" and counts):
            continue
        name, had = (now.name, 0) if before is None else (before.name, before.records)
        has = 0 if now is None else now.records
        if had == has:
            raise ConfigError(
                f"{name} is not what this run began with: as many records, {has:,}, but other ones; put it back. "
                "If records were only edited in their places: data.edited=accept"
            )
        raise ConfigError(
            f"{name} is not what this run began with: {had:,} records then, {has:,} now, so the order would be "
            f"another; "
            "put it back, or start a run from these weights: "
            f"model.start={run.out} and another out="
        )


class _Stored:
    """The files of one checkpoint's training state, each opened at most once and only if it is needed.

    As many ranks as wrote it find their rows in their own files, and numbers in the first.
    """

    def __init__(self, folder: Path, state: State, rank: int) -> None:
        self.files = [
            folder / TENSORS.format(rank=number, ranks=state.ranks) for number in range(state.ranks)
        ]
        self.rank = rank
        self._opened: dict[Path, tuple[safe_open, dict[str, int]]] = {}

    def keys(self) -> Iterable[str]:
        """What there is of whatever rank: the first one has rows of everything."""
        return self._open(self.files[0])[1].keys()

    def fill(self, key: str, param: Tensor) -> Tensor:
        """The stored tensor, with the rows that this rank has of `param`, and laid out as it is."""
        opened, _ = self._open(self.files[0])
        if not opened.get_slice(key).get_shape():  # a number, the same everywhere
            return opened.get_tensor(key).to(local_shard(param).device)
        some = opened.get_slice(key)[:0]  # its type and columns need not be those of its weight
        value = shaped_like(param, tuple(some.shape[1:]), some.dtype)
        mine, start, found = local_shard(value), first_row(param), 0
        for file in self._nearest():
            if found == len(mine):
                break
            opened, rows = self._open(file)
            if key not in rows:
                continue
            piece, first = opened.get_slice(key), rows[key]
            low, high = max(first, start), min(first + piece.get_shape()[0], start + len(mine))
            if low < high:
                mine[low - start : high - start].copy_(piece[low - first : high - first])
                found += high - low
        if found != len(mine):
            raise CheckpointError(f"{self.files[0].parent}: training state lacks rows of {key}")
        return value

    def random(self) -> dict[str, Tensor]:
        """The random state of this rank, if it was there."""
        if self.rank >= len(self.files):
            return {}
        opened, _ = self._open(self.files[self.rank])
        return {key: opened.get_tensor(key) for key in opened.keys() if key in RANDOM}  # noqa: SIM118

    def _nearest(self) -> Iterator[Path]:
        """This rank's own file, then all others."""
        own = self.files[self.rank : self.rank + 1]
        yield from own
        yield from (file for file in self.files if file not in own)

    def _open(self, file: Path) -> tuple[safe_open, dict[str, int]]:
        """The file, and the first row of each tensor in it."""
        if file not in self._opened:
            try:
                opened = safe_open(file, "pt")
                self._opened[file] = opened, json.loads(opened.metadata()["first_rows"])
            except (OSError, SafetensorError) as error:
                raise CheckpointError(f"{file}: training state cannot be read: {error}") from None
        return self._opened[file]
