"""Terms that are rules: functions of an answer, its record and nothing else."""

from collections.abc import Callable, Mapping
from typing import Any

import torch

from llavakit.align.exchanges import USED
from llavakit.align.reward_model import Score, Unscorable
from llavakit.align.rollouts import JSON, Rollout
from llavakit.rules.boxes import iou, read_box
from llavakit.rules.claims import (
    boxed_answer,
    claimed_letters,
    claimed_yes_no,
    has_format,
    llava_rlhf_choice,
    llava_rlhf_yes_no,
    named_options,
    tagged_answer,
)
from llavakit.rules.short_answers import exact_match
from llavakit.train.policy import soft_overlong
from llavakit.train.reward_terms import (
    BoxIoU,
    Choice,
    Exact,
    Format,
    Length,
    SoftOverlong,
    StopPenalty,
    Take,
    TermSettings,
    ToolUse,
    YesNoTerm,
)

GENERAL = (
    1  # LLaVA-RLHF's caption_type of questions without a checkable answer; what a record without one has
)


def taken(rollout: Rollout, take: Take) -> str:
    """The part of the answer that a term reads; empty where that part is not there."""
    return part_of(rollout.text, take)


def part_of(text: str, take: Take) -> str:
    """All of a text, or what stands in its <answer> tags or its last box; empty where that is not there."""
    if take == "all":
        return text
    return tagged_answer(text) if take == "answer" else boxed_answer(text)


def no_reference(rollout: Rollout, what: str) -> Unscorable:
    """For a record that does not say what is right."""
    return Unscorable(f"{rollout.key}: the reference {rollout.reference[:40]!r} {what}")


def number_of(extra: Mapping[str, JSON], field: str, default: float) -> float | None:
    """A number among the record's fields; None where something else is there."""
    value = extra.get(field, default)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def stop_penalty(term: StopPenalty, rollout: Rollout) -> Score:
    return 0.0 if rollout.finish == "stop" else term.value


def length(term: Length, rollout: Rollout) -> Score:
    counts = number_of(rollout.extra, term.field, 1.0)
    if counts is None:
        return Unscorable(f"{rollout.key}: {term.field!r} is no number")
    return counts * len(rollout.ids) / term.longest


def overlong(term: SoftOverlong, rollout: Rollout) -> Score:
    tokens_B = torch.tensor([len(rollout.ids)])
    return float(soft_overlong(tokens_B, longest=term.longest, buffer=term.buffer))


def exact(term: Exact, rollout: Rollout) -> Score:
    reference = rollout.reference.strip()
    # A reference may be written as answers are, or be the bare word.
    reference = part_of(reference, term.take).strip() or reference
    if not reference:
        return no_reference(rollout, "is empty")
    return exact_match(taken(rollout, term.take).strip(), reference)


def choice(term: Choice, rollout: Rollout) -> Score:
    text = taken(rollout, term.take)
    if term.rule == "llava_rlhf":
        return _symbolic(rollout, lambda kind: llava_rlhf_choice(text, kind))
    options = named_options(rollout.extra.get("options"))
    right = claimed_letters(rollout.reference, options)
    if len(right) != 1:
        return no_reference(rollout, "is no letter of a choice")
    return _claim(claimed_letters(text, options), right, term.several)


def yes_no(term: YesNoTerm, rollout: Rollout) -> Score:
    text = taken(rollout, term.take)
    if term.rule == "llava_rlhf":
        return _symbolic(rollout, lambda kind: llava_rlhf_yes_no(text, kind))
    right = claimed_yes_no(rollout.reference)
    if len(right) != 1:
        return no_reference(rollout, "is neither yes nor no")
    if term.asymmetric and right == {"yes"}:
        return 0.0
    return _claim(claimed_yes_no(text), right, term.several)


def has_style(term: Format, rollout: Rollout) -> Score:
    return float(has_format(rollout.text, term.style))


def box_iou(term: BoxIoU, rollout: Rollout) -> Score:
    right = read_box(rollout.reference) or read_box(str(rollout.extra.get(term.field)))
    if right is None:
        return no_reference(rollout, f"has no box, nor has {term.field!r}")
    said = read_box(taken(rollout, term.take))
    overlap = 0.0 if said is None else iou(right, said)
    return overlap if term.at is None else float(overlap >= term.at)


def tool_use(term: ToolUse, rollout: Rollout) -> Score:
    if USED not in rollout.counts:
        return Unscorable(f"{rollout.key}: it was answered without tools to call; set policy.tools")
    return float(rollout.counts[USED] > 0)


def _claim(said: frozenset[str], right: frozenset[str], several: float) -> float:
    """1 for the right claim alone, `several` for a guess, 0 for a wrong one or none."""
    return several if len(said) > 1 else float(said == right)


def _symbolic(rollout: Rollout, score: Callable[[int], float]) -> Score:
    kind = number_of(rollout.extra, "caption_type", GENERAL)
    if kind is None or not (kind.is_integer() and 1 <= kind <= 7):
        return Unscorable(
            f"{rollout.key}: 'caption_type' must be 1 to 7, found {rollout.extra['caption_type']!r}"
        )
    return score(int(kind))


RULES: dict[type[TermSettings], Callable[[Any, Rollout], Score]] = {
    StopPenalty: stop_penalty,
    Length: length,
    SoftOverlong: overlong,
    Exact: exact,
    Choice: choice,
    YesNoTerm: yes_no,
    Format: has_style,
    BoxIoU: box_iou,
    ToolUse: tool_use,
}
