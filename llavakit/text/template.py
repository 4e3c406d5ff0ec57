"""Templates: how a conversation becomes text, and which of that text is learned.

A template is data (`templates.py` is the table). Rendering yields pieces with weights; the weights are decided
here, together with the text, and never searched for in the rendered string again.
"""

from dataclasses import dataclass

from llavakit.core.errors import DataError
from llavakit.text.conversation import Conversation, Image, Message, Part, Text


@dataclass(frozen=True)
class Piece:
    """A run of text with its loss weight. `said` marks what a person or a data set wrote."""

    text: str
    weight: float = 0.0
    said: bool = False


@dataclass(frozen=True)
class Template:
    """The strings around messages.

    An assistant message is rendered `header lead TEXT end tail`. An open turn stops after `header`; `lead`,
    the text and `end` are learned, so the model learns to stop and the header is never learned.
    """

    name: str
    user: tuple[str, str]  # before and after a user's text
    header: str  # opens the assistant's turn
    end: str  # closes it; the model must say it
    lead: str = ""  # between header and answer (Vicuna's space belongs to the answer's first token)
    tail: str = ""  # after `end`, not learned
    between: str = ""  # between one round and the next (Llama-2 opens each with <s>)
    system: str = ""  # default system text
    system_frame: tuple[str, str] = ("", "")
    system_in_user: bool = False  # Llama-2: the system block stands inside the first user message
    bos: bool = False  # the row begins with the tokenizer's BOS
    user_text: bool = True  # False for stage-1 captions: the human side is dropped, the image stays

    def pieces(self, conversation: Conversation, *, open_turn: bool = False) -> list[Piece | Image]:
        """The conversation as pieces and images, in order. Joined, the texts are exactly the prompt.

        With `open_turn` the assistant's header is added for the model to go on from.
        """
        check_roles(conversation, open_turn=open_turn)
        messages = conversation.messages
        system = Piece(self.system)
        if messages[0].role == "system":
            system, messages = Piece(messages[0].text, said=True), messages[1:]
        framed = [Piece(self.system_frame[0]), system, Piece(self.system_frame[1])]
        block = framed if system.text and self.user_text else []

        out: list[Piece | Image] = [] if self.system_in_user else list(block)
        for number, message in enumerate(messages):
            if message.role == "assistant":
                answer = Piece(message.text, 1.0, said=True)
                out += [
                    Piece(self.header),
                    Piece(self.lead, 1.0),
                    answer,
                    Piece(self.end, 1.0),
                    Piece(self.tail),
                ]
                continue
            if number > 0:
                out.append(Piece(self.between))
            out.append(Piece(self.user[0]))
            if self.system_in_user and number == 0:
                out += block
            out += self._question(message)
            out.append(Piece(self.user[1]))
        if open_turn:
            out.append(Piece(self.header))
        return [piece for piece in out if isinstance(piece, Image) or piece.text]

    def _question(self, message: Message) -> list[Piece | Image]:
        if not self.user_text:
            return list(message.images)
        parts = place_images(message.parts)
        return [part if isinstance(part, Image) else Piece(part.text, said=True) for part in parts]


def place_images(parts: tuple[Part, ...]) -> tuple[Part, ...]:
    """The released rule: a single image goes in front of the text, with a newline; several stay in place.

    Images that already stand in front, one after another, each get their newline.
    """
    images = [part for part in parts if isinstance(part, Image)]
    if not images:
        return parts
    text = "".join(part.text for part in parts if isinstance(part, Text))
    if len(images) > 1 and list(parts[: len(images)]) != images:
        return parts
    front: list[Part] = []
    for image in images:
        front += [image, Text("\n")]
    return (*front, Text(text.strip()))


def check_roles(conversation: Conversation, *, open_turn: bool) -> None:
    """Refuse what no template can express: wrong order of roles, an answer that is missing or empty."""
    roles = [message.role for message in conversation.messages]
    talk = roles[1:] if roles[:1] == ["system"] else roles
    expected = ["user", "assistant"] * len(talk)
    if talk != expected[: len(talk)] or not talk:
        raise DataError(f"roles must be user, assistant, user, ... (after an optional system); found {roles}")
    last = "user" if open_turn else "assistant"
    if talk[-1] != last:
        raise DataError(f"the last message must be the {last}'s; found {talk[-1]!r}")
    for message in conversation.messages:
        if message.role == "assistant" and not message.text.strip():
            raise DataError("an answer is empty; write one or remove the turn")
        if message.role != "user" and message.images:
            raise DataError(f"an image stands in a message of the {message.role}; move it to the user's")
