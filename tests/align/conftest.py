"""Runs of these tests draw no curves, which takes longer than their steps; tests/train/test_metrics.py draws."""

import pytest

from llavakit.align import source
from llavakit.train import loop


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch):
    for module, name in ((source, "draw_panels"), (loop, "draw_curves")):
        monkeypatch.setattr(module, name, lambda *_: None)
