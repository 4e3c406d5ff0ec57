"""What runs, and what one forward computes of it."""

from dataclasses import dataclass, field

from torch import Tensor

from llavakit.data.media import Media
from llavakit.engine.kv_slots import KvSlot
from llavakit.engine.request import Ends, Listen, Request
from llavakit.engine.sampler import Draw


@dataclass(eq=False)
class Sequence:
    """One choice of a request on its way."""

    number: int
    choice: int
    request: Request
    draw: Draw
    listen: Listen
    ends: Ends
    room: int  # tokens it may still say
    ids: list[int]  # prompt and answer
    names: list[int]  # the same, pictures by their content
    keys: list[bytes] = field(default_factory=list)  # of its complete blocks
    seen: dict[bytes, Tensor] = field(default_factory=dict)  # rows_SD of its media, while it is filled
    slot: KvSlot | None = None
    ended: bool = False

    @property
    def done(self) -> int:
        """Tokens whose keys and values are in its slot."""
        return 0 if self.slot is None else self.slot.length

    def say(self, token: int) -> None:
        """Append a token to the answer."""
        self.ids.append(token)
        self.names.append(token)
        self.room -= 1


@dataclass(frozen=True)
class Look:
    """So many more tiles of a medium that a sequence waits for."""

    sequence: Sequence
    key: bytes
    media: Media
    tiles: int


@dataclass(frozen=True)
class Fill:
    """So many more tokens of a prompt, from `start` on.

    With a `fork` the tokens before are that sequence's as well, and what it has of them, or gets in this step, is
    copied layer by layer; it stands before this one. Without, they are in the slot.
    """

    sequence: Sequence
    start: int
    count: int
    fork: Sequence | None = None

    @property
    def end(self) -> int:
        return self.start + self.count

    @property
    def can_run(self) -> bool:
        """Whether what it begins with is there already."""
        return self.fork is None or self.fork.done >= self.start


@dataclass(frozen=True)
class Step:
    """What one forward computes: a row for each of `decoding`, then the rows of each of `filling`, in order.

    Before it, the tiles of `looking` go through the tower.
    """

    decoding: list[Sequence] = field(default_factory=list)
    filling: dict[Sequence, Fill] = field(default_factory=dict)
    looking: list[Look] = field(default_factory=list)

    @property
    def prompts(self) -> list[Sequence]:
        """Those whose prompts come in, each once."""
        return list(dict.fromkeys((*(look.sequence for look in self.looking), *self.filling)))

    @property
    def sequences(self) -> list[Sequence]:
        """Everybody who has a part in it."""
        return self.decoding + self.prompts

    def start(self, sequence: Sequence) -> int:
        """Tokens of a sequence that it need not compute any more."""
        return self.filling[sequence].start if sequence in self.filling else sequence.done

    def reach(self, sequence: Sequence) -> int:
        """Tokens whose keys and values a sequence has when the step is over."""
        return self.filling[sequence].end if sequence in self.filling else sequence.done

    def of(self, sequence: Sequence) -> "Step":
        """One sequence's part alone; the token of one that decodes is as well a piece of its prompt."""
        filling = {each: fill for each, fill in self.filling.items() if each is sequence}
        if sequence in self.decoding:
            filling[sequence] = Fill(sequence, sequence.done, 1)
        return Step([], filling, [look for look in self.looking if look.sequence is sequence])
