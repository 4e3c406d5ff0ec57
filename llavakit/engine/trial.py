"""What a decoder stores of a token, and whether the engine's steps are right for its class: found by trying.

Some classes change keys or values between the cache and attention, or ask more of a cache than to keep them. A tiny
twin shows it, once per class and config. Shape letters: T tokens, D decoder width, H key heads.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from llavakit.core.errors import ConfigError
from llavakit.core.types import Segment
from llavakit.engine.cache import SlotCache
from llavakit.engine.kv_slots import KvShape, KvSlot
from llavakit.model.attention import NAME, KeyValueCache, Layout
from llavakit.model.decoding import decode_packed
from llavakit.model.fused import packed_layout
from llavakit.model.packing import LIMIT, distance
from llavakit.model.rope import fix_frequencies
from llavakit.model.twin import FOREIGN, first_line, tiny_twin

Run = Callable[[Tensor, Tensor, Layout, KeyValueCache], Tensor]  # x_TD, positions_T, layout, cache -> h_TD
LENGTHS = (14, 13)  # longer than a twin's windows

_known: dict[tuple[type, str], ConfigError | None] = {}


class _Look(KeyValueCache):
    """A cache that only looks at what it is given."""

    def __init__(self) -> None:
        self.seen: dict[int, tuple[torch.Size, torch.Size, torch.dtype]] = {}

    def update(self, key_1HTD: Tensor, value_1HTD: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        self.seen[layer] = (key_1HTD.shape, value_1HTD.shape, key_1HTD.dtype)
        return key_1HTD, value_1HTD


@torch.inference_mode()
def kv_shape(language: PreTrainedModel, run: Run) -> KvShape:
    """What `run` stores of a token, found by running one, which says it for every decoder alike."""
    look, device = _Look(), language.device
    x_TD = language.get_input_embeddings()(torch.zeros(1, dtype=torch.long, device=device))
    run(x_TD, torch.zeros(1, dtype=torch.long, device=device), packed_layout((Segment(0, 1),), device), look)
    kinds = set(look.seen.values())
    if len(kinds) != 1 or any(key != value for key, value, _ in kinds):
        what = "keys and values of different shapes" if kinds else "no keys and values"
        raise ConfigError(
            f"{type(language).__name__}: its layers store {what}, which the engine's cache does not hold"
        )
    ((key, _, dtype),) = kinds
    return KvShape(len(look.seen), key[1], key[3], dtype, device)


def check_steps(language: PreTrainedModel) -> None:
    """ConfigError for a decoder whose class the engine's steps are not right for."""
    key = (type(language), language.config.to_json_string())
    if key not in _known:
        _known[key] = None
        try:
            try_steps(type(language), language.config)
        except ConfigError as error:
            _known[key] = error
    found = _known[key]
    if found is not None:
        raise found


@torch.inference_mode()
def try_steps(kind: type[PreTrainedModel], config: PreTrainedConfig) -> None:
    """The same, without what is known already."""
    twin = tiny_twin(kind, config)
    fix_frequencies(twin)
    twin.set_attn_implementation(NAME)
    first, second = LENGTHS
    x_TD = twin.get_input_embeddings()(torch.arange(first + second) * 7 % 50 + 2)
    places = [torch.arange(length) for length in LENGTHS]
    segments = (Segment(0, first), Segment(first, first + second))
    expected_TD = decode_packed(twin, x_TD, torch.cat(places), packed_layout(segments, twin.device))
    try:
        stepped_TD = _step(twin, x_TD)
    except FOREIGN as error:
        raise ConfigError(
            f"{kind.__name__}: the engine's cache does not suit it: {first_line(error)}"
        ) from None
    if (far := distance(stepped_TD, expected_TD)) > LIMIT:
        raise ConfigError(
            f"{kind.__name__}: the engine's cache does not suit it: its layers change keys or values behind the "
            f"cache (by {far:.2g} of the spread)"
        )


def _step(twin: PreTrainedModel, x_TD: Tensor) -> Tensor:
    """h_TD of two sequences in three steps: both begin, one goes on while the other answers, both answer."""
    run: Run = partial(decode_packed, twin)
    cache = SlotCache(kv_shape(twin, run), 1024)
    slots = [slot for slot in (cache.open(length) for length in LENGTHS) if slot is not None]
    starts, hidden_TD = dict(zip(slots, (0, LENGTHS[0]), strict=True)), torch.empty_like(x_TD)

    def compute(*chunks: tuple[KvSlot, int]) -> None:
        """A token for each slot that answers, in the cache's order, then so many for each of `chunks`."""
        going = [*((slot, 1) for slot in cache.decoding()), *chunks]
        layout = cache.step(chunks)
        places = [(slot, place) for slot, count in going for place in range(slot.length, slot.length + count)]
        rows = [starts[slot] + place for slot, place in places]
        hidden_TD[rows] = run(x_TD[rows], torch.tensor([place for _, place in places]), layout, layout)
        layout.finish()

    (first, longer), (second, shorter) = zip(slots, LENGTHS, strict=True)
    compute((first, 8), (second, shorter - 2))
    second.arena.promote(second)
    compute((first, longer - 9))
    first.arena.promote(first)
    compute()
    return hidden_TD
