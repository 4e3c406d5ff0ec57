"""A few seconds of `benchmarks/soak.py`: many clients get the answers that one gets, and leave nothing behind."""

import asyncio

import pytest

from benchmarks.soak import Tally, soak
from tests.serve.live import served


@pytest.mark.slow
def test_many_clients_get_the_answers_of_one():
    with served() as (url, _):
        tally = asyncio.run(soak(url, "tiny", clients=40, seconds=4))
    assert tally.wrong == {}
    assert len(tally.seconds) >= 30 and tally.hung_up > 0


def test_what_soaking_calls_flat():
    flat, leaking = Tally(), Tally()
    flat.memory = [(float(second), 500 * 2**20 + second % 3) for second in range(90)]
    leaking.memory = [(float(second), (500 + 2 * second) * 2**20) for second in range(90)]
    assert flat.is_flat and not leaking.is_flat
