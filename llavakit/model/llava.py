"""The model: tower -> connector -> decoder, for every member of the family. It gathers; it decides nothing.

Which feature rows make which token is in the batch (a plan made it), which token sees which is in the layout,
and what is learned is in the batch again. So there is no branch here on model names or kinds of media.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from llavakit.core.errors import ConfigError
from llavakit.core.types import Batch, Gather
from llavakit.model.attention import NAME, KeyValueCache, Layout, TreeLayout
from llavakit.model.decoding import decode_alone, decode_packed
from llavakit.model.formats.keys import SEPARATORS
from llavakit.model.fused import FusedLayout, packed_layout
from llavakit.model.packing import check_packing
from llavakit.model.rope import fix_frequencies, linear_factor
from llavakit.model.tower import Tower

Found = TypeVar("Found")
PARTS = ("tower", "connector", "language", "newline", "score")


class Llava(nn.Module):
    """Shape letters: T tokens, N tiles, R rows per tile, C tower width, D decoder width, V vocabulary."""

    def __init__(
        self,
        tower: Tower,
        connector: nn.Sequential,
        language: PreTrainedModel,
        newline: "Newline | None" = None,
        score: "Score | None" = None,
    ) -> None:
        super().__init__()
        self.tower, self.connector, self.language = tower, connector, language
        self.newline = Newline(()) if newline is None else newline
        self.score = Score() if score is None else score
        self.packing = check_packing(language)
        self.compiler: str | None = None  # the backend of `torch.compile` by which its blocks are compiled
        language.set_attn_implementation(NAME)
        fix_frequencies(language)

    @property
    def device(self) -> torch.device:
        """Where rows go in: with the token embeddings, the connector is there."""
        weight = next(self.connector.parameters())
        if isinstance(weight, DTensor) and weight.device_mesh.device_type == "cuda":
            return torch.device("cuda", torch.cuda.current_device())  # its shard may lie in the host's memory
        return weight.device

    @property
    def width(self) -> int:
        """D, the decoder's."""
        return int(self.language.config.hidden_size)

    @property
    def context(self) -> int:
        """Tokens the decoder has positions for."""
        return int(self.language.config.max_position_embeddings)

    @property
    def stretched(self) -> float:
        """The factor by which linear RoPE scaling has made `context` longer; 1: it has not."""
        return linear_factor(self.language.config.to_dict()) or 1.0

    def part(self, name: str) -> nn.Module:
        """The module that settings freeze and give a learning rate by its name, one of PARTS."""
        return self.get_submodule(name)

    def features(self, batch: Batch) -> Tensor | None:
        """features_RC: the tower's rows for the tiles of a batch; None where it shows nothing."""
        if batch.features_RC is not None or not batch.pixels:
            return batch.features_RC
        return torch.cat([self.tower(pixels_NHWC).flatten(0, 1) for pixels_NHWC in batch.pixels])

    def embed(self, batch: Batch) -> Tensor:
        """x_TD: token embeddings with image rows in their slots."""
        # Slots carry IMAGE_ID, which is no row of the table; what is looked up there is overwritten.
        x_TD: Tensor = self.language.get_input_embeddings()(batch.ids_T.clamp(min=0))
        features_RC = self.features(batch)
        if features_RC is None:
            return x_TD
        if batch.pools:
            pooled_RC = features_RC.new_zeros(
                sum(len(pool.into_S) for pool in batch.pools), features_RC.shape[1]
            )
            features_RC = gather_rows(features_RC, batch.pools, pooled_RC)
        rows_RD = self.connector(features_RC.to(_dtype(self.connector)))
        x_TD = gather_rows(rows_RD, batch.gathers, x_TD)
        if len(batch.separator_slots_S):
            x_TD = x_TD.index_put(
                (batch.separator_slots_S,), self.newline.table_MD()[batch.separator_rows_S].to(x_TD.dtype)
            )
        if batch.use_all_parts:
            # Ranks that share a model wait for each other's gradients of every part: a row without pictures
            # must have some too. Weight zero: the value does not change, the graph does.
            used = [rows_RD.sum(), *(row_D.sum() for row_D in self.newline.parameters())]
            x_TD = x_TD + 0 * torch.stack(used).sum().to(x_TD.dtype)
        return x_TD

    def decode(
        self, x_TD: Tensor, positions_T: Tensor, layout: Layout, cache: KeyValueCache | None = None
    ) -> Tensor:
        """h_TD: the decoder's last hidden states of a packed row, after its final norm."""
        if self.packing.packs:
            return decode_packed(self.language, x_TD, positions_T, layout, cache)
        if cache is not None or not isinstance(layout, TreeLayout | FusedLayout):
            raise ConfigError(self.packing.explain(self.language))
        return decode_alone(self.language, x_TD, layout.segments)

    def hidden(self, batch: Batch, cache: KeyValueCache | None = None) -> Tensor:
        """h_TD of a whole packed batch."""
        layout = packed_layout(batch.segments, batch.ids_T.device)
        return self.decode(self.embed(batch), batch.positions_T, layout, cache)

    def logits(self, hidden_LD: Tensor) -> Tensor:
        """[L, V] for the chosen hidden rows only: most rows of a LLaVA sample are never asked to predict.

        Where ranks may share the model, call it inside `with_head`.
        """
        head = self.language.get_output_embeddings()
        assert head is not None
        logits_LV: Tensor = head.forward(hidden_LD)  # not a call: ranks would meet in every one
        return logits_LV

    def with_head(self, work: Callable[[Tensor], Found], hidden_LD: Tensor) -> Found:
        """`work(hidden_LD)`, which uses the head. Ranks that share the model put it together once for all of that,
        however many chunks a rank's rows make; what `work` returns are tensors.
        """
        head: Any = self.language.get_output_embeddings()
        cut = isinstance(head, FSDPModule)  # else it is whole, or together with the table that it is tied to
        found: Found = head.lend(work, hidden_LD) if cut else work(hidden_LD)
        return found


class Newline(nn.Module):
    """Learned rows that stand between image tokens: the newline of AnyRes and video, slow-fast's closing token."""

    def __init__(self, names: tuple[str, ...], width: int = 0) -> None:
        """`names` of SEPARATORS, each with a row of `width` from N(0, 1/width) (released initialisation)."""
        super().__init__()
        self.names = names
        for name in names:
            self.register_parameter(name, nn.Parameter(torch.randn(width) / width**0.5))

    def table_MD(self) -> Tensor:
        """A row per name of SEPARATORS; what the model does not have is zeros, and no plan of it asks for them."""
        separators = dict(self.named_parameters())
        some = separators[self.names[0]]
        return torch.stack([separators.get(name, torch.zeros_like(some)) for name in SEPARATORS])


class Score(nn.Module):
    """A reward model's head: what a hidden row is worth. Without a width a model has none, as most have."""

    def __init__(self, width: int = 0) -> None:
        """A fresh head says next to nothing: weights from N(0, 1/(width + 1)^2), no bias."""
        super().__init__()
        if width:
            self.weight = nn.Parameter(torch.randn(1, width) / (width + 1))
            self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, hidden_LD: Tensor) -> Tensor:
        """float32[L]: half of that would round small differences of large scores away."""
        with torch.autocast(hidden_LD.device.type, enabled=False):
            return nn.functional.linear(hidden_LD.float(), self.weight.float(), self.bias.float())[:, 0]


def gather_rows(table_RC: Tensor, gathers: tuple[Gather, ...], into_SC: Tensor) -> Tensor:
    """`into_SC` with its rows replaced by what the gathers make of the table."""
    for each in gathers:
        rows_SKC = table_RC[each.rows_SK]
        if each.weights_SK is None:
            rows_SC = rows_SKC[:, 0] if rows_SKC.shape[1] == 1 else rows_SKC.amax(dim=1)
        else:
            rows_SC = (rows_SKC * each.weights_SK[..., None].to(rows_SKC.dtype)).sum(dim=1)
        into_SC = into_SC.index_put((each.into_S,), rows_SC.to(into_SC.dtype))
    return into_SC


def _dtype(module: nn.Module) -> torch.dtype:
    return next(module.parameters()).dtype
