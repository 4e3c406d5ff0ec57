"""LLaVA's three kinds of instruction data, LLaVA-Med's, and what is asked of a picture in one question.

A writer that is not shown the picture knows it through captions and boxes, as LLaVA's did (arXiv 2304.08485).
"""

from collections.abc import Callable
from functools import partial
from typing import TypeVar

from llavakit.rules.shingles import words_of
from llavakit.synth.desk import Desk
from llavakit.synth.draft import Draft, Dropped, Turn
from llavakit.synth.instructions import BRIEF, COMPARE, CONCISE_BELOW, DETAILED, READ, RECAP, SHORT
from llavakit.synth.items import Known
from llavakit.synth.prompts import describe, describe_figure
from llavakit.synth.replies import Comparison, Description, Document, QuestionAnswer, Reply, Turns
from llavakit.text.conversation import Conversation

Describe = Callable[[Known], str]
R = TypeVar("R", bound=Reply)
with_boxes: Describe = partial(describe, boxes=True)
without_boxes: Describe = partial(describe, boxes=False)


def conversation(desk: Desk) -> Draft:
    """Questions about what is seen, with certain answers."""
    return Draft(_turns(write(desk, Turns, without_boxes).turns), where="drawn")


def detail(desk: Desk) -> Draft:
    """A full description; the question is one of sixteen."""
    said = write(desk, Description, with_boxes).description
    return Draft((Turn(desk.dice.choice(DETAILED), said),), where="drawn")


def reasoning(desk: Desk) -> Draft:
    """A question that needs steps, and the steps."""
    return Draft(_turns((write(desk, QuestionAnswer, with_boxes),)), where="drawn")


def medical(desk: Desk) -> Draft:
    """A conversation about a figure, from its caption and what the article says of it (LLaVA-Med)."""
    return Draft(_turns(write(desk, Turns, describe_figure).turns), where="drawn")


def medical_captions(desk: Desk) -> Draft:
    """The caption itself as answer, nobody is asked; a short one is asked for in brief (LLaVA-Med's alignment)."""
    caption = " ".join(known_of(desk).captions)
    asks = BRIEF if len(caption.split()) < CONCISE_BELOW else DETAILED
    return Draft((Turn(desk.dice.choice(asks), caption),), where="drawn")


def recap(desk: Desk) -> Draft:
    """LLaVA-ReCap: what a strong model says to one fixed question."""
    talk = desk.prompted(desk.item.media, (), "", desk.prompt.say("task"))
    return Draft((Turn(RECAP, desk.say(talk, "recap")),))


def document(desk: Desk) -> Draft:
    """The text of a document, and short questions whose answers stand in it; others are left out.

    Where the row has the text, it takes the place of what the writer read.
    """
    said = write(desk, Document, with_boxes)
    text = desk.known.text or said.text
    stands = " ".join(words_of(text))
    turns = [
        Turn(f"{turn.question}\n{SHORT}", turn.answer)
        for turn in said.questions
        if f" {' '.join(words_of(turn.answer))} " in f" {stands} "
    ]
    if not turns:
        raise Dropped("ungrounded", f"no answer stands in the text: {said.questions[0].answer}")
    return Draft((Turn(desk.dice.choice(READ), text), *turns))


def answers(desk: Desk) -> Draft:
    """The user's own questions, each answered by itself."""
    if not desk.known.questions:
        raise Dropped("no facts", "the row has no 'questions'")
    turns = []
    for number, question in enumerate(desk.known.questions):
        talk = desk.prompted(desk.item.media, (), desk.prompt.say("task", question=question), "")
        turns.append(Turn(question, desk.say(talk, f"answer {number}")))
    return Draft(tuple(turns))


def differences(desk: Desk) -> Draft:
    """Two pictures or more compared."""
    if len(desk.item.media) < 2:
        raise Dropped("no facts", "a comparison needs two pictures in a row")
    said = write(desk, Comparison, with_boxes).comparison
    return Draft((Turn(desk.dice.choice(COMPARE), said),))


def write(desk: Desk, reply: type[R], described: Describe) -> R:
    """What the kind's writer says about the item, shown or told."""
    return desk.write(_asked(desk, described), reply)


def _asked(desk: Desk, described: Describe) -> Conversation:
    prompt, sees = desk.prompt, desk.config.sees
    task = [prompt.say("task", turns=desk.config.turns), prompt.say("sight" if sees else "facts")]
    if "shape" in prompt.sections:
        task.append(prompt.say("shape"))
    shots = [(prompt.say("ask", facts=described(shot.known)), shot.reply) for shot in prompt.shots]
    if sees:
        return desk.prompted(desk.item.media, shots, prompt.say("see"), "\n\n".join(task))
    told = prompt.say("ask", facts=described(known_of(desk)))
    return desk.prompted((), shots, told, "\n\n".join(task))


def known_of(desk: Desk) -> Known:
    """What is known about the item; where it has no caption, a captioner writes one first."""
    known = desk.known
    if known.captions:
        return known
    if not desk.has("captioner"):
        raise Dropped("no facts", "no caption, and no --captioner; or let the writer --see the picture")
    task = desk.prompts["captions"].say("task")
    if len(desk.item.media) == 1:
        said = desk.say(desk.prompted(desk.item.media, (), "", task), "caption", role="captioner")
        return Known(captions=(said,)).with_more(known)
    found = [
        desk.say(desk.prompted((medium,), (), "", task), f"caption {number}", role="captioner")
        for number, medium in enumerate(desk.item.media)
    ]
    return Known(captions=tuple(f"Picture {n}: {said}" for n, said in enumerate(found, 1))).with_more(known)


def _turns(said: tuple[QuestionAnswer, ...]) -> tuple[Turn, ...]:
    return tuple(Turn(each.question, each.answer) for each in said)
