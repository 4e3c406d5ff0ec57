"""No number that a user can give is without bounds: every settings class, every body field, every option."""

import importlib
import math
import pkgutil
from collections.abc import Iterator
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import annotated_types
import pytest
from pydantic import BaseModel, Field

import llavakit
from llavakit.cli.entry import DATA_VERBS, VERBS
from llavakit.cli.options import finite
from llavakit.core import config as settings
from llavakit.core.config import Config
from llavakit.core.errors import ConfigError
from llavakit.engine.sampler import Sampling
from llavakit.serve.schema import Wire
from llavakit.train.run import Run

# Numbers without bounds, each with its reason.
FREE = {
    "TowerConfig.layer": "an index into hidden states, from either end; ViTTower knows how many",
    "Sampling.seed": "a stream of draws; any number names one (taken modulo 2**63)",
    "Drawn.min_tokens": "only 0 is taken",
    "Generated.min_tokens": "only 0 is taken",
    "ChatRequest.min_tokens": "only 0 is taken",
    "CompletionRequest.min_tokens": "only 0 is taken",
    "ResponsesRequest.min_tokens": "only 0 is taken",
    "CompletionRequest.best_of": "only 1 is taken",
}
BOUNDS = (annotated_types.Ge, annotated_types.Gt)


def kinds_below(kind: type[BaseModel]) -> Iterator[type[BaseModel]]:
    for child in kind.__subclasses__():
        yield child
        yield from kinds_below(child)


def all_kinds() -> list[type[BaseModel]]:
    for module in pkgutil.walk_packages(llavakit.__path__, "llavakit."):
        if module.name != "llavakit.__main__":
            importlib.import_module(module.name)
    found = {*kinds_below(Config), *kinds_below(Wire)}
    return sorted(
        (kind for kind in found if kind.__module__.startswith("llavakit.")), key=lambda kind: kind.__name__
    )


def unbounded(annotation: Any, metadata: tuple[Any, ...] = ()) -> bool:
    """Whether a number somewhere in the type has no lower bound."""
    if get_origin(annotation) is Annotated:
        inner, *more = get_args(annotation)
        told = [each for one in more for each in getattr(one, "metadata", [one])]
        return unbounded(inner, (*metadata, *told))
    if annotation in (int, float):
        return not any(isinstance(each, BOUNDS) for each in metadata)
    return any(unbounded(each, metadata) for each in get_args(annotation) if each is not Ellipsis)


def free_numbers(kind: type[BaseModel]) -> list[str]:
    return [
        f"{kind.__name__}.{name}"
        for name, field in kind.model_fields.items()
        if unbounded(field.annotation, tuple(field.metadata))
    ]


def test_every_number_of_every_settings_class_is_bounded():
    kinds = all_kinds()
    assert {Run, Sampling} < set(kinds) and len(kinds) > 30
    found = [name for kind in kinds for name in free_numbers(kind)]
    assert sorted(found) == sorted(FREE)


def test_the_walk_finds_what_has_no_bounds():
    class Loose(BaseModel):
        plain: int = 0
        maybe: float | None = None
        pair: tuple[int, float] = (1, 1.0)
        half: tuple[Annotated[int, Field(ge=0)], float] = (1, 1.0)
        table: dict[str, int] = Field(default_factory=dict)
        capped: int = Field(0, le=3)
        good: int | None = Field(None, ge=1)
        better: Annotated[float | None, Field(gt=0)] = None
        best: tuple[Annotated[int, Field(ge=0)], ...] = ()
        flag: bool = False

    names = ("plain", "maybe", "pair", "half", "table", "capped")
    assert free_numbers(Loose) == [f"Loose.{name}" for name in names]


def test_nowhere_is_a_number_that_is_none():
    assert [kind for kind in all_kinds() if kind.model_config.get("allow_inf_nan") is not False] == []


def options() -> dict[str, tuple[Any, tuple[Any, ...]]]:
    """`verb option`: its type and what `typer` is told about it."""
    found = {}
    for verb in (*VERBS, *DATA_VERBS):
        for name, hint in get_type_hints(verb, include_extras=True).items():
            kind, *told = get_args(hint) if get_origin(hint) is Annotated else (hint,)
            found[f"{verb.__name__} {name}"] = (kind, tuple(told))
    return found


def test_every_number_on_the_command_line_is_bounded():
    wrong, numbers = [], []
    for name, (kind, told) in options().items():
        kinds = {kind, *get_args(kind)}
        if kinds & {int, float}:
            numbers.append(name)
            if not told or told[0].min is None or (float in kinds and told[0].callback is not finite):
                wrong.append(name)
    assert {"chat temperature", "chat seed", "plan frames", "check seed", "serve kv_gb"} < set(numbers)
    assert wrong == []


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--temperature", "nan"),
        ("--temperature", "-1"),
        ("--seed", "-1"),
        ("--rope-factor", "inf"),
        ("--top-p", "2"),
    ],
)
def test_an_option_out_of_bounds_is_refused(option, value, run):
    code, _, err = run("chat", "--model", "x", "hi", option, value)
    assert code == 2 and f"Invalid value for '{option}'" in " ".join(err.split())


MISTAKES = {
    "optim.lr=-1": "optim.lr.tower=-1: input should be greater than or equal to 0",
    "optim.lr.connector=-1e-4": "optim.lr.connector=-0.0001: input should be greater than or equal to 0",
    "optim.lr.connector=2e5": "optim.lr.connector=200000.0: input should be less than or equal to 1",
    "optim.lr.connector=inf": "optim.lr.connector=inf: input should be a finite number",
    "optim.steps=-5": "optim.steps=-5: input should be greater than or equal to 1",
    "optim.steps=0": "optim.steps=0: input should be greater than or equal to 1",
    "optim.rows=0": "optim.rows=0: input should be greater than or equal to 1",
    "optim.epochs=.nan": "optim.epochs=nan: input should be a finite number",
    "optim.betas=[1.5, .9]": "optim.betas.0=1.5: input should be less than 1",
    "optim.warmup=2": "optim.warmup=2: input should be less than or equal to 1",
    "optim.clip=-1": "optim.clip=-1: input should be greater than or equal to 0",
    "seed=-1": "seed=-1: input should be greater than or equal to 0",
    "keep=0": "keep=0: input should be greater than or equal to 1",
    "save_every=-1": "save_every=-1: input should be greater than or equal to 0",
    "model.lora={r: 0}": "model.lora.r=0: input should be greater than or equal to 1",
    "model.lora={dropout: 1}": "model.lora.dropout=1: input should be less than 1",
    "model.image={std: [0, 1, 1]}": "model.image.std.0=0: input should be greater than 0",
    "model.image={size: 0}": "model.image.size=0: input should be greater than or equal to 1",
    "model.tower={blocks: []}": "model.tower.blocks=[]: ",
}


@pytest.mark.parametrize("setting", MISTAKES)
def test_a_number_out_of_bounds_is_one_line(setting):
    with pytest.raises(ConfigError) as caught:
        settings.override(Run(), [setting])
    assert str(caught.value).startswith(f"command line: {MISTAKES[setting]}")
    assert "\n" not in str(caught.value)


def test_one_learning_rate_is_that_of_all_parts():
    rates = settings.override(Run(), ["optim.lr=1e-4"]).optim.lr.model_dump()
    assert set(rates.values()) == {1e-4}
    some = settings.override(Run(), ["optim.lr=1e-4", "optim.lr.tower=2e-6"]).optim.lr
    assert (some.tower, some.connector) == (2e-6, 1e-4)
    file = settings.make(Run, {"optim": {"lr": 1e-4}}, where="run.yaml")
    assert math.isclose(file.optim.lr.language, 1e-4)
    with pytest.raises(ConfigError, match=r"optim\.lr\.tower='fast': input should be a valid number"):
        settings.override(Run(), ["optim.lr=fast", "optim.lr.tower=1e-5"])
