"""A packed row through the decoder: as it is, or each of its sequences alone where samples would change each other.

Layers that carry a state from token to token (Mamba, linear attention, short convolutions) would carry it into the
next sample. So the row is taken apart into its sequences, which run as batches of about one length, padded behind
their ends, where nothing before can see it; what comes out is put together again. Callers see a packed row.
Shape letters: T tokens of the row, B sequences, L tokens of the longest of them, D decoder width.
"""

from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from transformers import PreTrainedModel

from llavakit.core.errors import ConfigError
from llavakit.core.types import Segment, send
from llavakit.model.attention import CausalLayout, KeyValueCache, Layout


def body(language: PreTrainedModel) -> nn.Module:
    """The module from embeddings to the final norm."""
    found: nn.Module = language.get_decoder()
    if found is not language:
        return found
    parts = dict(
        language.named_children()
    )  # some classes name their parts in a way that theirs does not find
    if "model" not in parts:
        raise ConfigError(
            f"{type(language).__name__}: llavakit does not know which part of it is the decoder"
        )
    return parts["model"]


def decode_packed(
    language: PreTrainedModel,
    x_TD: Tensor,
    positions_T: Tensor,
    layout: Layout,
    cache: KeyValueCache | None = None,
) -> Tensor:
    """h_TD of a packed row, by a decoder that keeps its segments apart."""
    out = body(language)(
        inputs_embeds=x_TD[None],
        attention_mask=_all_seen(x_TD[None]) if cache is None else None,
        position_ids=positions_T[None],
        past_key_values=cache,
        use_cache=cache is not None,
        layout=layout,
    )
    hidden_TD: Tensor = out.last_hidden_state[0]
    return hidden_TD


def decode_alone(language: PreTrainedModel, x_TD: Tensor, segments: tuple[Segment, ...]) -> Tensor:
    """h_TD of a packed row."""
    paths = _leaf_paths(segments)
    groups = list(_groups([len(path) for path in paths]))
    more = _passes_of_others(language, len(groups))  # before the first pass, in which ranks meet
    hidden_RD, starts, first = [], {}, 0
    for group in groups:
        longest = len(paths[group[0]])
        index_BL = torch.zeros(len(group), longest, dtype=torch.long)
        for row, number in enumerate(group):
            index_BL[row, : len(paths[number])] = torch.tensor(paths[number])
            starts[number] = first + row * longest
        hidden_RD.append(_run(language, x_TD[send(index_BL, x_TD.device)]).flatten(0, 1))
        first += index_BL.numel()
    # A shared beginning comes out of every path that has it, the same each time: any will do.
    rows = {token: starts[number] + at for number, path in enumerate(paths) for at, token in enumerate(path)}
    index_T = torch.tensor([rows[token] for token in range(len(x_TD))])
    hidden_TD = torch.cat(hidden_RD)[send(index_T, x_TD.device)]
    for _ in range(more):
        hidden_TD = hidden_TD + 0 * _run(language, x_TD[None, :1]).sum()
    return hidden_TD


def _run(language: PreTrainedModel, x_BLD: Tensor) -> Tensor:
    batch, longest, _ = x_BLD.shape
    positions_BL = torch.arange(longest, device=x_BLD.device).expand(batch, -1)
    out = body(language)(
        inputs_embeds=x_BLD,
        attention_mask=_all_seen(x_BLD),
        position_ids=positions_BL,
        use_cache=False,
        layout=CausalLayout(longest),
    )
    hidden_BLD: Tensor = out.last_hidden_state
    return hidden_BLD


def _all_seen(x_BLD: Tensor) -> Tensor:
    """bool[B, L]: nothing is padding. Else `transformers` looks at positions, and the host waits for the GPU."""
    return x_BLD.new_ones(x_BLD.shape[:2], dtype=torch.bool)


def _leaf_paths(segments: tuple[Segment, ...]) -> list[list[int]]:
    """The tokens of each sequence of the row: a leaf's, with all that it descends from before it."""
    parents = {segment.parent for segment in segments}
    return [path_to(segments, number) for number in range(len(segments)) if number not in parents]


def path_to(segments: tuple[Segment, ...], number: int) -> list[int]:
    """The tokens that the last token of a segment sees."""
    segment = segments[number]
    before = [] if segment.parent is None else path_to(segments, segment.parent)
    return [*before, *range(segment.start, segment.end)]


def _groups(lengths: list[int]) -> Iterator[list[int]]:
    """Numbers of sequences that run together, the longest first; none is shorter than half of the longest."""
    group: list[int] = []
    for number in sorted(range(len(lengths)), key=lambda number: -lengths[number]):
        if group and lengths[number] * 2 < lengths[group[0]]:
            yield group
            group = []
        group.append(number)
    yield group


def _passes_of_others(language: PreTrainedModel, mine: int) -> int:
    """How many more passes the rank with most makes. Ranks that share a model meet in each of them."""
    if not any(isinstance(module, FSDPModule) for module in language.modules()):
        return 0
    most = torch.tensor(mine, device=language.device)
    dist.all_reduce(most, op=dist.ReduceOp.MAX)
    return int(most) - mine
