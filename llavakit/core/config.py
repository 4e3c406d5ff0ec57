"""Typed settings: frozen, unknown names forbidden, changed by `path=value`, written and read as YAML."""

from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from llavakit.core.errors import ConfigError, nearest
from llavakit.core.files import write_text

C = TypeVar("C", bound="Config")


class Config(BaseModel):
    """Base of every settings class. Two configs with equal fields are equal; none can be changed in place."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())


def make(kind: type[C], values: Any, *, where: str) -> C:
    """Validate plain values into `kind`; the error names the first bad setting and the nearest valid names."""
    if not isinstance(values, dict):
        raise ConfigError(f"{where}: expected settings as `name: value`, found {type(values).__name__}")
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"{where}: {_mistake(error, kind)}") from None


def override(config: C, settings: list[str], *, where: str = "command line") -> C:
    """`config` with every `path=value` applied; values are YAML (`1e-5`, `true`, `[a.json, b.json]`)."""
    tree = config.model_dump()
    for setting in settings:
        path, sign, text = setting.partition("=")
        if not sign:
            raise ConfigError(
                f"{where}: {setting!r} is not a setting; write path=value, as in optim.steps=100"
            )
        node: Any = tree
        kind: type[BaseModel] | None = type(config)
        *parents, leaf = path.split(".")
        for depth, name in enumerate(parents, 1):
            if not isinstance(node, dict) or name not in node:
                raise ConfigError(f"{where}: {_unknown(type(config), path)}")
            if node[name] is None:
                whole = ".".join(parents[:depth])
                raise ConfigError(
                    f"{where}: {whole} is not set here; give it whole: {whole}='{{name: value}}'"
                )
            node, kind = node[name], part_of(kind, name)
        if not isinstance(node, dict):
            raise ConfigError(f"{where}: {_unknown(type(config), path)}")
        node[leaf] = _value(text, setting, where)
        part = part_of(kind, leaf)
        if part is not None and isinstance(node[leaf], int | float | str | dict):
            # A value for a whole part (optim.lr=1e-4) is spelled out, as a later setting may change some of it.
            try:
                node[leaf] = part.model_validate(node[leaf]).model_dump()
            except ValidationError as error:
                raise ConfigError(f"{where}: {_mistake(error, part, path)}") from None
    return make(type(config), tree, where=where)


def load(kind: type[C], path: Path) -> C:
    """Read a YAML file written by `save` or by hand."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not YAML: not a text file") from None
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    return make(kind, values, where=str(path))


def save(config: Config, path: Path) -> None:
    """Write every setting, defaults included: the file alone repeats the run."""
    write_text(path, dump(config))


def dump(config: Config) -> str:
    """Every setting as YAML."""
    return str(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True))


def setting_names(kind: type[BaseModel], prefix: str = "") -> list[str]:
    """Every dotted path that `override` takes, in the order of definition."""
    names = []
    for name in kind.model_fields:
        names.append(prefix + name)
        part = part_of(kind, name)
        if part is not None:
            names += setting_names(part, f"{prefix}{name}.")
    return names


def part_of(kind: type[BaseModel] | None, name: str) -> type[BaseModel] | None:
    """The settings class of a setting that has settings of its own; also where it may be None instead."""
    if kind is None or name not in kind.model_fields:
        return None
    given = kind.model_fields[name].annotation
    parts = [
        each for each in (given, *get_args(given)) if isinstance(each, type) and issubclass(each, BaseModel)
    ]
    return parts[0] if parts else None


def _value(text: str, setting: str, where: str) -> Any:
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise ConfigError(f"{where}: {setting!r}: the value is not YAML; quote it") from None
    if isinstance(value, str) and value == text.strip():
        # YAML 1.1 reads 1e-5 (no dot, no quotes) as text; people mean the number.
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _mistake(error: ValidationError, kind: type[BaseModel], whole: str = "") -> str:
    """The first mistake in one line; `whole` is the path of `kind` where it is a part."""
    first = error.errors()[0]
    path = ".".join(str(step) for step in ((whole,) if whole else ()) + first["loc"])
    if first["type"] == "extra_forbidden":
        return _unknown(kind, path)
    if first["type"] == "missing":
        return f"{path} is missing"
    if first["type"] == "model_type":
        return f"{path}={first['input']!r}: expected settings as {{name: value}}"
    return f"{path}={first['input']!r}: {first['msg'].lower()}"


def _unknown(kind: type[BaseModel], path: str) -> str:
    return f"unknown setting {path!r}{nearest(path, setting_names(kind))}"
