"""A model of the right shape without its numbers: what a checkpoint fills, or what only sizes are asked of."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.initialization import no_init_weights

from llavakit.model.card import Card
from llavakit.model.connector import build_connector
from llavakit.model.llava import Llava, Newline, Score
from llavakit.model.rope import stretch_config
from llavakit.model.tower import empty_tower


def empty_model(
    card: Card,
    text: dict[str, Any],
    vision: dict[str, Any] | None,
    *,
    rope_factor: float | None = None,
    device: str = "cpu",
    unread: bool = False,
) -> Llava:
    """A model of the right shape whose weights a checkpoint will fill; the decoder's are on `device`.

    With `unread` the decoder's parameters take no memory (they are on the meta device), but its buffers are there.
    """
    settings = AutoConfig.for_model(**text)
    if rope_factor is not None:
        stretch_config(settings, rope_factor)
    with no_init_weights(), torch.device(device), without_numbers() if unread else nullcontext():
        language = AutoModelForCausalLM.from_config(settings)
    tower = empty_tower(card.tower, card.image, vision)
    connector = build_connector(card.connector, tower.width, settings.hidden_size)
    newline, score = new_rows(card, settings.hidden_size)
    return Llava(tower, connector, language, newline, score)


@contextmanager
def without_numbers() -> Iterator[None]:
    """Inside, modules get their parameters on the meta device. Buffers, which are small and computed, are real."""

    def forget(module: nn.Module, name: str, parameter: nn.Parameter) -> nn.Parameter | None:
        if parameter is None or parameter.is_meta:  # a tied one stays the same one
            return None
        return nn.Parameter(parameter.to("meta"), requires_grad=parameter.requires_grad)

    hook: Any = forget  # what it returns takes the parameter's place, which its declared type does not say
    handle = register_module_parameter_registration_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def new_rows(card: Card, width: int) -> tuple[Newline, Score]:
    """Fresh separators and the head of a reward model, as far as a card asks for them."""
    return Newline(card.separators, width), Score(0 if card.grading is None else width)
