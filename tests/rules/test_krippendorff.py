"""Krippendorff's alpha: the examples of his 2011 paper, and what must hold for any votes."""

from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llavakit.rules.krippendorff import krippendorff_alpha

FOUR = (  # four observers, twelve units, missing values
    "1 2 3 3 2 1 4 1 2 . . .",
    "1 2 3 3 2 2 4 1 2 5 . 3",
    ". 3 3 3 2 3 4 2 2 5 1 .",
    "1 2 3 3 2 4 4 1 2 5 1 .",
)
BINARY = ("0 1 0 0 0 0 0 0 1 0", "1 1 1 0 0 1 0 0 0 0")
LETTERS = ("1 1 2 2 4 3 3 3 5 4 4 1", "2 1 2 2 2 3 3 3 5 4 4 4")
UNITS = st.lists(st.lists(st.integers(1, 4), max_size=4), max_size=8)


def units(rows) -> list[list[int]]:
    return [
        [int(value) for value in column if value != "."] for column in zip(*map(str.split, rows), strict=True)
    ]


@pytest.mark.parametrize(
    ("rows", "metric", "published"),
    [(BINARY, "nominal", 0.095), (LETTERS, "nominal", 0.692), (FOUR, "nominal", 0.743), (FOUR, "ordinal", 0.815)],
)  # fmt: skip
def test_published_examples(rows, metric, published):
    assert krippendorff_alpha(units(rows), metric) == pytest.approx(published, abs=5e-4)


@pytest.mark.parametrize("votes", [[], [[1], [2]], [[1, 1], [1, 1]], [[1, 1], [2]]])
def test_it_is_not_defined_without_two_values_or_without_difference(votes):
    assert krippendorff_alpha(votes, "nominal") is None and krippendorff_alpha(votes, "ordinal") is None


def plain_alpha(votes) -> float | None:
    """Nominal alpha from its definition: disagreeing pairs within units against those among all values."""
    paired = [unit for unit in votes if len(unit) > 1]
    pool = [value for unit in paired for value in unit]
    within = sum(sum(a != b for a, b in permutations(unit, 2)) / (len(unit) - 1) for unit in paired)
    among = sum(a != b for a, b in permutations(pool, 2))
    return None if not among else 1 - within / (among / (len(pool) - 1))


@given(UNITS)
def test_nominal_alpha_is_its_definition(votes):
    found, plain = krippendorff_alpha(votes, "nominal"), plain_alpha(votes)
    assert found == plain if plain is None else found == pytest.approx(plain)


@given(UNITS, st.randoms())
def test_order_and_distance_of_the_numbers_play_no_part(votes, dice):
    shuffled = [dice.sample(unit, len(unit)) for unit in dice.sample(votes, len(votes))]
    spread = [[10**value for value in unit] for unit in shuffled]
    for metric in ("nominal", "ordinal"):
        found = krippendorff_alpha(votes, metric)
        for other in (shuffled, spread):
            assert krippendorff_alpha(other, metric) == (found if found is None else pytest.approx(found))
