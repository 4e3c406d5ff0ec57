"""A tool called by a person: arguments from the command line, pictures from files, results into files."""

import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from llavakit.core.errors import ConfigError, DataError, TooManyFailures
from llavakit.core.files import draft_of
from llavakit.text.calls import Call, Json
from llavakit.tools.artifacts import Artifacts
from llavakit.tools.desk import Desk
from llavakit.tools.skills import open_tools
from llavakit.vision.boxes import Unit


@dataclass(frozen=True)
class Given:
    """What a call was given on the command line."""

    arguments: Sequence[str]
    images: Sequence[Path]
    masks: Sequence[Path]
    unit: Unit
    settings: Sequence[str] = ()


def read_settings(said: Sequence[str]) -> dict[str, dict[str, str]]:
    """`tool.setting=value`, for `open_tools`."""
    found: dict[str, dict[str, str]] = {}
    for setting in said:
        place, sign, value = setting.partition("=")
        tool, dot, name = place.partition(".")
        if not (sign and dot and tool and name and value):
            raise ConfigError(f"--set {setting!r}: write TOOL.SETTING=VALUE, such as ground.model=DIR")
        found.setdefault(tool, {})[name] = value
    return found


def run_by_hand(name: str, given: Given, out: Path, seconds: float) -> tuple[Json, list[Path]]:
    """What the tool gives, and the files of what it made. TooManyFailures (exit code 1) where it refuses."""
    arguments = json.dumps(_read(given.arguments), allow_nan=False)
    registry, store = open_tools([name], read_settings(given.settings)), Artifacts()
    try:
        desk = Desk(store, unit=given.unit)
        for image in given.images:
            desk.add_image(image)
        for mask in given.masks:
            desk.add_text(_text(mask))
        brought = len(desk.names)
        result = registry.call(Call(name, arguments), desk, deadline=time.monotonic() + seconds)
        if result.error is not None:
            raise TooManyFailures(f"{name}: {result.error}")
        stem = given.images[0].stem if given.images else name
        made = list(desk.names)[brought:]
        files = [_save(desk.store.find(desk.names[one]).path, out, f"{stem}-{name}") for one in made]
        return result.value, files
    finally:
        registry.close()
        shutil.rmtree(store.folder, ignore_errors=True)


def _read(arguments: Sequence[str]) -> Json:
    found: Json = {}
    for argument in arguments:
        name, sign, text = argument.partition("=")
        if not sign or not name:
            raise ConfigError(f"{argument!r} is not an argument; write name=value, such as box=[0,0,0.5,0.5]")
        try:
            found[name] = yaml.safe_load(text)
        except yaml.YAMLError:
            raise ConfigError(f"{argument!r}: the value is not YAML; quote it") from None
    return found


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot be read as text: {error}", path=path) from None


def _save(path: Path, folder: Path, stem: str) -> Path:
    """A copy under the first name that is free: nothing is replaced."""
    suffix = ".png" if path.suffix == ".png" else ".mask.json"
    target, number = folder / f"{stem}{suffix}", 2
    while target.exists():
        target, number = folder / f"{stem}-{number}{suffix}", number + 1
    try:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, draft_of(target))
        draft_of(target).rename(target)
    except OSError as error:
        raise ConfigError(f"{target}: cannot be written: {error.strerror}") from None
    return target
