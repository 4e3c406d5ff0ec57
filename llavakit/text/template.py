"""Templates: how a conversation becomes text, and which of that text is learned.

A template is data (`templates.py` is the table). Rendering yields pieces with weights; the weights are decided
here, together with the text, and never searched for in the rendered string again.

Two weight rules are known. `ours`: the answer and what ends it, nothing else. `compat`: what the code that trained
the released models gave a loss. They agree for most rows; `Template.compat` and `compat_tokens` hold what more a
release learned. Not repeated are the accidents of counting tokens on pieces encoded apart: v1 and llama_2 dropped
a whole sample when the counts disagreed, mpt often did, and v0's edges moved by about a token with every turn.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from llavakit.core.errors import DataError
from llavakit.text.conversation import Conversation, Medium, Message, Part, Role, Text

Weights = Literal["ours", "compat"]
Placement = Literal["front", "single_front", "as_is"]
Field = Literal["opening", "header", "tail", "closing"]  # of a template: what only a released rule may learn


@dataclass(frozen=True)
class Piece:
    """A run of text with its loss weight.

    `said` marks what a person or a data set wrote. `compat` is the weight under the released rule, and `tokens`
    are vocabulary entries (by their text) that count 1 wherever they fall in this piece, because that rule is
    about ids. The template fills both, `tokens` only under weights="compat".
    """

    text: str
    weight: float = 0.0
    said: bool = False
    compat: float = 0.0
    tokens: tuple[str, ...] = ()


@dataclass(frozen=True)
class Template:
    """The strings around messages, and the rules that go with them.

    An assistant message is rendered `header lead TEXT end tail`. An open turn stops after `header`; `lead`,
    the text and `end` are learned with the message's weight, so the model learns to stop and the header is never
    learned.
    """

    name: str
    user: tuple[str, str]  # before and after a user's text
    header: str  # opens the assistant's turn
    end: str  # closes it; the model must say it
    lead: str = ""  # between header and answer (Vicuna's space belongs to the answer's first token)
    tail: str = ""  # after `end`, not learned
    opening: str = ""  # before the first user's turn, once
    closing: str = ""  # after the last round, once
    between: str = ""  # between one round and the next (Llama-2 opens each with <s>)
    system: str = ""  # default system text
    system_frame: tuple[str, str] = ("", "")
    system_in_user: bool = False  # Llama-2: the system block stands inside the first user message
    bos: bool = False  # the row begins with the tokenizer's BOS
    user_text: bool = True  # False for stage-1 captions: the human side is dropped, the image stays
    trim: bool = False  # blanks around a whole message are dropped, as Llama-3's chat template does
    placement: Placement = "front"  # where media stand in a question: a row of PLACEMENTS
    media_frame: tuple[str, str] = ("", "")  # around every medium (<Image> </Image> in the mmtag rows)
    stops: tuple[str, ...] = ()  # texts that end an answer besides `end`; see Tokenizer.stop_strings
    compat: tuple[Field, ...] = ()  # fields that are learned too under `compat`
    compat_tokens: tuple[str, ...] = ()  # tokens learned wherever they stand under `compat`, in questions too

    def pieces(
        self, conversation: Conversation, *, open_turn: bool = False, weights: Weights = "ours"
    ) -> list[Piece | Medium]:
        """The conversation as pieces and media, in order. Joined, the texts are exactly the prompt.

        With `open_turn` the assistant's header is added for the model to go on from. `weights` says which of the
        two rules becomes each piece's `weight`. Raises DataError for an order of roles no template can express.
        """
        if open_turn:
            self._check_prompt(conversation)
        else:
            check_roles(conversation)
        if self.trim:
            conversation = Conversation(tuple(map(_trimmed, conversation.messages)))
        out = self._render(conversation)
        out.append(self._own("header") if open_turn else self._own("closing"))
        kept = [piece for piece in out if not isinstance(piece, Piece) or piece.text]
        if weights == "ours":
            return kept
        return [
            replace(piece, weight=piece.compat, tokens=self.compat_tokens)
            if isinstance(piece, Piece)
            else piece
            for piece in kept
        ]

    def _render(self, conversation: Conversation) -> list[Piece | Medium]:
        messages = conversation.messages
        system = Piece(self.system)
        if messages[0].role == "system":
            system, messages = Piece(messages[0].text, said=True), messages[1:]
        block = self._framed(system) if system.text and self.user_text else []

        out: list[Piece | Medium] = [] if self.system_in_user else list(block)
        out.append(self._own("opening"))
        for number, message in enumerate(messages):
            if message.role == "assistant":
                weight = message.weight
                said = Piece(message.text, weight, said=True, compat=weight)
                lead, end = Piece(self.lead, weight, compat=weight), Piece(self.end, weight, compat=weight)
                out += [self._own("header"), lead, said, end, self._own("tail")]
                continue
            if message.role == "system":
                out += self._framed(Piece(message.text, said=True))
                continue
            if number > 0:
                out.append(Piece(self.between))
            out.append(Piece(self.user[0]))
            if self.system_in_user and number == 0:
                out += block
            out += self._question(message)
            out.append(Piece(self.user[1]))
        return out

    def _framed(self, system: Piece) -> list[Piece | Medium]:
        return [Piece(self.system_frame[0]), system, Piece(self.system_frame[1])]

    @property
    def any_order(self) -> bool:
        """Whether each turn says by itself whose it is, so that a prompt can have them in any order."""
        headed = bool(self.user_text and self.user[0] and self.header)
        return headed and not (self.system_in_user or self.opening or self.between)

    def _check_prompt(self, conversation: Conversation) -> None:
        """Refuse what this template cannot ask. More can be asked than is learned, and answers may be empty."""
        roles = [message.role for message in conversation.messages]
        if not self.any_order:
            _check_order(roles, "user")
        elif not roles or (not self.system_frame[0] and "system" in (roles[1:] or roles)):
            raise DataError(
                f"the template {self.name!r} says a system message in front of others only; found {roles}"
            )
        _check_media(conversation)

    def _own(self, field: Field) -> Piece:
        """A text of the template that only the released rule may learn."""
        text = {"opening": self.opening, "header": self.header, "tail": self.tail, "closing": self.closing}[
            field
        ]
        return Piece(text, compat=float(field in self.compat))

    def _question(self, message: Message) -> list[Piece | Medium]:
        before, after = Piece(self.media_frame[0]), Piece(self.media_frame[1])
        out: list[Piece | Medium] = []
        for part in PLACEMENTS[self.placement](message.parts):
            if not isinstance(part, Text):
                out += [before, part, after]
            elif self.user_text:
                out.append(Piece(part.text, said=True))
        return out


def place_front(parts: tuple[Part, ...]) -> tuple[Part, ...]:
    """LLaVA's rule (v1 to 1.6): a single image or video goes in front, a newline after it, the text stripped.

    The released code leaves one placeholder of however many a turn had, so it has no rule for several media. Here
    they stay where they stand; those that stand in front, one after another, each get their newline.
    """
    media = [part for part in parts if not isinstance(part, Text)]
    if not media or (len(media) > 1 and list(parts[: len(media)]) != media):
        return parts
    return _in_front(media, parts)


def place_single_front(parts: tuple[Part, ...]) -> tuple[Part, ...]:
    """NeXT's rule: a turn's only image or video goes in front unless it is there already; several stay in place.

    Text that follows media in front and begins with a newline is a data file's own layout and is left untouched,
    blanks included. Without that newline they come from a program that gave media and text apart, and each gets its
    newline, as the released scripts write it.
    """
    media = [part for part in parts if not isinstance(part, Text)]
    first = list(parts[: len(media)]) == media
    if not media or (len(media) > 1 and not first):
        return parts
    if first and _text_of(parts)[:1] == "\n":
        return parts
    return _in_front(media, parts)


def place_as_is(parts: tuple[Part, ...]) -> tuple[Part, ...]:
    """Everything stays where it stands, and no newline is added: the data or the program wrote all there is."""
    return parts


PLACEMENTS: dict[Placement, Callable[[tuple[Part, ...]], tuple[Part, ...]]] = {
    "front": place_front,
    "single_front": place_single_front,
    "as_is": place_as_is,
}


def check_roles(conversation: Conversation) -> None:
    """Refuse what no template can teach: wrong order of roles, an answer that is missing or empty."""
    _check_order([message.role for message in conversation.messages], "assistant")
    for message in conversation.messages:
        if message.role == "assistant" and not message.text.strip():
            raise DataError("an answer is empty; write one or remove the turn")
    _check_media(conversation)


def _check_order(roles: Sequence[Role], last: Role) -> None:
    talk = roles[1:] if roles[:1] == ["system"] else roles
    expected = ["user", "assistant"] * len(talk)
    if talk != expected[: len(talk)] or not talk:
        raise DataError(f"roles must be user, assistant, user, ... (after an optional system); found {roles}")
    if talk[-1] != last:
        raise DataError(f"the last message must be the {last}'s; found {talk[-1]!r}")


def _check_media(conversation: Conversation) -> None:
    for message in conversation.messages:
        if message.role != "user" and message.media:
            kind = "an image" if message.images else "a video"
            raise DataError(f"{kind} stands in a message of the {message.role}; move it to the user's")


def _text_of(parts: tuple[Part, ...]) -> str:
    return "".join(part.text for part in parts if isinstance(part, Text))


def _in_front(media: list[Medium], parts: tuple[Part, ...]) -> tuple[Part, ...]:
    lines: list[Part] = [part for medium in media for part in (medium, Text("\n"))]
    return (*lines, Text(_text_of(parts).strip()))


def _trimmed(message: Message) -> Message:
    """The message without the blanks at its two ends; an image or a video at an end keeps those behind it."""
    parts = list(message.parts)
    while parts and isinstance(parts[0], Text) and not parts[0].text.strip():
        del parts[0]
    while parts and isinstance(parts[-1], Text) and not parts[-1].text.strip():
        del parts[-1]
    if parts and isinstance(parts[0], Text):
        parts[0] = Text(parts[0].text.lstrip())
    if parts and isinstance(parts[-1], Text):
        parts[-1] = Text(parts[-1].text.rstrip())
    return replace(message, parts=tuple(parts))
