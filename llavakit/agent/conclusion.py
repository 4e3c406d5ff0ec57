"""The end of a run: the model's last words, what they rest on, and what is missing in them."""

from llavakit.agent.claims import Known, check_claims
from llavakit.agent.events import Answered
from llavakit.agent.state import State


def conclude(state: State, words: str, finish: str = "stop") -> Answered:
    """The answer. Where the model has none, what its calls gave is told instead, as what it is."""
    calls = [(call, back) for call, back in state.calls() if back is not None]
    known = [
        Known(call.id, call.name, back.value, bool(back.pictures), back.error is not None)
        for call, back in calls
    ]
    # A call that failed and was made good by a later one of the same tool is not missing.
    good = {call.name: number for number, (call, back) in enumerate(calls) if back.error is None}
    missing = [
        f"{call.id} {call.name}: {back.error}"
        for number, (call, back) in enumerate(calls)
        if back.error is not None and good.get(call.name, -1) < number
    ]
    words = words.strip()
    if not words:
        why = "" if finish == "stop" else " (its time was up)" if finish == "time" else f" ({finish})"
        missing.insert(0, f"an answer: the model gave none{why}")
        words = "\n".join(
            f"{call.name} gave {back.text} [{call.id}]" for call, back in calls if back.error is None
        )
    return Answered(
        sentences=check_claims(words, state.begun.question, known),
        used=tuple(each.id for each in known if not each.failed),
        stopped=state.forced or "",
        missing=tuple(missing),
    )
