"""Which samples are scored together: their tokens are one forward, and logits are made of learned tokens only."""

from collections.abc import Iterator, Sequence

from llavakit.data.encode import Sample

TOKENS, LOGITS = 2048, 512  # of a row: tokens, and rows of logits, which are as wide as the vocabulary


def score_rows(samples: Sequence[Sample]) -> Iterator[list[Sample]]:
    """The samples in order, neighbours together as far as both limits go; a longer sample is alone."""
    row: list[Sample] = []
    for sample in samples:
        together = [*row, sample]
        fits = sum(each.num_tokens for each in together) <= TOKENS
        if row and not (fits and sum(map(num_learned, together)) <= LOGITS):
            yield row
            together = [sample]
        row = together
    if row:
        yield row


def num_learned(sample: Sample) -> int:
    """Learned tokens that another predicts; the first of a segment without a parent has none."""
    first = {segment.start for segment in sample.segments if segment.parent is None}
    return sum(weight > 0 and at not in first for at, weight in enumerate(sample.weights))
