"""How a conversation is put before a reward model: behind its last answer comes a turn that asks to grade it.

The reward is read where the answer to that turn has just begun. The texts here are ours; a released model needs its
own, byte for byte, which is given as a file (`suffix`).
"""

from collections.abc import Sequence
from pathlib import Path

from pydantic import model_validator

from llavakit.core.config import Config
from llavakit.core.errors import ConfigError, DataError
from llavakit.text.conversation import Conversation, assistant, read_only, user
from llavakit.text.template import Piece

SLOT = "{facts}"
SLOTS = (SLOT, "{factual_prompt}")  # the second is LLaVA-RLHF's spelling
QUESTION = (
    "Grade your last response. It should be\n"
    "1. accurate: nothing in it contradicts the image, and nothing in it is invented. {facts}\n"
    "2. helpful: it gives what was asked for.\n"
    "3. natural: it reads as a person would say it.\n"
    "4. concise: it has no needless words."
)
OPENING = "The grade of the last response is"
LEAD = "These statements about the image are true; what the response claims should follow from them together:"


class Grading(Config):
    """What a reward model is asked."""

    question: str = QUESTION  # the turn that asks, with a place for facts
    opening: str = OPENING  # how the answer to it begins
    suffix: str | None = None  # instead of both: text that stands behind the conversation as it is
    lead: str = LEAD  # the sentence before the facts
    facts: bool = False  # whether the model was taught with facts, and so expects them

    @model_validator(mode="after")
    def _takes_facts(self) -> "Grading":
        if self.facts and not self.has_place:
            raise ConfigError(f"a grading prompt for facts needs the place where they stand, {SLOT}")
        return self

    @property
    def has_place(self) -> bool:
        """Whether facts can be put into the prompt."""
        text = self.question if self.suffix is None else self.suffix
        return any(slot in text for slot in SLOTS)

    def turns(self, conversation: Conversation, facts: Sequence[str]) -> Conversation:
        """The conversation with the turn behind it, of which alone something is learned.

        DataError for one that does not end with an answer.
        """
        if not conversation.messages or conversation.messages[-1].role != "assistant":
            raise DataError("the last message must be the assistant's, the answer that is scored")
        if self.suffix is not None:
            return read_only(conversation)
        asked, begun = user(self._filled(self.question, facts)), assistant(self.opening)
        return Conversation((*read_only(conversation).messages, asked, begun))

    def pieces(self, facts: Sequence[str], end: str) -> list[Piece]:
        """The suffix, where there is one, and `end`, at which nothing looks any more."""
        if self.suffix is None:
            return []
        return [Piece(self._filled(self.suffix, facts)), Piece(end, weight=1.0)]

    def _filled(self, text: str, facts: Sequence[str]) -> str:
        lines = "".join(f"  - {fact}\n" for fact in facts)
        block = f"{self.lead}\n{lines}" if facts else ""
        for slot in SLOTS:
            text = text.replace(slot, block)
        return text


def read_suffix(path: Path) -> str:
    """The text of a released reward prompt: what stands between the end of the answer and the grade.

    It is put behind the conversation with one blank before it, as LLaVA-RLHF does.
    """
    try:
        return " " + path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"reward.prompt={path}: cannot be read: {error}") from None
