"""Facts: what is known about a record's pictures, for a reward model or a judge that checks answers against them.

Captions, rationales, options, words that were read in the picture: lists of texts, out of the record's own fields
or out of a file by the picture's name.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import field_validator

from llavakit.core.config import Config
from llavakit.core.errors import ConfigError, DataError
from llavakit.text.conversation import Conversation

FROM_RATIONALES = (
    "aok_"  # before the picture's name in LLaVA-RLHF's file: A-OKVQA's rationales instead of captions
)
CHOICES = (2, 3, 4, 5)  # `caption_type` of A-OKVQA's records


class FactsConfig(Config):
    """Where facts come from."""

    file: Path | None = None  # JSON: {picture's file name: [texts]}, LLaVA-RLHF's image_to_caption.json
    fields: tuple[str, ...] = ()  # of the record: texts or lists of texts, as captions; used besides the file

    @field_validator("fields", mode="before")
    @classmethod
    def _one_field(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value


class Facts:
    """Looks them up."""

    def __init__(self, config: FactsConfig) -> None:
        if config.file is None and not config.fields:
            raise ConfigError("facts: name the file or the fields they are in")
        if config.file is not None and not config.file.is_file():
            raise ConfigError(f"facts.file={config.file} does not exist")
        self.config = config
        self._table = {} if config.file is None else _read_table(config.file)

    def of(self, conversation: Conversation, fields: Mapping[str, Any]) -> tuple[str, ...]:
        """The facts of a record with these fields. DataError where there are none: they are missing somewhere."""
        found = [fact for field in self.config.fields for fact in _texts(field, fields.get(field))]
        names = [image.source.name for image in conversation.images if isinstance(image.source, Path)]
        if self.config.file is not None:
            found += [fact for name in names for fact in self._of_picture(name, fields)]
        if not found:
            raise DataError(f"no facts: {self._places(names)}")
        return tuple(found)

    def _of_picture(self, name: str, fields: Mapping[str, Any]) -> Sequence[str]:
        keys = [FROM_RATIONALES + name, name] if fields.get("caption_type") in CHOICES else [name]
        return next((self._table[key] for key in keys if key in self._table), ())

    def _places(self, names: list[str]) -> str:
        places = [f"no field {field!r}" for field in self.config.fields]
        if self.config.file is not None:
            places.append(f"{' and '.join(names) or 'no picture with a file name'} not in {self.config.file}")
        return ", ".join(places)


def _read_table(file: Path) -> dict[str, list[str]]:
    try:
        table = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"cannot be read: {error}", path=file) from None
    if not isinstance(table, dict) or not all(map(_is_list_of_texts, table.values())):
        raise DataError("must be an object of lists of texts by picture", path=file)
    return table


def _texts(field: str, value: Any) -> list[str]:
    if value is None:
        return []
    if isinstance(value, str):
        return [value]
    if not _is_list_of_texts(value):
        raise DataError(f"{field!r} must be a text or a list of texts")
    return list(value)


def _is_list_of_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)
