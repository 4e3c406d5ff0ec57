"""Losses of pairs: pure functions of two answers' log-probabilities. One name means one loss.

Shape letter: P pairs. Every function gives one value a pair; who takes which mean is the objective's business.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from llavakit.train.pair_settings import PairSettings

EXP_LIMIT = 80.0  # exponents beyond it are infinite in float32


@dataclass(frozen=True)
class Pairs:
    """Log-probabilities of the two answers of each pair, summed over the answer, and how many tokens that are."""

    chosen_P: Tensor
    rejected_P: Tensor
    ref_chosen_P: Tensor  # by the reference; losses without one do not look at it
    ref_rejected_P: Tensor
    chosen_tokens_P: Tensor
    rejected_tokens_P: Tensor

    @property
    def chosen_ratio_P(self) -> Tensor:
        return self.chosen_P - self.ref_chosen_P

    @property
    def rejected_ratio_P(self) -> Tensor:
        return self.rejected_P - self.ref_rejected_P

    @property
    def chosen_mean_P(self) -> Tensor:
        """Per token, without a reference."""
        return self.chosen_P / self.chosen_tokens_P

    @property
    def rejected_mean_P(self) -> Tensor:
        return self.rejected_P / self.rejected_tokens_P


def score(ratio_P: Tensor, settings: PairSettings) -> Tensor:
    """A log-ratio as the derivative of the chosen f-divergence, up to a constant, which cancels in pairs."""
    if settings.divergence == "forward_kl":
        return -(-ratio_P).clamp(max=EXP_LIMIT).exp()
    if settings.divergence == "js_divergence":
        return F.logsigmoid(ratio_P)
    if settings.divergence == "alpha_divergence" and settings.alpha != 1:
        power = settings.alpha - 1
        return (power * ratio_P).clamp(max=EXP_LIMIT).exp() / power
    return ratio_P


def logits(pairs: Pairs, settings: PairSettings) -> Tensor:
    """beta times how much more the policy prefers the chosen answer than the reference does."""
    difference = score(pairs.chosen_ratio_P, settings) - score(pairs.rejected_ratio_P, settings)
    return settings.beta * difference


def _smoothed(logits_P: Tensor, smoothing: float) -> Tensor:
    """Both orders of a pair, weighed by how sure its label is (cDPO)."""
    return -(1 - smoothing) * F.logsigmoid(logits_P) - smoothing * F.logsigmoid(-logits_P)


def sigmoid(pairs: Pairs, settings: PairSettings) -> Tensor:
    """DPO (arXiv 2305.18290). Takes no smoothing: `cdpo` and `robust` are the two ways to."""
    return -F.logsigmoid(logits(pairs, settings))


def cdpo(pairs: Pairs, settings: PairSettings) -> Tensor:
    """DPO with smoothed labels, as LLaVA-NeXT and OpenRLHF do it."""
    return _smoothed(logits(pairs, settings), settings.label_smoothing)


def robust(pairs: Pairs, settings: PairSettings) -> Tensor:
    """DPO without the bias that a share of swapped labels brings (arXiv 2403.00409)."""
    rate, x_P = settings.label_smoothing, logits(pairs, settings)
    return (-(1 - rate) * F.logsigmoid(x_P) + rate * F.logsigmoid(-x_P)) / (1 - 2 * rate)


def hinge(pairs: Pairs, settings: PairSettings) -> Tensor:
    """SLiC's loss on DPO's logits (arXiv 2305.10425)."""
    return F.relu(1 - logits(pairs, settings))


def ipo(pairs: Pairs, settings: PairSettings) -> Tensor:
    """IPO (arXiv 2310.12036) on log-ratios per token, as TRL has it."""
    return (_per_token(pairs, settings) - 1 / (2 * settings.beta)) ** 2


def ipo_sum(pairs: Pairs, settings: PairSettings) -> Tensor:
    """IPO on log-ratios of whole answers, as its paper and OpenRLHF have it."""
    return (logits(pairs, settings) / settings.beta - 1 / (2 * settings.beta)) ** 2


def sigmoid_norm(pairs: Pairs, settings: PairSettings) -> Tensor:
    """DPO on log-ratios per token (Tulu 3, arXiv 2411.15124). Wants a beta of a few units."""
    return -F.logsigmoid(settings.beta * _per_token(pairs, settings))


def _per_token(pairs: Pairs, settings: PairSettings) -> Tensor:
    chosen_P = score(pairs.chosen_ratio_P, settings) / pairs.chosen_tokens_P
    return chosen_P - score(pairs.rejected_ratio_P, settings) / pairs.rejected_tokens_P


def bco_pair(pairs: Pairs, settings: PairSettings) -> Tensor:
    """Each answer against a threshold (arXiv 2404.04656); the quality part of MPO."""
    chosen_P, rejected_P = _rewards(pairs, settings)
    return -F.logsigmoid(chosen_P - settings.shift) - F.logsigmoid(settings.shift - rejected_P)


def nca_pair(pairs: Pairs, settings: PairSettings) -> Tensor:
    """NCA (arXiv 2402.05369): the chosen answer's probability may not fall."""
    chosen_P, rejected_P = _rewards(pairs, settings)
    return -F.logsigmoid(chosen_P) - 0.5 * F.logsigmoid(-chosen_P) - 0.5 * F.logsigmoid(-rejected_P)


def apo_zero(pairs: Pairs, settings: PairSettings) -> Tensor:
    """APO (arXiv 2408.06266) where chosen answers are better than the model's own: they rise, rejected fall."""
    chosen_P, rejected_P = _rewards(pairs, settings)
    return 1 - torch.sigmoid(chosen_P) + torch.sigmoid(rejected_P)


def apo_down(pairs: Pairs, settings: PairSettings) -> Tensor:
    """APO where the model is better than both answers: both fall, the rejected one more."""
    chosen_P, rejected_P = _rewards(pairs, settings)
    return torch.sigmoid(chosen_P) + 1 - torch.sigmoid(chosen_P - rejected_P)


def sppo_hard(pairs: Pairs, settings: PairSettings) -> Tensor:
    """SPPO (arXiv 2405.00675) with certain labels: log-ratios go to plus and minus 1 / (2 beta)."""
    goal = 1 / (2 * settings.beta)
    chosen_P = score(pairs.chosen_ratio_P, settings)
    rejected_P = score(pairs.rejected_ratio_P, settings)
    return (chosen_P - goal) ** 2 + (rejected_P + goal) ** 2


def _rewards(pairs: Pairs, settings: PairSettings) -> tuple[Tensor, Tensor]:
    """DPO's implicit rewards of both answers."""
    chosen_P = settings.beta * score(pairs.chosen_ratio_P, settings)
    return chosen_P, settings.beta * score(pairs.rejected_ratio_P, settings)


def exo_pair(pairs: Pairs, settings: PairSettings) -> Tensor:
    """EXO (arXiv 2402.00856): reverse KL to the smoothed label. Needs label_smoothing > 0, as 0.001."""
    x_P, rate = logits(pairs, settings), torch.tensor(settings.label_smoothing)
    wins_P = torch.sigmoid(x_P) * (F.logsigmoid(x_P) - torch.log1p(-rate))
    return wins_P + torch.sigmoid(-x_P) * (F.logsigmoid(-x_P) - torch.log(rate))


def aot(pairs: Pairs, settings: PairSettings) -> Tensor:
    """AOT (arXiv 2406.05882): margins of the policy against those of the reference, each sorted over the batch."""
    policy_P = (pairs.chosen_P - pairs.rejected_P).sort().values
    reference_P = (pairs.ref_chosen_P - pairs.ref_rejected_P).sort().values
    return _smoothed(settings.beta * (policy_P - reference_P), settings.label_smoothing)


def aot_unpaired(pairs: Pairs, settings: PairSettings) -> Tensor:
    """AOT for answers that are no pairs: log-ratios of the chosen against those of the rejected, each sorted."""
    difference_P = pairs.chosen_ratio_P.sort().values - pairs.rejected_ratio_P.sort().values
    return _smoothed(settings.beta * difference_P, settings.label_smoothing)


def discopop(pairs: Pairs, settings: PairSettings) -> Tensor:
    """DiscoPOP (arXiv 2406.08414): a blend of the logistic and the exponential loss."""
    x_P = logits(pairs, settings)
    share_P = torch.sigmoid(x_P / settings.tau)
    return -F.logsigmoid(x_P) * (1 - share_P) + (-x_P).clamp(max=EXP_LIMIT).exp() * share_P


def simpo(pairs: Pairs, settings: PairSettings) -> Tensor:
    """SimPO (arXiv 2405.14734): log-probability per token, no reference, a margin."""
    return -F.logsigmoid(settings.beta * (pairs.chosen_mean_P - pairs.rejected_mean_P) - settings.margin)


def cpo(pairs: Pairs, settings: PairSettings) -> Tensor:
    """CPO (arXiv 2401.08417): DPO without a reference. Its likelihood term is `sft`, weighted beside it."""
    return -F.logsigmoid(settings.beta * (pairs.chosen_P - pairs.rejected_P))


def log_odds(pairs: Pairs) -> Tensor:
    """How much likelier the chosen answer is than the rejected one, as odds per token."""
    chosen_P, rejected_P = pairs.chosen_mean_P, pairs.rejected_mean_P
    return chosen_P - rejected_P - (torch.log1p(-chosen_P.exp()) - torch.log1p(-rejected_P.exp()))


def odds_ratio(pairs: Pairs, settings: PairSettings) -> Tensor:
    """The odds-ratio term of ORPO (arXiv 2403.07691), times beta; ORPO is this and `sft`, both with weight 1."""
    return -settings.beta * F.logsigmoid(log_odds(pairs))


PairLoss = Callable[[Pairs, PairSettings], Tensor]
PAIR_LOSSES: dict[str, PairLoss] = {
    "sigmoid": sigmoid,
    "cdpo": cdpo,
    "robust": robust,
    "hinge": hinge,
    "ipo": ipo,
    "ipo_sum": ipo_sum,
    "sigmoid_norm": sigmoid_norm,
    "bco_pair": bco_pair,
    "nca_pair": nca_pair,
    "apo_zero": apo_zero,
    "apo_down": apo_down,
    "sppo_hard": sppo_hard,
    "exo_pair": exo_pair,
    "aot": aot,
    "aot_unpaired": aot_unpaired,
    "discopop": discopop,
    "simpo": simpo,
    "cpo": cpo,
    "odds_ratio": odds_ratio,
}
SORTS = ("aot", "aot_unpaired")  # a value depends on the other pairs of the batch


def pair_metrics(pairs: Pairs, beta: float) -> dict[str, Tensor]:
    """What people watch, one value a pair: implicit rewards, their margin, and whether it is positive."""
    chosen_P = beta * pairs.chosen_ratio_P.detach()
    rejected_P = beta * pairs.rejected_ratio_P.detach()
    return {
        "rewards/chosen": chosen_P,
        "rewards/rejected": rejected_P,
        "rewards/margins": chosen_P - rejected_P,
        "rewards/accuracies": (chosen_P > rejected_P).float(),
    }


def answer_weights(tokens: int, shorter: int, length_weight: float) -> Tensor:
    """LD-DPO (arXiv 2409.06411): what each token of an answer counts, [tokens]; those beyond the `shorter` less."""
    weights = torch.ones(tokens)
    weights[shorter:] = length_weight
    return weights


def kto(
    chosen_ratio_P: Tensor, rejected_ratio_P: Tensor, kl: Tensor, *, beta: float
) -> tuple[Tensor, Tensor]:
    """KTO (arXiv 2402.01306): losses of the wanted and of the unwanted answers, before their weights.

    Ratios are log-probabilities against the reference's; the two kinds need not be as many. `kl` is the mean of the
    log-ratios of answers to other prompts (see `kto_reference`), which nothing learns through.
    """
    wanted = 1 - torch.sigmoid(beta * (chosen_ratio_P - kl))
    return wanted, 1 - torch.sigmoid(beta * (kl - rejected_ratio_P))


def kto_reference(mismatched_ratio_P: Tensor) -> Tensor:
    """KTO's estimate of the divergence: the mean log-ratio of answers to other prompts, never negative."""
    return mismatched_ratio_P.detach().mean().clamp(min=0)


def reward_loss(
    chosen_P: Tensor,
    rejected_P: Tensor,
    *,
    margin_P: Tensor | None = None,
) -> Tensor:
    """Bradley-Terry: minus the log-probability that the chosen answer wins, by a margin if there is one."""
    difference_P = chosen_P - rejected_P
    return -F.logsigmoid(difference_P if margin_P is None else difference_P - margin_P)


def center_squared(chosen_P: Tensor, rejected_P: Tensor) -> Tensor:
    """Keeps rewards near zero: the squared sum of a pair's two (arXiv 2312.09244; TRL)."""
    return (chosen_P + rejected_P) ** 2


def center_absolute(chosen_P: Tensor, rejected_P: Tensor) -> Tensor:
    """Keeps the rewards of a batch near zero: the size of its mean sum, a scalar (LLaVA-RLHF)."""
    return (chosen_P + rejected_P).mean().abs()
