"""The expected verdict: every verdict a format knows, weighed by how likely the judge is to give it.

Nothing is generated and nothing parsed. Prompt and picture are computed once, all verdicts in one row beside it.
"""

from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise

import torch

from llavakit.chat import Chat
from llavakit.data.encode import Sample
from llavakit.text.conversation import Conversation, assistant


def expected_values(
    chat: Chat, asked: Sequence[tuple[Conversation, str, Mapping[str, float]]]
) -> list[tuple[float, int]]:
    """For each prompt: (the mean of its verdicts' values by their probabilities, tokens computed).

    The judge is taken to say `lead` and then one of the verdicts. DataError for a prompt that cannot be encoded.
    """
    samples = [
        chat.encoder.encode_alternatives(
            [Conversation((*prompt.messages, assistant(lead + verdict))) for verdict in verdicts]
        )
        for prompt, lead, verdicts in asked
    ]
    scored = zip(samples, chat.engine.score(samples), asked, strict=True)
    return [
        (_mean(sample, logprobs, list(verdicts.values())), sample.num_tokens)
        for sample, logprobs, (_, _, verdicts) in scored
    ]


def _mean(sample: Sample, logprobs: Sequence[float], values: Sequence[float]) -> float:
    """The mean of the leaves' values by how likely each leaf is."""
    counts = [sum(weight > 0 for weight in sample.weights[leaf.start : leaf.end]) for leaf in sample.leaves]
    ends = list(accumulate(counts, initial=0))
    totals = torch.tensor([sum(logprobs[start:end]) for start, end in pairwise(ends)])
    return float((totals.softmax(dim=0) * torch.tensor(values)).sum())
