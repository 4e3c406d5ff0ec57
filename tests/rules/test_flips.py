"""McNemar's exact test by hand."""

import pytest

from llavakit.rules.flips import sign_test


@pytest.mark.parametrize(
    ("lost", "gained", "p"), [(0, 0, 1.0), (3, 3, 1.0), (2, 0, 0.5), (0, 5, 2 / 32), (8, 1, 2 * 10 / 512)]
)
def test_how_one_sided_a_coin_would_be(lost, gained, p):
    assert sign_test(lost, gained) == pytest.approx(p)
