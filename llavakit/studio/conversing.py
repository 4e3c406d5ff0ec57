"""What a model is shown of a picture and the chat about it."""

import PIL.Image

from llavakit.studio.looking import SceneView
from llavakit.studio.proposals import Sight
from llavakit.studio.pyramid import small_size
from llavakit.studio.scene import Scene
from llavakit.studio.session import Gone, Session
from llavakit.text.conversation import Conversation, Image, Message, Part, Text, assistant, system
from llavakit.vision.boxes import Frame, Unit
from llavakit.vision.plan import ImageConfig, plan_image

LONGEST = 1536  # pixels of the longer side that a model is shown; the towers of the series take less


def conversation_about(session: Session, *, pictures: int = 1, system_text: str = "") -> Conversation:
    """The chat, whose last turn waits for an answer, with the picture as it was at each turn.

    An edit makes another picture. A model is shown the last `pictures` of them, each in front of the first question
    about it, and only the turns about these: what was said of an earlier one may be true of this one no longer.
    """
    turns = [(turn, _scene(session, turn["rev"])) for turn in session.describe()["talk"]]
    turns[-1] = (turns[-1][0], session.scene)
    shown: list[object] = []  # keys of the pictures, the newest first
    first = len(turns)
    while first and turns[first - 1][1] is not None:
        key = SceneView(turns[first - 1][1]).key  # type: ignore[arg-type]
        if key not in shown:
            if len(shown) == pictures:
                break
            shown.append(key)
        first -= 1
    while turns[first][0]["role"] != "user":  # an answer whose question was about an earlier picture
        first += 1
    messages: list[Message] = [system(system_text)] if system_text else []
    before: object = None
    for turn, scene in turns[first:]:
        if turn["role"] == "assistant":
            messages.append(assistant(turn["text"]))
            continue
        assert scene is not None
        view = SceneView(scene)
        parts: tuple[Part, ...] = (Text(turn["text"]),)
        if view.key != before:
            parts, before = (Image(picture_of(view)), *parts), view.key
        if messages and messages[-1].role == "user":  # the last question got no answer
            parts = (*messages.pop().parts, Text("\n"), *parts)
        messages.append(Message("user", parts))
    return Conversation(tuple(messages))


def picture_of(view: SceneView) -> PIL.Image.Image:
    """What is visible, halved until it is at most LONGEST pixels long."""
    return PIL.Image.fromarray(view.rgb(_halvings(view.size)))


def sight_of(size: tuple[int, int], unit: Unit, image: ImageConfig | None) -> Sight:
    """How a model sees a canvas of `size` that it was shown; `image`: what it makes of pictures, if known."""
    shown = small_size(size, _halvings(size))
    steps = () if image is None else plan_image(image, shown).views[-1].steps
    return Sight(size, unit, Frame(shown, steps))


def _halvings(size: tuple[int, int]) -> int:
    return max(0, (max(size) - 1) // LONGEST).bit_length()


def _scene(session: Session, rev: int) -> Scene | None:
    try:
        return session.scene_at(rev)
    except Gone:
        return None
