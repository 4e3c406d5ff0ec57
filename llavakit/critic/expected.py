"""The expected verdict: every verdict a format knows, weighed by how likely the judge is to give it.

Nothing is generated and nothing parsed. Prompt and picture are computed once, all verdicts in one row beside it.
"""

from collections.abc import Mapping
from itertools import accumulate, pairwise

import torch

from llavakit.chat import Chat
from llavakit.text.conversation import Conversation, assistant


def expected_values(
    chat: Chat, prompt: Conversation, lead: str, verdicts: Mapping[str, float]
) -> tuple[float, int]:
    """(the mean of the verdicts' values by their probabilities, tokens computed).

    The judge is taken to say `lead` and then one of the verdicts. DataError for a prompt that cannot be encoded.
    """
    talks = [Conversation((*prompt.messages, assistant(lead + verdict))) for verdict in verdicts]
    sample = chat.encoder.encode_alternatives(talks)
    [logprobs] = chat.engine.score([sample])
    counts = [sum(weight > 0 for weight in sample.weights[leaf.start : leaf.end]) for leaf in sample.leaves]
    ends = list(accumulate(counts, initial=0))
    totals = torch.tensor([sum(logprobs[start:end]) for start, end in pairwise(ends)])
    values = torch.tensor(list(verdicts.values()))
    return float((totals.softmax(dim=0) * values).sum()), sample.num_tokens
