"""What a long task tells where nothing can move: in a file, in a pipe."""

import pytest

from llavakit.core import progress


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass when they are told to."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_a_log_gets_a_line_every_half_minute_and_a_last_one(capsys, clock):
    with progress.bar("training", 100, done=20) as bar:
        for _ in range(80):
            clock[0] += 1
            bar.advance(note="loss 0.5")
    assert capsys.readouterr().out.splitlines() == [
        "training 50/100  0:00:30  eta 0:00:50  loss 0.5",
        "training 80/100  0:01:00  eta 0:00:20  loss 0.5",
        "training 100/100  0:01:20  loss 0.5",
    ]


def test_a_task_that_is_broken_off_tells_how_far_it_came(capsys, clock):
    with pytest.raises(KeyboardInterrupt), progress.bar("answers", 9) as bar:
        bar.advance(4)
        clock[0] += 8
        raise KeyboardInterrupt
    assert capsys.readouterr().out == "answers 4/9  0:00:08  eta 0:00:10\n"
