"""The model: tower -> connector -> decoder, for every member of the family. It gathers; it decides nothing.

Which feature row stands in which token is in the batch (a plan made it), which token sees which is in the
layout, and what is learned is in the batch again. So there is no branch here on model names or image kinds.
"""

from typing import Protocol

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from llavakit.core.types import Batch
from llavakit.model.attention import NAME, Layout, packed_layout
from llavakit.model.tower import Tower

PARTS = ("tower", "connector", "language")


class KeyValueCache(Protocol):
    """What an attention layer of `transformers` calls to store its new keys and values."""

    def update(self, key_1HTD: Tensor, value_1HTD: Tensor, layer: int) -> tuple[Tensor, Tensor]: ...


class Llava(nn.Module):
    """Shape letters: T tokens, N tiles, R rows per tile, C tower width, D decoder width, V vocabulary."""

    def __init__(self, tower: Tower, connector: nn.Sequential, language: PreTrainedModel) -> None:
        super().__init__()
        self.tower, self.connector, self.language = tower, connector, language
        language.set_attn_implementation(NAME)

    @property
    def device(self) -> torch.device:
        return self.language.device

    def part(self, name: str) -> nn.Module:
        """The module called tower, connector or language: what settings freeze and give learning rates."""
        return self.get_submodule(name)

    def embed(self, batch: Batch) -> Tensor:
        """x_TD: token embeddings with image rows in their slots."""
        # Slots carry IMAGE_ID, which is no row of the table; what is looked up there is overwritten.
        x_TD: Tensor = self.language.get_input_embeddings()(batch.ids_T.clamp(min=0))
        features_NRC = batch.features_NRC
        if features_NRC is None and batch.pixels_NHWC is not None:
            features_NRC = self.tower(batch.pixels_NHWC)
        if features_NRC is None:
            return x_TD
        rows_ND = self.connector(features_NRC.to(_dtype(self.connector))).flatten(0, 1)
        return x_TD.index_put((batch.slots_S,), rows_ND[batch.rows_S].to(x_TD.dtype))

    def decode(
        self, x_TD: Tensor, positions_T: Tensor, layout: Layout, cache: KeyValueCache | None = None
    ) -> Tensor:
        """h_TD: the decoder's last hidden states of a packed row, after its final norm."""
        out = self.language.get_decoder()(
            inputs_embeds=x_TD[None],
            position_ids=positions_T[None],
            past_key_values=cache,
            use_cache=cache is not None,
            layout=layout,
        )
        hidden_TD: Tensor = out.last_hidden_state[0]
        return hidden_TD

    def hidden(self, batch: Batch, cache: KeyValueCache | None = None) -> Tensor:
        """h_TD of a whole packed batch."""
        layout = packed_layout(batch.segments, batch.ids_T.device)
        return self.decode(self.embed(batch), batch.positions_T, layout, cache)

    def logits(self, hidden_LD: Tensor) -> Tensor:
        """[L, V] for the chosen hidden rows only: most rows of a LLaVA sample are never asked to predict."""
        head = self.language.get_output_embeddings()
        assert head is not None
        logits_LV: Tensor = head(hidden_LD)
        return logits_LV


def _dtype(module: nn.Module) -> torch.dtype:
    return next(module.parameters()).dtype
