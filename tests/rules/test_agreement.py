"""Agreement with people, against numbers computed by hand and by SciPy."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from llavakit.rules.agreement import (
    group_accuracy,
    kendall,
    pair_figures,
    pearson,
    position_figures,
    score_figures,
)

NUMBERS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=3, max_size=30)


@given(NUMBERS)
def test_correlations_are_scipys(rows):
    a, b = ([float(row[at]) for row in rows] for at in range(2))
    varied = len(set(a)) > 1 and len(set(b)) > 1
    assert pearson(a, b) == pytest.approx(stats.pearsonr(a, b).statistic if varied else 0, abs=1e-9)
    assert kendall(a, b) == pytest.approx(stats.kendalltau(a, b).statistic if varied else 0, abs=1e-9)


def test_what_was_not_read_is_right_nowhere_and_in_no_correlation():
    said, labels = [1.0, None, 3.0, 4.0], [1.0, 5.0, 2.0, 3.0]
    figures = score_figures(said, labels, [10, 5, 20, 30])
    assert figures["pearson"] == pytest.approx(stats.pearsonr([1, 3, 4], [1, 2, 3]).statistic)
    assert figures["labels' length pearson"] == pytest.approx(1)


def test_ties_are_a_third_verdict_and_left_out():
    said, labels = [-1.0, 0.0, 0.5, None, 0.0], [-1.0, 0.0, -1.0, 1.0, 1.0]
    figures = pair_figures(said, labels, [3, 0, 5, -2, 4])
    assert figures["accuracy"] == 2 / 5 and figures["without ties"] == 1 / 4
    assert figures["longer"] == 1 / 2  # of the two verdicts with a winner
    assert figures["labels' longer"] == 1 / 4


def test_a_judge_that_takes_the_first_is_seen():
    first = position_figures(
        [(-1.0, 1.0)] * 4
    )  # in the order of the case the second was shown first the other way
    assert first == {"agreement": 0.0, "first": 1.0}
    assert position_figures([(-1.0, -1.0), (1.0, 1.0)]) == {"agreement": 1.0, "first": 0.5}
    assert position_figures([(None, 1.0)]) == {"agreement": 0.0, "first": 1.0}


def test_groups_overall_and_macro():
    figures = group_accuracy([1.0, 1.0, -1.0, None], [1.0] * 4, ["a", "a", "b", "b"])
    assert figures == {"overall": 0.5, "macro": 0.5, "a": 1.0, "b": 0.0}
    assert group_accuracy([1.0, 1.0, -1.0], [1.0] * 3, ["a", "a", "b"])["macro"] == 0.5
