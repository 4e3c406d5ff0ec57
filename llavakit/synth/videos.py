"""LLaVA-Video's data (arXiv 2410.02713): captions at three levels, then questions of sixteen kinds about them."""

from collections.abc import Sequence

from llavakit.core.errors import DataError
from llavakit.synth.desk import Desk
from llavakit.synth.draft import Draft, Dropped, Turn
from llavakit.synth.instruct import known_of
from llavakit.synth.instructions import LETTER
from llavakit.synth.prompts import describe
from llavakit.synth.replies import ChoiceQuestion, VideoQuestions
from llavakit.text.conversation import Image, Video
from llavakit.vision.video import load_frames, probe_video

PART, STRETCH = 10, 30  # seconds of the first and the second level; the third is the whole
KEPT = 6  # descriptions of earlier parts that a writer is told
TYPES = {
    "temporal": "when something happens, or what happens before and after it",
    "spatial": "where things are, and how that changes",
    "causal": "why something happens",
    "scene": "what the place looks like",
    "people": "what people look like and do",
    "objects": "what things look like and are used for",
    "count": "how many of something there are, or how often it happens",
    "binary": "a question that yes or no answers",
    "fine action": "what exactly is done, in its details",
    "plot": "what the story is about",
    "absent action": "something that does not happen in a scene that is there",
    "order": "in which order things happen",
    "object direction": "where something moves to",
    "camera": "how the camera moves",
    "speed": "how fast something moves or changes",
    "change": "how something looks different later on",
}
TOLD = 6  # kinds that a writer is told of for one video, drawn


def video_captions(desk: Desk) -> Draft:
    """Every ten seconds with what was written before, every thirty from these, the whole from those."""
    video = _video(desk)
    try:
        info = probe_video(video.source)
        seconds = max(1, round(info.seconds))
        wanted = [_nearest(info.times, second) for second in range(seconds)]
        frames = load_frames(video.source, info, wanted)
    except DataError as error:
        raise Dropped("broken", str(error)) from None
    parts: list[str] = []
    for start in range(0, seconds, PART):
        end = min(start + PART, seconds)
        task = desk.prompt.say("task", start=start, end=end)
        if parts:
            task += "\n\n" + desk.prompt.say("before", before="\n".join(parts[-KEPT:]))
        shown = [Image(frame) for frame in frames[start:end]]
        parts.append(desk.say(desk.prompted(shown, (), "", task), f"part {start}"))
    stretches = _summaries(desk, parts, seconds)
    whole = stretches[0]
    if len(stretches) > 1:
        task = desk.prompt.say("whole", parts="\n\n".join(stretches))
        whole = desk.say(desk.prompted((), (), "", task), "whole")
    levels = {"10": parts, "30": stretches}
    return Draft((Turn(desk.prompt.say("question"), whole),), extra={"levels": levels})


def _summaries(desk: Desk, parts: Sequence[str], seconds: int) -> list[str]:
    """Of every thirty seconds; what has one part only is its own summary."""
    found, each = [], STRETCH // PART
    for at in range(0, len(parts), each):
        chosen = parts[at : at + each]
        if len(chosen) == 1:
            found.append(chosen[0])
            continue
        start, end = at * PART, min((at + each) * PART, seconds)
        task = desk.prompt.say("summary", start=start, end=end, parts="\n\n".join(chosen))
        found.append(desk.say(desk.prompted((), (), "", task), f"summary {start}"))
    return found


def video_questions(desk: Desk) -> Draft:
    """Open questions and one with four options, from what is known about a video."""
    _video(desk)
    kinds = desk.dice.sample(sorted(TYPES), TOLD)
    task = desk.prompt.say(
        "task", turns=desk.config.turns, types="\n".join(f"- {name}: {TYPES[name]}" for name in kinds)
    )
    facts = desk.prompt.say("ask", facts=describe(known_of(desk), boxes=False))
    shots = [
        (desk.prompt.say("ask", facts=describe(s.known, boxes=False)), s.reply) for s in desk.prompt.shots
    ]
    talk = desk.prompted((), shots, facts, f"{task}\n\n{desk.prompt.say('shape')}")
    said = desk.write(talk, VideoQuestions)
    turns = [Turn(each.question, each.answer) for each in said.open]
    return Draft(
        (*turns, _choice(desk, said.choice)), extra={"question_kinds": [each.kind for each in said.open]}
    )


def _choice(desk: Desk, said: ChoiceQuestion) -> Turn:
    """The options in an order that is drawn: writers like to put the right one first."""
    if len({option.casefold() for option in said.options}) < len(said.options):
        raise Dropped("options", f"two options are alike: {', '.join(said.options)}")
    right = said.options["ABCD".index(said.right)]
    order = desk.dice.sample(said.options, len(said.options))
    listed = "\n".join(f"{letter}. {option}" for letter, option in zip("ABCD", order, strict=True))
    return Turn(f"{said.question}\n{listed}\n{LETTER}", "ABCD"[order.index(right)])


def _video(desk: Desk) -> Video:
    if not desk.item.videos:
        raise Dropped("no facts", "it is no video")
    return desk.item.videos[0]


def _nearest(times: Sequence[float], second: float) -> int:
    return min(range(len(times)), key=lambda index: abs(times[index] - second))
