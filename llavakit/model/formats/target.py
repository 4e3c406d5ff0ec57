"""Where a model directory may be written: one rule for every verb that writes one."""

from fnmatch import fnmatch
from pathlib import Path

from llavakit.core.errors import ConfigError
from llavakit.core.files import read_json

# What model directories consist of; anything else may be somebody's work.
MODEL_FILES = (
    "*.safetensors", "*.bin", "*.json", "*.jinja", "*.model", "merges.txt", "vocab.txt", "README.md", "LICENSE*",
    ".gitattributes",
)  # fmt: skip
ADAPTER_FOLDER = "tower"  # adapters of the tower, see adapters.py


def check_target(target: Path, *sources: Path, overwrite: bool = False) -> None:
    """Refuse a target that overlaps a source, or that holds anything, unless it is a model and `overwrite` is set.

    A model is a directory with a config.json that names its kind, and with nothing but a model's files.
    """
    there = target.resolve()
    for source in sources:
        here = source.resolve()
        if here == there or here in there.parents or there in here.parents:
            raise ConfigError(f"{target} and {source} overlap; choose another place for the model")
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise ConfigError(f"{target} is there and is no directory; choose a new name")
    if not target.is_dir() or not any(target.iterdir()):
        return
    foreign = _foreign(target)
    if foreign is not None:
        raise ConfigError(f"{target} is not empty and {foreign}; it is never replaced: choose a new name")
    if not overwrite:
        raise ConfigError(
            f"{target} holds a model already; choose a new name, or replace it with --overwrite"
        )


def _foreign(target: Path) -> str | None:
    """Why a directory is not a model's alone; None if it is."""
    config = target / "config.json"
    if not config.is_file() or not {"model_type", "architectures"} & read_json(config).keys():
        return "holds no model"
    strange = sorted(
        path.name
        for path in target.iterdir()
        if not any(fnmatch(path.name, pattern) for pattern in MODEL_FILES)
        and not (path.name == ADAPTER_FOLDER and path.is_dir())
    )
    return f"holds more than a model ({', '.join(strange[:3])})" if strange else None
