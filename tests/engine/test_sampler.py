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
from llavakit.engine.sampler import Choice, Draw, Sampling, choose, distribution


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
    draws = [Draw(Sampling(repetition_penalty=1.7)) for _ in range(20)]
    assert [choice.token for choice in choose(scores_SV, draws, said)] == expected
    assert expected != scores_SV.argmax(-1).tolist()


def test_draws_follow_the_distribution():
    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0, -9.0]])
    how = Sampling(temperature=1.0, top_p=0.9, seed=3)
    draw = Draw(how)
    drawn = torch.tensor([choose(logits, [draw], [[]])[0].token for _ in range(4000)])
    tokens, probs = distribution(logits[0], how)
    shares = torch.bincount(drawn, minlength=5)[tokens] / 4000
    assert (shares - probs).abs().max() < 0.03
    assert (shares[probs == 0] == 0).all()


def test_a_sequence_draws_the_same_whatever_stands_beside_it():
    logits_SV = torch.randn(3, 40, generator=torch.Generator().manual_seed(1))
    hot, other = Sampling(temperature=1.5, seed=5), Sampling(temperature=0.7, top_k=3, seed=9)
    alone = [choose(logits_SV[1:2], [draw], [[]])[0].token for draw in [Draw(hot)] for _ in range(5)]
    draws = [Draw(other), Draw(hot), Draw(Sampling())]
    beside = [choose(logits_SV, draws, [[], [], []])[1].token for _ in range(5)]
    assert alone == beside


def test_logprobs_are_those_of_the_model():
    logits_SV = torch.randn(2, 30, generator=torch.Generator().manual_seed(2))
    hot = Sampling(temperature=2.0, top_k=2, repetition_penalty=3.0, logprobs=4)
    with_logprobs, without = choose(logits_SV, [Draw(hot), Draw(Sampling())], [[1], []])
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
    greedy = [choice.token for choice in choose(logits_SV, [Draw(Sampling())] * 50, [[]] * 50)]
    assert greedy == logits_SV.argmax(-1).tolist()
