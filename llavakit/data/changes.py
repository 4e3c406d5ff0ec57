"""Where two answers to one prompt differ, token by token."""

from dataclasses import replace
from difflib import SequenceMatcher

from llavakit.data.encode import Sample


def weigh_changes(sample: Sample, weight: float) -> Sample:
    """A pair with the tokens that only one of its answers has counting `weight` times as much (RLHF-V)."""
    if weight == 1:
        return sample
    chosen, rejected = sample.leaves
    here, there = (sample.ids[leaf.start : leaf.end] for leaf in (chosen, rejected))
    weights = list(sample.weights)
    for kind, *spans in SequenceMatcher(None, here, there, autojunk=False).get_opcodes():
        if kind == "equal":
            continue
        places = [chosen.start + at for at in range(spans[0], spans[1])]
        places += [rejected.start + at for at in range(spans[2], spans[3])]
        for at in places:
            weights[at] *= weight
    return replace(sample, weights=tuple(weights))
