"""Answers that nobody has to look for: a question that is answered alike without the picture teaches no looking."""

from dataclasses import replace

from llavakit.rules.shingles import overlap
from llavakit.rules.short_answers import normalise
from llavakit.synth.desk import Desk
from llavakit.synth.draft import Draft, Dropped

ALIKE = 0.6  # overlap of two long answers


def drop_guessed(desk: Desk, draft: Draft) -> Draft:
    """The draft without the turns whose answer somebody gives who sees nothing. Dropped if none is left."""
    prompt, turns = desk.prompts["blind"], []
    for number, turn in enumerate(draft.turns):
        text = f"{prompt.say('task', question=turn.question)}\n\n{prompt.say('shape')}"
        said = desk.say(desk.prompted((), (), text, ""), f"blind {number}", role="blind", greedy=True)
        if not same_answer(said, turn.answer):
            turns.append(turn)
    if not turns:
        raise Dropped("guessed", f"{draft.turns[0].question} {draft.turns[0].answer}")
    return replace(draft, turns=tuple(turns))


def same_answer(one: str, other: str) -> bool:
    """Whether two answers say the same: equal in the form that VQA compares, or much the same words."""
    return normalise(one) == normalise(other) or overlap(one, other) >= ALIKE
