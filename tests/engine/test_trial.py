"""Decoders that the engine's steps are not right for are refused in one line, before they answer anything."""

import pytest
from transformers import (
    DiffLlamaConfig,
    DiffLlamaForCausalLM,
    GemmaConfig,
    GemmaForCausalLM,
    MiniCPM3Config,
)

from llavakit.core.errors import ConfigError
from llavakit.engine import trial
from llavakit.engine.engine import Engine
from llavakit.engine.trial import check_steps, try_steps
from llavakit.model.twin import tiny_config
from tests.model.test_decoders import SHAPE, random_model


def test_a_decoder_that_changes_values_behind_the_cache_is_refused():
    """It answered something else than it was trained to, without a word."""
    with pytest.raises(
        ConfigError, match="DiffLlamaForCausalLM: the engine's cache does not suit it"
    ) as caught:
        Engine(random_model(DiffLlamaConfig(**SHAPE)), frozenset())
    assert "\n" not in str(caught.value)


def test_keys_and_values_of_different_shapes_are_refused():
    with pytest.raises(
        ConfigError, match="MiniCPM3ForCausalLM: its layers store keys and values of different"
    ):
        Engine(random_model(tiny_config(MiniCPM3Config())), frozenset())


def test_a_class_is_tried_once(monkeypatch):
    tried = []
    monkeypatch.setattr(trial, "_known", {})
    monkeypatch.setattr(trial, "try_steps", lambda *args: tried.append(args) or try_steps(*args))
    good = random_model(GemmaConfig(**SHAPE, head_dim=8)).language
    bad = random_model(DiffLlamaConfig(**SHAPE)).language
    for _ in range(2):
        check_steps(good)
        with pytest.raises(ConfigError):
            check_steps(bad)
    assert [kind for kind, _ in tried] == [GemmaForCausalLM, DiffLlamaForCausalLM]
