"""KTO's records: one answer and whether it is wanted (`label`, or LLaMA-Factory's `kto_tag`), true or false.

All else is a conversation in any dialect; its last answer is the one that is meant. TRL's has `prompt` and
`completion`.
"""

from pathlib import Path

from llavakit.data.dialects.judged import Raw
from llavakit.data.dialects.trl import write_trl
from llavakit.data.dialects.unread import VERDICTS
from llavakit.text.conversation import Conversation


def is_kto(raw: Raw) -> bool:
    return any(isinstance(raw.get(name), bool) for name in VERDICTS)


def split_kto(raw: Raw) -> tuple[Raw, bool]:
    """(the record of the conversation, whether its last answer is wanted)."""
    [name] = [name for name in VERDICTS if isinstance(raw.get(name), bool)]
    return {other: value for other, value in raw.items() if other != name}, raw[name]


def write_kto(talk: Conversation, wanted: bool, folder: Path, rest: Raw) -> Raw:
    """TRL's record. DataError for what the format cannot say."""
    return rest | write_trl(talk, folder) | {"label": wanted}
