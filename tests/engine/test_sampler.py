"""The sampler against the processors of `transformers`, and its random streams."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.generation.logits_process import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from llavakit.engine import sampler
from llavakit.engine.sampler import (
    Choice,
    Draw,
    Sampling,
    choose,
    distribution,
    draw_together,
    invert,
    likeliest,
)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10**6),
    temperature=st.floats(0.2, 3),
    top_k=st.integers(0, 60),
    top_p=st.sampled_from([1.0, 0.95, 0.6, 0.1]),
    min_p=st.sampled_from([0.0, 0.02, 0.4]),
    most=st.sampled_from([2, 10, 1024]),
)
def test_what_can_be_drawn_is_what_transformers_would_draw(seed, temperature, top_k, top_p, min_p, most):
    scores_V = torch.randn(50, generator=torch.Generator().manual_seed(seed)) * 3
    warpers = [TemperatureLogitsWarper(temperature)]
    warpers += [TopKLogitsWarper(top_k)] if top_k else []
    warpers += [TopPLogitsWarper(top_p)] if top_p < 1 else []
    warpers += [MinPLogitsWarper(min_p)] if min_p else []
    expected_V = LogitsProcessorList(warpers)(torch.zeros(1, 1, dtype=torch.long), scores_V[None])[0].softmax(
        0
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampler, "MOST", most)  # few are sorted first, and all where that is not enough
        tokens, probs = distribution(
            scores_V, Sampling(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
        )
    got_V = torch.zeros(50)
    got_V[torch.arange(50) if tokens is None else tokens] = probs
    torch.testing.assert_close(got_V, expected_V, rtol=1e-4, atol=1e-6)


def test_the_repetition_penalty_is_that_of_transformers():
    scores_SV = torch.randn(20, 50, generator=torch.Generator().manual_seed(0))
    said = [[token % 50 for token in range(row, row + 20)] for row in range(20)]
    expected = (
        RepetitionPenaltyLogitsProcessor(1.7)(torch.tensor(said), scores_SV.clone()).argmax(-1).tolist()
    )
    draws = [Draw(Sampling(repetition_penalty=1.7), prompt=prompt) for prompt in said]
    assert [choice.token for choice in choose_all(scores_SV, draws)] == expected
    assert expected != scores_SV.argmax(-1).tolist()


def choose_all(logits_SV, draws):
    """The next token of each sequence, as the engine asks for them."""
    best = likeliest(logits_SV)
    drawn = draw_together(logits_SV, draws, best)
    return [drawn.get(row) or choose(logits_SV, row, draw, best[row]) for row, draw in enumerate(draws)]


def said(logits_V, how, count, prompt=()):
    """So many tokens in a row from the same scores."""
    draw = Draw(how, prompt=prompt)
    return [choose_all(logits_V[None], [draw])[0].token for _ in range(count)]


def test_presence_is_taken_once_and_frequency_as_often_as_the_answer_has_the_token():
    logits_V = torch.tensor([3.0, 2.0, 1.0, -9.0])
    assert said(logits_V, Sampling(presence_penalty=1.5), 4, prompt=[0, 0]) == [0, 1, 0, 0], (
        "not in the prompt"
    )
    assert said(logits_V, Sampling(frequency_penalty=0.9), 7) == [0, 0, 1, 0, 1, 2, 0]
    assert said(logits_V, Sampling(frequency_penalty=-2, presence_penalty=-2), 3) == [0, 0, 0]
    both = said(logits_V, Sampling(presence_penalty=0.6, frequency_penalty=0.5), 5)
    scores, counts, expected = logits_V.tolist(), [0] * 4, []
    for _ in range(5):
        now = [score - 0.6 * (n > 0) - 0.5 * n for score, n in zip(scores, counts, strict=True)]
        expected.append(now.index(max(now)))
        counts[expected[-1]] += 1
    assert both == expected


def test_a_bias_is_added_before_anything_else():
    logits_V = torch.tensor([3.0, 2.0, 1.0, -9.0])
    assert said(logits_V, Sampling(logit_bias={0: -100, 2: 1.5}), 2) == [2, 2]
    assert said(logits_V, Sampling(logit_bias={3: 100}, temperature=1.0), 5) == [3] * 5
    # 3 + 2 halved is 2.5, not 3 / 2 + 2: the repetition penalty sees the biased score
    assert said(logits_V, Sampling(logit_bias={0: 2.0}, repetition_penalty=2), 3) == [0, 0, 0]
    assert said(logits_V, Sampling(logit_bias={0: 2.0}, repetition_penalty=3), 2) == [0, 1]


@pytest.mark.parametrize("bad", [
    {"temperature": float("inf")}, {"temperature": float("nan")}, {"presence_penalty": 2.1},
    {"frequency_penalty": -3}, {"logit_bias": {5: 101}}, {"logit_bias": {-1: 1}}, {"repetition_penalty": 0},
    {"repetition_penalty": float("inf")},
])  # fmt: skip
def test_settings_that_are_no_numbers_of_a_sampler_are_refused(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        Sampling(**bad)


@pytest.mark.parametrize("temperature", [1e-5 / 2, 1e-20, 1e-39, 1e-40, 5e-324])
def test_a_tiny_temperature_is_greedy(temperature):
    logits_V = torch.randn(300, generator=torch.Generator().manual_seed(4)) * 5
    assert said(logits_V, Sampling(temperature=temperature), 3) == [int(logits_V.argmax())] * 3


@pytest.mark.parametrize("penalty", [1e-39, 5e-324, 1e39, 1e300])
@pytest.mark.parametrize("temperature", [0.0, 1.0, 2e-5])
def test_no_penalty_leaves_the_numbers(penalty, temperature):
    """What was said once is overwhelmingly likely, or never said again; nothing ends in a NaN."""
    logits_V = torch.randn(300, generator=torch.Generator().manual_seed(4)) * 5
    how = Sampling(temperature=temperature, repetition_penalty=penalty, top_p=0.9, seed=1)
    answer = said(logits_V, how, 6, prompt=[7, 8])
    assert (len(set(answer)) == 6) == (penalty > 1) and all(0 <= token < 300 for token in answer)


def test_a_prompt_of_pictures_alone_has_nothing_to_penalise():
    logits_V = torch.randn(300, generator=torch.Generator().manual_seed(4))
    first = said(logits_V, Sampling(repetition_penalty=1.7), 1, prompt=[-200, -200])
    assert first == [int(logits_V.argmax())]


def test_scores_that_are_no_numbers_are_said_so_and_hurt_no_other():
    logits_SV = torch.randn(3, 40, generator=torch.Generator().manual_seed(1))
    alone = logits_SV.argmax(-1).tolist()
    logits_SV[1, 7] = torch.nan
    assert likeliest(logits_SV) == [alone[0], -1, alone[2]]
    with pytest.raises(ArithmeticError, match="no numbers"):
        choose(logits_SV, 1, Draw(Sampling()), -1)


def test_draws_follow_the_distribution():
    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0, -9.0]])
    how = Sampling(temperature=1.0, top_p=0.9, seed=3)
    draw = Draw(how)
    drawn = torch.tensor([choose_all(logits, [draw])[0].token for _ in range(4000)])
    tokens, probs = distribution(logits[0], how)
    shares = torch.bincount(drawn, minlength=5)[tokens] / 4000
    assert (shares - probs).abs().max() < 0.03
    assert (shares[probs == 0] == 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_that_are_drawn_together_draw_what_each_draws_alone(monkeypatch, dtype):
    """A few at a time, between rows that cannot be, with one whose scores are no numbers."""
    monkeypatch.setattr(sampler, "TOGETHER", 4 * 700)
    logits_SV = (4 * torch.randn(12, 700, generator=torch.Generator().manual_seed(1))).to(dtype)
    logits_SV[4, 3] = torch.nan
    hows = [Sampling(temperature=0.3 + row / 4, seed=row, logprobs=0) for row in range(12)]
    hows[2], hows[7] = Sampling(), Sampling(temperature=1.0, top_p=0.9)
    mine, theirs = ([Draw(how) for how in hows] for _ in range(2))
    best = likeliest(logits_SV)
    for _ in range(40):
        together = draw_together(logits_SV, mine, best)
        assert together.keys() == set(range(12)) - {2, 4, 7}
        for row, choice in together.items():
            alone = choose(logits_SV, row, theirs[row], best[row])
            assert choice == Choice(alone.token, pytest.approx(alone.logprob, abs=1e-5))


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    weights=st.lists(st.sampled_from([0.0, 1e-30, 0.3, 1.0, 7.0]), min_size=1, max_size=12),
    number=st.sampled_from([0.0, 0.25, 0.5, 1 - 2**-53]) | st.floats(0, 1, exclude_max=True),
)
def test_the_token_is_the_first_that_reaches_beyond_the_number(weights, number):
    probs_V = torch.tensor(weights)
    if not probs_V.any():
        probs_V[-1] = 1.0
    probs_V /= probs_V.sum()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampler, "BLOCK", 4)
        [token] = invert(probs_V[None], torch.tensor([number], dtype=torch.float64)).tolist()
    ends = probs_V.double().cumsum(0)
    assert probs_V[token] > 0
    assert float(ends[token]) >= number * float(ends[-1]) * (1 - 1e-12)
    assert float(ends[token] - probs_V[token]) <= number * float(ends[-1]) + 1e-12


def test_a_sequence_draws_the_same_whatever_stands_beside_it():
    logits_SV = torch.randn(3, 40, generator=torch.Generator().manual_seed(1))
    hot, other = Sampling(temperature=1.5, seed=5), Sampling(temperature=0.7, top_k=3, seed=9)
    alone = [choose_all(logits_SV[1:2], [draw])[0].token for draw in [Draw(hot)] for _ in range(5)]
    draws = [Draw(other), Draw(hot), Draw(Sampling())]
    beside = [choose_all(logits_SV, draws)[1].token for _ in range(5)]
    assert alone == beside


def test_logprobs_are_those_of_the_model():
    logits_SV = torch.randn(2, 30, generator=torch.Generator().manual_seed(2))
    hot = Sampling(temperature=2.0, top_k=2, repetition_penalty=3.0, logprobs=4)
    with_logprobs, without = choose_all(logits_SV, [Draw(hot, prompt=[1]), Draw(Sampling())])
    expected_V = logits_SV[0].log_softmax(0)
    assert with_logprobs.logprob == pytest.approx(float(expected_V[with_logprobs.token]))
    assert with_logprobs.top == tuple(
        (int(token), pytest.approx(float(expected_V[token])))
        for token in expected_V.argsort(descending=True)[:4]
    )
    assert without == Choice(int(logits_SV[1].argmax()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_of_equally_likely_tokens_the_first_is_taken(dtype):
    logits_SV = torch.randint(0, 4, (50, 3000), generator=torch.Generator().manual_seed(3)).to(dtype)
    greedy = [choice.token for choice in choose_all(logits_SV, [Draw(Sampling())] * 50)]
    assert greedy == logits_SV.argmax(-1).tolist()
