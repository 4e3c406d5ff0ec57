"""A run as a conversation: what the model is shown of it, and what a model can be trained on."""

from collections.abc import Mapping, Sequence

from llavakit.agent.events import Line
from llavakit.agent.forms import Form, Told
from llavakit.agent.run import Run
from llavakit.text.calls import Card
from llavakit.text.conversation import Conversation, Image, Message, Part, Text, assistant, system
from llavakit.vision.layout import Size

NOTHING = "..."  # what an empty turn of the model is told as, for no template says nothing


def tell(run: Run, form: Form, cards: Sequence[Card], own_system: str) -> Conversation:
    """The conversation so far: results are turns of the user, with the pictures that tools made in them.

    `own_system` stands in the system message where the run was begun without one.
    """
    state, desk, begun = run.state, run.desk, run.state.begun
    pictures = {name: (Image(desk.find(name).path), desk.frame(name).size) for name in begun.shown}
    turns = list(first_turns(begun.question, begun.history, pictures, form))
    left = begun.budget.pictures
    for step in state.steps:
        turns.append(assistant(step.said.text if step.said.text.strip() else NOTHING))
        if not (step.calls or step.unread):
            break
        told = []
        for call in step.calls.values():
            back = step.returned[call.id]
            found = {name: desk.find(name).path for name in back.pictures[:left]}
            left -= len(found)
            told.append(Told(call.id, call.name, back.text, found))
        turns.append(Message("user", form.results(told, step.unread, begun.question)))
    if state.forced is not None:
        where = max(number for number, turn in enumerate(turns) if turn.role == "user")
        turns[where] = Message("user", _joined(turns[where].parts, form.last(state.forced)))
    head = form.system(cards, own_system if begun.system is None else begun.system)
    return Conversation((*([system(head)] if head else []), *turns))


def first_turns(
    question: str, history: Sequence[Line], pictures: Mapping[str, tuple[Image, Size]], form: Form
) -> Sequence[Message]:
    """What stands before the model's first text, without the system message: pictures by their names and sizes."""
    sizes = {name: size for name, (_, size) in pictures.items()}
    asked: tuple[Part, ...] = (*(image for image, _ in pictures.values()), Text(form.first(question, sizes)))
    return *(Message(line.role, (Text(line.text),)) for line in history), Message("user", asked)


def _joined(parts: tuple[Part, ...], more: str) -> tuple[Part, ...]:
    """One more line at the end of a turn."""
    *rest, end = parts or (Text(""),)
    if isinstance(end, Text):
        return (*rest, Text(f"{end.text.rstrip()}\n{more}".lstrip()))
    return (*parts, Text(f"\n{more}"))
