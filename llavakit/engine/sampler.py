"""How the next token is chosen."""

import torch
from pydantic import Field
from torch import Tensor

from llavakit.core.config import Config


class Sampling(Config):
    """Temperature 0 is greedy. With a seed, request number i of a batch draws the same whatever runs beside it."""

    temperature: float = Field(default=0.0, ge=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    top_k: int = Field(default=0, ge=0)  # 0: all
    max_tokens: int = Field(default=512, ge=1)
    seed: int = 0


class Sampler:
    """One random stream per sequence, so a sequence's draws do not depend on its neighbours."""

    def __init__(self, sampling: Sampling, num_sequences: int) -> None:
        self.sampling = sampling
        self._streams = [torch.Generator().manual_seed(sampling.seed + i) for i in range(num_sequences)]

    def choose(self, logits_SV: Tensor, sequences: list[int]) -> list[int]:
        """The next token of each of these sequences."""
        if self.sampling.temperature == 0:
            greedy: list[int] = logits_SV.argmax(dim=-1).tolist()
            return greedy
        probs_SV, order_SV = (
            (logits_SV.float() / self.sampling.temperature).softmax(dim=-1).sort(descending=True)
        )
        before_SV = probs_SV.cumsum(dim=-1) - probs_SV
        probs_SV = probs_SV.masked_fill(before_SV >= self.sampling.top_p, 0)
        if self.sampling.top_k:
            probs_SV[:, self.sampling.top_k :] = 0
        cumulative_SV = probs_SV.cumsum(dim=-1)
        draws = torch.stack([torch.rand(1, generator=self._streams[i]) for i in sequences]).to(
            logits_SV.device
        )
        # The first token whose cumulative probability exceeds the draw; 1-ulp sums cannot run past the end.
        rank_S1 = (cumulative_SV <= draws * cumulative_SV[:, -1:]).sum(dim=-1, keepdim=True)
        last_S1 = (probs_SV > 0).sum(dim=-1, keepdim=True) - 1
        chosen: list[int] = order_SV.gather(1, rank_S1.minimum(last_S1)).flatten().tolist()
        return chosen
