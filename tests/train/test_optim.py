"""What learns: a run in which nothing would is refused in one line."""

import pytest

from llavakit.core.errors import ConfigError
from llavakit.model.llava import Newline
from llavakit.train.freezing import train_only
from llavakit.train.optim import build_optimizer
from llavakit.train.pair_losses import PAIR_LOSSES
from llavakit.train.pair_settings import LOSS_NAMES
from llavakit.train.settings import LearningRates, OptimConfig
from tests import tiny


def test_a_part_without_weights_cannot_be_all_that_learns():
    model = tiny.checkpoint().model
    with pytest.raises(
        ConfigError, match=r"train=\['newline'\]: nothing would learn.* are tower, connector, lang"
    ):
        train_only(model, ("newline",))
    train_only(model, ("connector", "newline"))  # as every default says, whether a model has newlines or not
    model.newline = Newline(("image_newline",), 48)
    train_only(model, ("newline",))
    assert sum(p.requires_grad for p in model.parameters()) == 1


def test_rates_of_zero_for_all_that_learns_are_refused():
    model = tiny.checkpoint().model
    train_only(model, ("connector", "newline"))
    with pytest.raises(ConfigError, match=r"optim\.lr is 0 for connector: nothing would learn"):
        build_optimizer(model, OptimConfig(lr=LearningRates(connector=0)))
    train_only(model, ("connector", "language"))
    build_optimizer(model, OptimConfig(lr=LearningRates(connector=0)))  # one of two may stand still


def test_names_of_losses_are_those_of_the_losses():
    assert tuple(PAIR_LOSSES) == LOSS_NAMES
