"""A few seconds of `benchmarks/soak.py`: beside hostile clients many get the answers that one gets."""

import asyncio

import pytest

from benchmarks.soak import Tally, soak
from tests.serve.live import served, wait_until


@pytest.mark.slow
def test_many_clients_get_the_answers_of_one():
    with served() as (url, service):
        tally = asyncio.run(soak(url, "tiny", clients=40, seconds=6))
        wait_until(lambda: service.memory.taken == 0)
        assert 0 < service.memory.peak <= service.plan.requests
    assert tally.wrong == {}
    assert len(tally.seconds) >= 30 and tally.hung_up > 0
    assert {kind.split()[0] for kind in tally.hostile} <= {"body", "fault", "wire", "drip", "heavy"}
    assert all(tally.token_seconds)


def test_what_soaking_calls_flat():
    flat, leaking = Tally(), Tally()
    flat.memory = [(float(second), 500 * 2**20 + second % 3) for second in range(90)]
    leaking.memory = [(float(second), (500 + 2 * second) * 2**20) for second in range(90)]
    assert flat.is_flat and not leaking.is_flat


def test_what_soaking_calls_fair():
    fair, starved = Tally(), Tally()
    for quiet, (tally, loud) in ((0.01, (fair, 0.019)), (0.01, (starved, 0.021))):
        tally.token_seconds[0].extend([quiet] * 9)
        tally.token_seconds[1].extend([loud] * 9)
    assert fair.is_fair and not starved.is_fair and not Tally().is_fair
