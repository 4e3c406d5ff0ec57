"""Typed settings: frozen, unknown names forbidden, changed by `path=value`, written and read as YAML."""

from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from llavakit.core.errors import ConfigError, nearest
from llavakit.core.files import write_text

C = TypeVar("C", bound="Config")


class Config(BaseModel):
    """Base of every settings class. Two configs with equal fields are equal; none can be changed in place."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


def make(kind: type[C], values: Any, *, where: str) -> C:
    """Validate plain values into `kind`; the error names the first bad setting and the nearest valid names."""
    if not isinstance(values, dict):
        raise ConfigError(f"{where}: expected settings as `name: value`, found {type(values).__name__}")
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        path = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            raise ConfigError(f"{where}: {_unknown(kind, path)}") from None
        raise ConfigError(
            f"{where}: {path}={first['input']!r}: {first['msg'].lower()}"
            if first["type"] != "missing"
            else f"{where}: {path} is missing"
        ) from None


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
        *parents, leaf = path.split(".")
        for depth, name in enumerate(parents, 1):
            if not isinstance(node, dict) or name not in node:
                raise ConfigError(f"{where}: {_unknown(type(config), path)}")
            if node[name] is None:
                whole = ".".join(parents[:depth])
                raise ConfigError(
                    f"{where}: {whole} is not set here; give it whole: {whole}='{{name: value}}'"
                )
            node = node[name]
        if not isinstance(node, dict):
            raise ConfigError(f"{where}: {_unknown(type(config), path)}")
        node[leaf] = _value(text, setting, where)
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
    for name, field in kind.model_fields.items():
        names.append(prefix + name)
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            names += setting_names(inner, f"{prefix}{name}.")
    return names


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


def _unknown(kind: type[BaseModel], path: str) -> str:
    return f"unknown setting {path!r}{nearest(path, setting_names(kind))}"
