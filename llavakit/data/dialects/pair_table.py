"""The dialects of pairs, in the order in which a record is held against them: the first that fits reads it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from llavakit.core.errors import DataError, shorten
from llavakit.data.dialects.argilla import is_argilla, split_argilla, write_argilla
from llavakit.data.dialects.collected import is_collected, split_collected
from llavakit.data.dialects.judged import Judged, Raw
from llavakit.data.dialects.label_studio import is_label_studio, split_label_studio, write_label_studio
from llavakit.data.dialects.preferences import (
    is_chosen,
    is_rlhf,
    split_chosen,
    split_rlhf,
    write_rlhf,
    write_trl_pair,
)
from llavakit.text.conversation import Conversation


@dataclass(frozen=True)
class PairDialect:
    """A way to write two answers to one prompt, and what people said of them, as a record."""

    name: str
    fits: Callable[[Raw], bool]
    split: Callable[[Raw], Judged]
    # chosen, rejected, the folder of the file, and fields beside the pair that are taken along
    write: Callable[[Conversation, Conversation, Path, Raw], Raw] | None = None


PAIR_DIALECTS = (
    PairDialect("rlhf", is_rlhf, split_rlhf, write_rlhf),
    PairDialect("label-studio", is_label_studio, split_label_studio, write_label_studio),
    PairDialect("argilla", is_argilla, split_argilla, write_argilla),
    PairDialect("collected", is_collected, split_collected),
    PairDialect("trl-pairs", is_chosen, split_chosen, write_trl_pair),
)


def recognise_pair(raw: Raw) -> PairDialect:
    """The dialect of a pair. DataError, with the names of the fields that are there, where there is none."""
    for dialect in PAIR_DIALECTS:
        if dialect.fits(raw):
            return dialect
    raise DataError(
        "a pair has 'chosen' and 'rejected', or 'output_1', 'output_2' and 'preference', or is an export of "
        f"Label Studio or Argilla; found: {shorten(', '.join(map(repr, raw)), 300) or 'nothing'}"
    )
