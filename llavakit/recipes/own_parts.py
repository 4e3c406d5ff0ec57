"""A recipe on one's own parts: `llava15-stage2 model.start=runs/s1` trains what it finds there."""

from pathlib import Path

from llavakit.core.files import read_json
from llavakit.core.progress import say
from llavakit.model.card import Card
from llavakit.model.directory import load_card, resolve
from llavakit.train.run import Run
from llavakit.vision.plan import ImageConfig

FIRST_STAGE = (
    "plain",
    "plain_no_bos",
)  # captions without a conversation: no stage after the first goes on with them


def adopt_start(run: Run, recipe: Run, given: list[str]) -> Run:
    """`run`, which is `recipe` with the settings `given`, with the parts of its start if that is another one.

    Tower, connector and what is put around images come from the start, tile size, grid and colours of the image
    rule too, and the template, unless it is that of a first stage or the recipe's own is. What was given stays as
    it was given. An unreadable start is a CheckpointError.
    """
    mine, published = run.model, recipe.model
    if mine.start is None or mine.start == published.start:
        return run
    card = _card(mine.start, mine.template)
    theirs: dict[str, object] = {
        "tower": card.tower, "connector": card.connector, "im_start_end": card.im_start_end,
    }  # fmt: skip
    if mine.image is not None:
        theirs["image"] = fit_tiles(mine.image, card.image)
    if card.template not in FIRST_STAGE and mine.template not in FIRST_STAGE:
        theirs["template"] = card.template
    said = {setting.partition("=")[0].split(".")[1] for setting in given if setting.startswith("model.")}
    changes = {
        name: value for name, value in theirs.items() if name not in said and value != dict(mine)[name]
    }
    if changes:
        say(f"from {mine.start}: {', '.join(f'model.{name}' for name in changes)}")
    return run.model_copy(update={"model": mine.model_copy(update=changes)})


def fit_tiles(rule: ImageConfig, tower: ImageConfig) -> ImageConfig:
    """The rule for another tower: its tiles, its grid, its colours, and as many tiles to a layout as before."""
    anyres = rule.anyres
    if anyres is not None:
        sizes = tuple(
            (width // rule.size * tower.size, height // rule.size * tower.size)
            for width, height in anyres.pinpoints
        )
        anyres = anyres.model_copy(update={"pinpoints": sizes})
    same = {name: dict(tower)[name] for name in ("size", "grid", "mean", "std")}
    return rule.model_copy(update={"anyres": anyres, **same})


def _card(start: Path, template: str | None) -> Card:
    """The start's card. One that does not name its template is read with that of the recipe."""
    named = "llavakit" in read_json(resolve(start, weights=False) / "config.json")
    return load_card(start, None if named else template)
