"""A recipe goes on from whatever start it is given, and takes the parts from there."""

import pytest

from llavakit.core import config as settings
from llavakit.core.errors import CheckpointError
from llavakit.model import checkpoint
from llavakit.model.directory import load_card
from llavakit.recipes import RECIPES
from llavakit.recipes.own_parts import adopt_start
from llavakit.train.dry_run import show_plan
from tests import tiny


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """A checkpoint of another tower, grid, connector and template than any recipe's."""
    folder = tmp_path_factory.mktemp("own") / "s1"
    checkpoint.save(tiny.checkpoint(connector="linear"), folder)
    tiny.data_file(folder.parent)
    return folder


def on(start, name="llava15-stage2", *more):
    recipe, given = RECIPES[name](), [f"model.start={start}", *more]
    return adopt_start(settings.override(recipe, given), recipe, given)


def test_parts_and_template_are_those_of_the_start(start):
    run, card = on(start), load_card(start)
    assert (run.model.tower, run.model.connector, run.model.template) == (
        card.tower,
        card.connector,
        "chatml",
    )
    assert (run.model.image.kind, run.model.image.size, run.model.image.grid) == ("pad", 28, 2)
    assert show_plan(settings.override(run, [f"data.files={start.parent / 'data.json'}"])) == []


def test_layouts_have_as_many_tiles_of_the_other_size(start):
    ours = RECIPES["next-stage2-7b"]().model.image.anyres.pinpoints
    run = on(start, "next-stage2-7b")
    assert run.model.image.anyres.pinpoints == tuple((w // 12, h // 12) for w, h in ours)  # 336 / 28
    assert run.model.image.kind == "anyres"


def test_what_settings_say_stays(start):
    run = on(start, "llava15-stage2", "model.template=vicuna_v1", "model.image.kind=square")
    assert (run.model.template, run.model.image.kind, run.model.image.size) == ("vicuna_v1", "square", 336)
    assert run.model.tower == load_card(start).tower


def test_a_first_stage_leaves_its_template_behind(tmp_path, start):
    """Captions are learned without a conversation; the stage after them has one, that of the recipe."""
    first = tiny.checkpoint()
    plain = type(first)(first.model, first.tokenizer, first.card.model_copy(update={"template": "plain"}))
    checkpoint.save(plain, tmp_path / "plain")
    assert on(tmp_path / "plain").model.template == "vicuna_v1"
    assert on(start, "llava15-stage1").model.template == "plain"


def test_the_recipes_own_start_and_a_start_that_is_not_there(tmp_path):
    recipe = RECIPES["llava15-stage2"]()
    assert adopt_start(recipe, recipe, []) is recipe
    with pytest.raises(CheckpointError, match=r"does not exist|neither"):
        on(tmp_path / "gone")
