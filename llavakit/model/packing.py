"""What a decoder class can be trusted with, found by trying: a tiny twin of it, once per class and config.

Packing is right where each segment of a row comes out as if it stood alone. Layers that carry a state from token to
token outside attention break it, attention of an own kind may, and only running it shows. The reference is the
twin's eager attention, one sequence at a time. Shape letters: T tokens, D decoder width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from llavakit.core.errors import ConfigError
from llavakit.core.types import Segment, segment_positions
from llavakit.model.attention import NAME
from llavakit.model.decoding import body, decode_alone, decode_packed, path_to
from llavakit.model.fused import packed_layout
from llavakit.model.rope import fix_frequencies
from llavakit.model.twin import FOREIGN, first_line, tiny_twin

TREE = (
    Segment(0, 7),
    Segment(7, 16, 0),
    Segment(16, 20, 0),
    Segment(20, 31),
)  # paths are longer than a window
LIMIT = 1e-3  # of the standard deviation: what float32 may differ


@dataclass(frozen=True)
class Packing:
    """How rows go through a decoder."""

    packs: bool  # several segments share a row; else each goes through alone
    reason: str = ""  # why not

    def explain(self, language: PreTrainedModel) -> str:
        """Why the engine does not take this decoder, and what to do."""
        return (
            f"{type(language).__name__}: {self.reason}, so it is trained one sequence at a time; the engine, whose "
            "steps are rows of many, does not run it: export it and serve it with vLLM or SGLang"
        )


_known: dict[tuple[type, str], Packing | ConfigError] = {}


def check_packing(language: PreTrainedModel) -> Packing:
    """What the decoder's class does with packed rows; ConfigError for one that cannot be served at all."""
    key = (type(language), language.config.to_json_string())
    if key not in _known:
        try:
            with torch.device("cpu"):  # also where the model itself is built without memory
                _known[key] = try_packing(type(language), language.config)
        except ConfigError as error:
            _known[key] = error
    found = _known[key]
    if isinstance(found, ConfigError):
        raise found
    return found


@torch.no_grad()
def try_packing(kind: type[PreTrainedModel], config: PreTrainedConfig) -> Packing:
    """The same, without what is known already."""
    name = kind.__name__
    if config.get_text_config(decoder=True) is not config:
        raise ConfigError(f"{name} is a model of several parts; a decoder is its language model alone")
    twin = tiny_twin(kind, config)
    fix_frequencies(twin)
    ids_T = torch.arange(TREE[-1].end) * 7 % 50 + 2
    own = [_own(twin, ids_T[path_to(TREE, number)])[-len(each) :] for number, each in enumerate(TREE)]
    twin.set_attn_implementation(NAME)
    if twin.config._attn_implementation != NAME:  # they only warn
        raise ConfigError(f"{name} does not call registered attention, so samples cannot be kept apart")
    try:
        x_TD, expected_TD = twin.get_input_embeddings()(ids_T), torch.cat(own)
        layout, places_T = packed_layout(TREE, torch.device("cpu")), torch.tensor(segment_positions(TREE))
        alone_TD = decode_alone(twin, x_TD, TREE)
        packed_TD = decode_packed(twin, x_TD, places_T, layout)
        decode_packed(twin, x_TD * 1.1, places_T, layout)  # picture rows are no rows of the table
    except FOREIGN as error:
        raise ConfigError(f"{name} does not take packed attention: {first_line(error)}") from None
    if (far := distance(alone_TD, expected_TD)) > LIMIT:
        raise ConfigError(
            f"{name} computes something else from embeddings and packed attention than from token ids and its own "
            f"(by {far:.2g} of the spread)"
        )
    if (far := distance(packed_TD, expected_TD)) > LIMIT:
        return Packing(False, f"samples of a row change each other (by {far:.2g} of the spread)")
    return Packing(True)


def _own(twin: PreTrainedModel, ids_T: Tensor) -> Tensor:
    """h_TD of one sequence by the class's own attention."""
    hidden_TD: Tensor = body(twin)(input_ids=ids_T[None], use_cache=False).last_hidden_state[0]
    return hidden_TD


def distance(ours_TD: Tensor, theirs_TD: Tensor) -> float:
    """The largest difference, of the spread of values; no number is infinitely far."""
    far = float((ours_TD - theirs_TD).abs().max() / theirs_TD.std())
    return far if far == far else float("inf")
