"""Looking at a round: its figures for the metrics, and a page with pictures, answers and what each was worth."""

import html
from collections.abc import Sequence
from itertools import groupby

import torch
from torch import Tensor

from llavakit.align.advantages import divergence
from llavakit.align.exchanges import COUNTS
from llavakit.align.experience import Experience
from llavakit.align.learner import Found
from llavakit.core.errors import DataError, shorten
from llavakit.data.loader import Loader
from llavakit.data.records import FAULTS
from llavakit.text.conversation import Conversation
from llavakit.train.metrics import Row
from llavakit.train.objectives import tail
from llavakit.train.policy import silent_groups
from llavakit.train.policy_settings import PolicyConfig
from llavakit.train.probes import FRAMES, begin_page, data_uri
from llavakit.train.ranks import Ranks
from llavakit.train.reward_terms import TOTAL

SHOWN = 12  # prompts on a page
RESULT = 300  # letters of a tool's result there


def tell_round(
    mine: Sequence[Experience], found: Found, totals_GK: Tensor, policy: PolicyConfig, ranks: Ranks
) -> Row:
    """A round's figures over all ranks: means per answer, except what is per token or says otherwise.

    What a policy that `learns_once` says of its answers is not among them: the step tells it.
    """
    sums: dict[str, tuple[float, float]] = {}  # name -> (sum, count)
    for term in (*policy.rewards.terms, TOTAL):
        known = [score for each in mine if (score := each.scores[term]) is not None]
        sums["reward" if term == TOTAL else f"reward/{term}"] = (sum(known), len(known))
    lengths = [len(each.rollout.ids) for each in mine]
    sums["length"] = (sum(lengths), len(mine))
    sums["cut"] = (sum(each.rollout.finish == "length" for each in mine), len(mine))
    sums["unscorable"] = (sum(each.scores[TOTAL] is None for each in mine), len(mine))
    if policy.tools is not None:
        sums |= {name: (sum(each.rollout.counts[name] for each in mine), len(mine)) for name in COUNTS}
    if not policy.learns_once:
        sums["drift"] = (sum(found.drift), len(found.drift))
        sums["entropy"] = (found.entropy, sum(lengths))
    if policy.needs_reference and not policy.learns_once:
        strays = [float(divergence(each, policy.algorithm).sum()) for each in mine]
        sums["kl"] = (sum(strays), len(strays))
    totals = ranks.sums([number for pair in sums.values() for number in pair])
    row = {name: totals[2 * at] / max(1.0, totals[2 * at + 1]) for at, name in enumerate(sums)}
    row["answers"] = totals[2 * list(sums).index("length") + 1]
    if not policy.learns_once:
        [row["drift_p99"]] = ranks.highest([tail(torch.tensor(found.drift))])
    row["silent_groups"] = float(silent_groups(totals_GK))
    return row


def draw_round(title: str, experiences: Sequence[Experience], loader: Loader) -> str:
    """The page: the first prompts of a round with their pictures, and every answer with its terms and advantage."""
    parts = [begin_page(title)]
    groups = [list(group) for _, group in groupby(experiences, lambda each: each.rollout.group)]
    for group in groups[:SHOWN]:
        first = group[0].rollout
        terms = list(group[0].scores)
        head = "".join(f"<td>{html.escape(term)}</td>" for term in (*terms, "advantage"))
        lines = [f"<tr><td></td>{head}<td>answer</td></tr>", *(_line(each, terms) for each in group)]
        reference = f"<p>reference: {html.escape(first.reference)}</p>" if first.reference else ""
        question = html.escape(first.prompt.messages[-1].text.strip())
        pictures = _pictures(first.prompt, loader)
        parts.append(
            f"<section>{pictures}<h2>{question}</h2>{reference}<table>{''.join(lines)}</table></section>"
        )
    return "\n".join(parts) + "\n</html>\n"


def _line(experience: Experience, terms: Sequence[str]) -> str:
    scores = [experience.scores[term] for term in terms]
    advantages = experience.columns["advantages"]
    numbers = [*scores, sum(advantages) / max(1, len(advantages))]
    cells = "".join(f"<td>{'none' if number is None else f'{number:.3g}'}</td>" for number in numbers)
    rollout = experience.rollout
    cut = "" if rollout.finish == "stop" else f" [{rollout.finish}]"
    before = "".join(
        f"<p>{html.escape(each.text)}</p><p><small>{html.escape(shorten(each.reply.text, RESULT))}</small></p>"
        for each in rollout.exchanges
    )
    return f"<tr><td>{rollout.choice}</td>{cells}<td>{before}{html.escape(rollout.text + cut)}</td></tr>"


def _pictures(prompt: Conversation, loader: Loader) -> str:
    """What is asked about, as small copies in the page."""
    try:
        sample = loader.encoder.encode(prompt, open_turn=True)
        shown = [picture for media in sample.media for picture in media.pictures()[:FRAMES]]
    except (DataError, *FAULTS) as error:
        return f"<p>{html.escape(str(error))}</p>"
    return "".join(f'<img alt="" src="{html.escape(data_uri(picture))}">' for picture in shown)
