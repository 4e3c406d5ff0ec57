"""The table of docs/scale.md: the estimator of --dry-run for real models, on a page that is up to date."""

import pytest

from benchmarks.memory_table import PAGE, STAGES, Assumed, model_of, row_flops, tables, ways

EVERYTHING, STAGE_1 = STAGES.values()


def test_sharding_divides_the_state_and_recomputing_trades_memory_for_time():
    assumed = Assumed()
    found = {(gpus, way.how): way for gpus in (1, 8, 64) for way in ways("7B", gpus, assumed, EVERYTHING)}
    whole, eight, many = found[1, "whole"], found[8, "FSDP"], found[64, "FSDP"]
    less = found[8, "FSDP, recomputing"]
    assert eight.memory.weights == pytest.approx(whole.memory.weights / 8)
    assert whole.memory.weights == pytest.approx(4 * 7.06e9, rel=0.003)
    assert whole.memory.gradients + whole.memory.moments == pytest.approx(3 * whole.memory.weights)
    assert less.memory.activations < eight.memory.activations / 8
    assert less.tokens_per_second == pytest.approx(eight.tokens_per_second * 3 / 4)
    assert many.tokens_per_second == pytest.approx(eight.tokens_per_second * 8 * assumed.loss_by_eight)
    assert not whole.fits(assumed) and eight.fits(assumed)


def test_operations_are_six_a_parameter_and_token():
    """The rule of thumb, within what tower, attention and unlearned rows change."""
    assumed = Assumed()
    params = sum(p.numel() for p in model_of("7B").language.parameters())
    whole, stage_1 = (row_flops("7B", assumed, trained) for trained in (EVERYTHING, STAGE_1))
    assert whole / (6 * params * assumed.tokens) == pytest.approx(1, abs=0.1)
    assert stage_1 / whole == pytest.approx(2 / 3, abs=0.02)


def test_the_page_shows_what_the_script_computes():
    assert tables(Assumed()) in PAGE.read_text(), "run: python -m benchmarks.memory_table"
