"""Training data of a critic: labelled cases as records of LLaVA-Critic-113k's form, a prompt and its verdict."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from llavakit.core.errors import DataError
from llavakit.core.files import write_text
from llavakit.critic.formats import Format
from llavakit.critic.run import asks_of
from llavakit.data.cases import Case
from llavakit.data.dialects.llava import write_llava
from llavakit.text.conversation import Conversation, assistant


def write_critic_records(
    form: Format,
    cases: Sequence[Case],
    path: Path,
    *,
    both: bool = True,
    reason: Callable[[Case], str] = lambda case: "",
) -> int:
    """Write a record for every case, of two answers with `both` one for each order; how many.

    The verdict is the format's with the value nearest to the label, behind what `reason` says of the case.
    DataError for a case that has no label.
    """
    rows: list[dict[str, object]] = []
    for ask in asks_of(cases, both=both):
        label = ask.case.label
        if label is None:
            raise DataError(f"case {ask.case.id!r} has no label to learn")
        wanted = -label if ask.swapped else label
        verdict = min(form.verdicts, key=lambda text: abs(form.verdicts[text] - wanted))
        prompt = form.ask(ask.case, swapped=ask.swapped)
        talk = Conversation((*prompt.messages, assistant(reason(ask.case) + form.lead + verdict.rstrip())))
        rows.append(
            {"id": f"{ask.case.id} {len(rows)}", "source": form.name} | write_llava(talk, path.parent)
        )
    write_text(path, json.dumps(rows, ensure_ascii=False, indent=1) + "\n")
    return len(rows)
