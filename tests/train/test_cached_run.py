"""A run that reads its tower's features from a cache learns what one that computes them learns."""

import pytest
import torch

from llavakit.core import config as settings
from llavakit.core.errors import ConfigError
from llavakit.model import checkpoint as checkpoints
from llavakit.train.loop import train
from tests.train.test_loop import losses, tiny_run


def test_cached_features_train_like_pixels(tmp_path):
    plain = tiny_run(tmp_path, "plain")
    cached = tiny_run(tmp_path, "cached", **{"data.features": tmp_path / "features"})
    train(plain)
    train(cached)
    assert losses(cached) == pytest.approx(losses(plain), rel=1e-3)  # features have eight bits
    with pytest.raises(ConfigError, match="includes the tower"):
        train(settings.override(cached, ["train=[tower, connector]", f"out={tmp_path / 'x'}"]))


def test_features_of_other_weights_under_one_name_are_never_read(tmp_path):
    """The tower was trained since the cache was filled; its name stayed."""
    features = {"data.features": tmp_path / "features"}
    first = tiny_run(tmp_path, "first", **features)
    train(first)
    moved = checkpoints.load(first.model.start)
    with torch.no_grad():
        for parameter in moved.model.tower.parameters():
            parameter.mul_(1.5)
    checkpoints.save(moved, tmp_path / "moved")
    start = {"model.start": tmp_path / "moved"}
    plain, cached = tiny_run(tmp_path, "plain", **start), tiny_run(tmp_path, "cached", **start, **features)
    train(plain)
    train(cached)
    assert losses(cached) == pytest.approx(losses(plain), rel=1e-3)
    assert losses(plain) != pytest.approx(losses(first), rel=1e-3)
