"""Conversation to Sample: the only place where text meets pixels, and no pixel is decoded here.

Training, chat, evaluation and the engine all encode through `Encoder`, so one conversation has one list of ids.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Protocol

from llavakit.core.errors import DataError
from llavakit.core.types import IMAGE_ID, Segment, segment_positions
from llavakit.data.media import Clip, Media, plan_media
from llavakit.text.conversation import Conversation, Medium, Message, Part, Text, Video, assistant, user
from llavakit.text.grading import Grading
from llavakit.text.template import Piece, Template, Weights, check_roles
from llavakit.text.tokenizer import Tokenizer
from llavakit.vision.frames import VideoConfig, rope_factor
from llavakit.vision.plan import ImageConfig


class PlanMedia(Protocol):
    """What `plan_media` does."""

    def __call__(
        self, part: Medium, image: ImageConfig, video: VideoConfig | None, *, alone: bool
    ) -> Media: ...


@dataclass(frozen=True)
class Sample:
    """Token ids (IMAGE_ID at image slots), how much each counts in the loss, and the media for the slots."""

    ids: tuple[int, ...]
    weights: tuple[float, ...]
    segments: tuple[Segment, ...]
    media: tuple[Media, ...] = ()
    marks: tuple[float, ...] = ()  # a number a leaf that the objective asked for; none: it asked for none

    @property
    def num_tokens(self) -> int:
        return len(self.ids)

    @property
    def leaves(self) -> list[Segment]:
        """Segments that nothing continues."""
        parents = {segment.parent for segment in self.segments}
        return [segment for number, segment in enumerate(self.segments) if number not in parents]

    @property
    def num_inputs(self) -> int:
        """Tokens the decoder reads in training: a leaf's last token is only ever said, never looked at."""
        return self.num_tokens - len(self.leaves)

    @property
    def length(self) -> int:
        """Tokens on the longest way from the first token to a last one: what must fit the context."""
        return max(segment_positions(self.segments), default=-1) + 1


class Encoder:
    """What turns conversations into samples: a tokenizer, a template and the media rules of one checkpoint."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        template: Template,
        image: ImageConfig,
        video: VideoConfig | None = None,
        *,
        weights: Weights = "ours",
        context: int | None = None,
        stretched: float = 1.0,
    ) -> None:
        """`weights="compat"` learns what the released training code learned under this template.

        A conversation longer than `context` tokens is refused; `stretched` is the factor by which RoPE scaling has
        made it longer already.
        """
        self.tokenizer, self.template, self.image, self.video = tokenizer, template, image, video
        self.weights, self.context, self.stretched = weights, context, stretched

    def describe(self) -> dict[str, str]:
        """All that decides which tokens a conversation becomes, but for the sizes of its media."""
        own = {name: repr(value) for name, value in vars(self).items() if name != "tokenizer"}
        return own | {"tokenizer": self.tokenizer.digest()}

    def encode(
        self, conversation: Conversation, *, open_turn: bool = False, plan: PlanMedia = plan_media
    ) -> Sample:
        """One segment. With `open_turn` the assistant's header is the last thing, ready to generate from.

        `plan` plans an image or a video; they come to it in their order.
        """
        media = self._plan(conversation, plan)
        return self._fitting(self._encode(self._tell_times(conversation, media), media, open_turn))

    def encode_reply(self, reply: Message, *, plan: PlanMedia = plan_media) -> Sample:
        """What a user's turn and the assistant's next header are behind an answer that was given as tokens.

        So a prompt that ends with said tokens is gone on with, and no token of it is made anew from text. Its
        pictures count as further ones: other pictures may stand before them.
        """
        media = tuple(plan(part, self.image, self.video, alone=False) for part in reply.media)
        talk = self._tell_times(Conversation((user("?"), assistant("."), reply)), media)
        # What the released rule learns more would hide where the answer ends.
        plain = (
            self if self.weights == "ours" else Encoder(self.tokenizer, self.template, self.image, self.video)
        )
        whole = plain._encode(talk, media, open_turn=True)
        start = 1 + max(place for place, weight in enumerate(whole.weights) if weight)
        ids = whole.ids[start:]
        return Sample(ids, (0.0,) * len(ids), (Segment(0, len(ids)),), media)

    def encode_turns(self, conversation: Conversation) -> Sample:
        """Every question with its answer on its own, all sharing one prefix with the images."""
        check_roles(conversation)
        media = self._plan(conversation)
        turns = [self._tell_times(turn, media) for turn in conversation.turns()]
        return self._fitting(join([self._encode(turn, media, open_turn=False) for turn in turns]))

    def encode_alternatives(self, conversations: Sequence[Conversation]) -> Sample:
        """Conversations that differ in their last answer only, sharing all before it; media are planned once."""
        media = self._plan(conversations[0])
        talks = [self._tell_times(talk, media) for talk in conversations]
        return self._fitting(join([self._encode(talk, media, open_turn=False) for talk in talks]))

    def encode_graded(
        self,
        conversations: Sequence[Conversation],
        grading: Grading,
        facts: Sequence[str] = (),
        *,
        plan: PlanMedia = plan_media,
    ) -> Sample:
        """The same, each with what asks a reward model to grade its last answer.

        The reward is read where the last token of a leaf would be predicted; the token itself only says so.
        """
        media = self._plan(conversations[0], plan)
        talks = [self._tell_times(grading.turns(talk, facts), media) for talk in conversations]
        behind = grading.pieces(facts, self.template.end)
        return self._fitting(
            join([self._encode(talk, media, open_turn=False, behind=behind) for talk in talks])
        )

    def _plan(self, conversation: Conversation, plan: PlanMedia = plan_media) -> tuple[Media, ...]:
        """The images and videos in order, planned from their headers."""
        alone = len(conversation.images) == 1  # a video beside it changes nothing, as in transformers
        return tuple(plan(part, self.image, self.video, alone=alone) for part in conversation.media)

    def _fitting(self, sample: Sample) -> Sample:
        if self.context is None or sample.length <= self.context:
            return sample
        seen = sum(media.plan.num_tokens for media in sample.media)
        factor = rope_factor(sample.length, round(self.context / self.stretched))
        now = "" if self.stretched == 1 else f" (now {self.stretched:g})"
        raise DataError(
            f"{sample.length} tokens ({seen} of images and videos) do not fit the model's context of "
            f"{self.context}; shorten it, use fewer tiles or frames, or stretch the positions: "
            f"model.rope_factor={factor}{now}"
        )

    def _tell_times(self, conversation: Conversation, media: tuple[Media, ...]) -> Conversation:
        """LLaVA-Video's sentence about duration and frame times, between a video and the question."""
        if self.video is None or not self.video.time_instruction:
            return conversation
        clips = iter([item.source for item in media if isinstance(item.source, Clip)])
        return Conversation(tuple(_tell(message, clips) for message in conversation.messages))

    def _encode(
        self,
        conversation: Conversation,
        media: tuple[Media, ...],
        open_turn: bool,
        behind: Sequence[Piece] = (),
    ) -> Sample:
        ids: list[int] = list(self.tokenizer.bos) if self.template.bos else []
        weights = [0.0] * len(ids)
        ahead = iter(media)
        run: list[Piece] = []
        pieces = self.template.pieces(conversation, open_turn=open_turn, weights=self.weights)
        for piece in [*pieces, *behind, None]:
            if isinstance(piece, Piece):
                run.append(piece)
                continue
            if run:  # the text between two images is one tokenization
                more_ids, more_weights = self.tokenizer.encode(run)
                ids += more_ids
                weights += more_weights
                run = []
            if piece is not None:
                slots = next(ahead).plan.num_tokens
                ids += [IMAGE_ID] * slots
                weights += [0.0] * slots
        if not open_turn:  # nothing is learned from what follows the last answer's end marker
            while weights and weights[-1] == 0 and ids[-1] != IMAGE_ID:
                del ids[-1], weights[-1]
        return Sample(tuple(ids), tuple(weights), (Segment(0, len(ids)),), media)


def _tell(message: Message, clips: Iterator[Clip]) -> Message:
    if not any(isinstance(part, Video) for part in message.parts):
        return message
    if len(message.media) == 1:  # the sentence is a line of its own, then comes the question
        return Message(
            message.role, (*message.media, Text(f"{next(clips).instruction}\n{message.text.strip()}"))
        )
    parts: list[Part] = []
    for part in message.parts:
        parts.append(part)
        if isinstance(part, Video):
            parts.append(Text(f"\n{next(clips).instruction}\n"))
    return Message(message.role, tuple(parts))


def join(samples: list[Sample]) -> Sample:
    """Samples that begin alike (same prompt, same images) as one: a parent segment and a child for each.

    The parent is their longest common beginning without learned tokens, so the loss is that of the separate
    samples. Raises ValueError if their images differ: then there is nothing to share.
    """
    if any(sample.media != samples[0].media for sample in samples):
        raise ValueError("samples with different images cannot share a prefix")
    if len(samples) == 1:
        return samples[0]
    columns = zip(*(zip(sample.ids, sample.weights, strict=True) for sample in samples), strict=False)
    shared = sum(1 for _ in takewhile(lambda column: len(set(column)) == 1 and column[0][1] == 0, columns))
    shared = min(shared, min(sample.num_tokens for sample in samples) - 1)  # a child is never empty
    if IMAGE_ID in samples[0].ids[shared:]:
        raise ValueError("samples must be alike up to their last image to share it")
    ids, weights = list(samples[0].ids[:shared]), [0.0] * shared
    segments = [Segment(0, shared)] if shared else []
    for sample in samples:
        start = len(ids)
        ids += sample.ids[shared:]
        weights += sample.weights[shared:]
        segments.append(Segment(start, len(ids), 0 if shared else None))
    return Sample(tuple(ids), tuple(weights), tuple(segments), samples[0].media)
