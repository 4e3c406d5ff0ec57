"""Data of judgements: critiques as LLaVA-Critic's (arXiv 2410.02712), and pairs of a better and a worse answer.

Pairs are made as LLaVA-Hound's (arXiv 2404.01258): K answers of a model, each rated from 1 to 5 by a judge that
knows the captions only; or as LLaVA-Critic's: all answers compared two by two in both orders by a judge that sees.
"""

from itertools import combinations

from llavakit.critic.formats import Format, choose
from llavakit.critic.preferences import Candidates, rewards_of
from llavakit.data.cases import Case
from llavakit.synth.desk import Desk, Role
from llavakit.synth.draft import Draft, Dropped, Turn
from llavakit.synth.instruct import known_of
from llavakit.synth.prompts import describe
from llavakit.synth.replies import Rating
from llavakit.text.conversation import Conversation, Message, Text

LONGEST = 256  # words of an answer that is rated
GOOD = 3  # the least rating of a chosen answer; a rejected one has less
MARGINS = {1: -1.0, 2: 1.0, "tie": 0.0}  # of a label, by how much the second answer is better
WORDS = {-1.0: "the first response is better", 1.0: "the second response is better", 0.0: "both are as good"}


def critique(desk: Desk) -> Draft:
    """A verdict with its reasons, in a format of `llavakit judge`; of a labelled pair, reasons for its label."""
    case = _case(desk)
    form = choose(desk.config.format, 2 if len(case.answers) == 2 else 1)
    swapped = len(case.answers) == 2 and desk.dice.random() < 0.5
    asked = form.ask(case, swapped=swapped).messages[0]
    wanted = None if case.label is None else case.label * (-1 if swapped else 1)
    talk = Conversation((asked,))
    if wanted is not None:
        told = desk.prompt.say("known", verdict=WORDS[wanted])
        talk = Conversation((Message("user", (*asked.media, Text(f"{asked.text}\n\n{told}"))),))
    said = desk.say(talk, "critique", check=lambda text: _unread(form, text))
    value = form.read(said).value
    assert value is not None  # it was checked
    if wanted is not None and (value > 0) - (value < 0) != wanted:
        raise Dropped("verdict", f"the verdict is not the label: {said[-200:]}")
    return Draft((Turn(asked.text, said),), extra={"format": form.name, "value": value})


def _unread(form: Format, text: str) -> str:
    return "" if form.read(text).value is not None else "unread"


def _case(desk: Desk) -> Case:
    known = desk.known
    if not known.questions or len(known.answers) not in (1, 2):
        raise Dropped("no facts", "a critique needs a row with 'question' and 'answer', or 'answers' of two")
    if len(known.answers) == 2 and known.label is not None and known.label not in MARGINS:
        raise Dropped("no facts", f"'label' of two answers is 1, 2 or \"tie\", found {known.label!r}")
    label = MARGINS[known.label] if len(known.answers) == 2 and known.label is not None else None
    return Case(
        desk.item.id, known.questions[0], desk.item.media, known.answers, known.reference,
        describe(known), label,
    )  # fmt: skip


def preferences(desk: Desk) -> Draft:
    """The best and the worst of several answers to a question of the item."""
    if not desk.known.questions:
        raise Dropped("no facts", "the row has no 'question'")
    question = desk.known.questions[0]
    talk = desk.prompted(desk.item.media, (), question, "")
    drawn = [desk.say(talk, f"answer {number}") for number in range(desk.config.answers)]
    found = tuple(dict.fromkeys(drawn))
    if len(found) < 2:
        raise Dropped("alike", f"all {len(drawn)} answers are: {found[0]}")
    scores = _compared(desk, found) if desk.config.format is not None else _rated(desk, question, found)
    best, worst = max(scores), min(scores)
    rated = desk.config.format is None
    if best == worst or (rated and not worst < GOOD <= best):
        raise Dropped("alike", f"the answers are worth {', '.join(f'{score:g}' for score in scores)}")
    chosen, rejected = found[scores.index(best)], found[scores.index(worst)]
    return Draft((Turn(question, chosen),), rejected=rejected, extra={"scores": [best, worst]})


def _rated(desk: Desk, question: str, found: tuple[str, ...]) -> list[float]:
    """A rating of each answer by a judge that does not see."""
    known = known_of(desk)
    reference = f"An answer that is known to be right: {known.reference}\n" if known.reference else ""
    scores = []
    for number, answer in enumerate(found):
        text = desk.prompt.say(
            "task", facts=describe(known), question=question, reference=reference,
            answer=" ".join(answer.split()[:LONGEST]),
        )  # fmt: skip
        talk = desk.prompted((), (), f"{text}\n\n{desk.prompt.say('shape')}", "")
        scores.append(
            float(desk.write(talk, Rating, f"rating {number}", role=_judge(desk), greedy=True).score)
        )
    return scores


def _compared(desk: Desk, found: tuple[str, ...]) -> list[float]:
    """What each answer wins against the others, in both orders."""
    form = choose(desk.config.format, 2)
    prompt = desk.prompted(desk.item.media, (), desk.known.questions[0], "")
    cases = Candidates(desk.item.id, prompt, found, desk.known.reference, describe(desk.known)).pairs()
    margins: dict[tuple[int, int], float | None] = {}
    for a, b in combinations(range(len(found)), 2):
        for shown, swapped in (((a, b), False), ((b, a), True)):
            talk = form.ask(cases[a, b], swapped=swapped)
            said = desk.ask(talk, f"compare {shown}", role=_judge(desk), greedy=True)
            margins[shown] = form.read(said.text).value
    rewards = rewards_of(len(found), margins)
    if rewards is None:
        raise Dropped("unread", "the judge's verdicts could not be read")
    return rewards


def _judge(desk: Desk) -> Role:
    return "judge" if desk.has("judge") else "by"
