"""Questions about videos: Video-MME, MVBench, MLVU, LongVideoBench, PerceptionTest, TemporalBench, EgoSchema,
NExT-QA, SEED's videos, ActivityNet-QA.

A video is a file, or a folder of its frames; clips that a benchmark cuts out are read as it publishes them, cut.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from math import prod
from pathlib import Path

from llavakit.core.errors import DataError
from llavakit.data.layouts import (
    LETTER,
    SHORT,
    Fields,
    check_letter,
    find,
    find_all,
    letter_at,
    lettered,
    listed,
    pictures_in,
    read_object,
    read_rows,
    rows_of,
    text_in,
    texts_in,
    video_at,
)
from llavakit.eval.benchmark import Benchmark, Figures, Points, Question, Rules, Submission, accuracy
from llavakit.eval.submission import as_csv
from llavakit.eval.tasks.choices import ask, by_options, lettering
from llavakit.eval.tasks.short_answers import compared
from llavakit.rules import choices
from llavakit.rules.means import mean, of_groups
from llavakit.text.conversation import VideoSource, user

VIDEO_MME = (
    "Select the best answer to the following multiple-choice question based on the video and the subtitles. "
    "Respond with only the letter (A, B, C, or D) of the correct option.\n"
)
SOURCES = {  # MVBench's folders; where a question is about a part of a video, the folder of the cut parts
    **dict.fromkeys(("object_interaction", "action_sequence", "action_prediction"), "star/Charades_segment"),
    **dict.fromkeys(
        ("moving_count", "moving_direction", "moving_attribute", "counterfactual_inference", "object_existence"),
        "clevrer/video_validation",
    ),
    **dict.fromkeys(("character_order", "object_shuffle", "state_change", "action_count"), "perception/videos"),
    "action_localization": "sta/sta_video_segment", "fine_grained_pose": "nturgbd_convert",
    "egocentric_navigation": "vlnqa", "episodic_reasoning": "tvqa/video_fps3_hq_segment",
    "fine_grained_action": "Moments_in_Time_Raw/videos", "scene_transition": "scene_qa/video",
    "action_antonym": "ssv2_video_mp4", "unexpected_action": "FunQA_test/test",
}  # fmt: skip
MARKED = re.compile(r"^\(?[A-Z][.:)]\s*")
STAND_ALONE = re.compile(r"\b([A-E])\b")


def about(
    name: object,
    video: VideoSource,
    text: str,
    letter: str,
    options: dict[str, str],
    group: str,
    unit: str = "",
) -> Question:
    return ask(name, user(text, videos=[video]).parts, letter, options, group, unit)


def shown(question: str, options: dict[str, str]) -> str:
    return f"{question}\n{listed(options)}{LETTER}"


def bare(options: Sequence[str]) -> dict[str, str]:
    """Options by their letter, without letters that stand in front of them in the file."""
    return lettered([MARKED.sub("", option) for option in options])


def read_videomme(folder: Path) -> list[Question]:
    found = []
    for path in find_all(folder, "**/*.parquet", "*.json", "*.jsonl"):
        for row in read_rows(path):
            options = bare(texts_in(row, "options"))
            text = f"{VIDEO_MME}{row['question']}\n{listed(options)}\nThe best answer is:"
            letter = check_letter(row, row["answer"], options)
            video = video_at(folder / "data", text_in(row, "videoID"))
            found.append(about(row["question_id"], video, text, letter, options, text_in(row, "duration")))
    return found


def read_candidates(folder: Path) -> list[Question]:
    """MVBench and MLVU: a JSON list per task, in json/; the right candidate is there in words.

    MLVU's videos are in a folder per task, MVBench's in those of the data sets that they come from.
    """
    found = []
    for path in find_all(folder, "json/*.json"):
        task = path.stem
        for number, row in enumerate(read_rows(path)):
            options = lettered(texts_in(row, "candidates"))
            right = [letter for letter, text in options.items() if text == str(row["answer"])]
            if not right:
                raise row.error(f"answer {row['answer']!r} is none of the candidates")
            video = video_at(folder / "video" / SOURCES.get(task, task), text_in(row, "video"))
            found.append(
                about(f"{task}-{number}", video, shown(row["question"], options), right[0], options, task)
            )
    return found


def of_tasks(questions: Sequence[Question], points: Points) -> Figures:
    """The mean over tasks of their accuracies, which is what MVBench and MLVU call their average."""
    rows = [(q.group, point or 0.0) for q, point in zip(questions, points, strict=True)]
    by_task = accuracy(questions, points)
    return {"mean of tasks": 100 * of_groups(rows), "of all": by_task.pop("accuracy"), **by_task}


def read_longvideobench(folder: Path) -> list[Question]:
    found = []
    for row in read_rows(find(folder, "lvb_val.json")):
        options = lettered(texts_in(row, "candidates"))
        video = video_at(folder / "videos", text_in(row, "video_path"))
        letter = letter_at(row, row["correct_choice"], options)
        found.append(
            about(row["id"], video, shown(row["question"], options), letter, options,
                  str(row.get("duration_group", "")))
        )  # fmt: skip
    return found


def read_perceptiontest(folder: Path) -> list[Question]:
    """mc_question_valid.json: an object of videos, each with its questions."""
    whole = read_object(find(folder, "mc_question_valid.json", "mc_question*.json"))
    found = []
    for name, raw in whole.items():
        for row in rows_of(Fields(raw, whole.path), "mc_question"):
            options = lettered(texts_in(row, "options"))
            letter = letter_at(row, row["answer_id"], options)
            video = video_at(folder / "videos", f"{name}.mp4")
            found.append(
                about(f"{name}-{row['id']}", video, shown(row["question"], options), letter, options,
                      str(row.get("area", "")))
            )  # fmt: skip
    return found


def read_temporalbench(folder: Path) -> list[Question]:
    """Questions with two captions to choose from in their text; those about one video count together."""
    found = []
    for path in find_all(folder, "temporalbench_short_qa.json", "temporalbench_*_qa.json"):
        for row in read_rows(path):
            letter = check_letter(row, row["GT"], {"A": "", "B": ""})
            video = video_at(folder, text_in(row, "video_name"))
            found.append(
                about(f"{path.stem}-{row['idx']}", video, text_in(row, "question"), letter, {"A": "", "B": ""},
                      str(row.get("dataset", "")), text_in(row, "video_name"))
            )  # fmt: skip
    return found


def all_of_a_video(questions: Sequence[Question], points: Points) -> Figures:
    """Multiple binary accuracy: a video is right if all its questions are; and the plain accuracy."""
    videos: dict[str, list[float]] = defaultdict(list)
    for question, point in zip(questions, points, strict=True):
        videos[question.unit].append(point or 0.0)
    plain = accuracy(questions, points)
    right = [prod(each) for each in videos.values()]
    return {"multiple binary": 100 * mean(right), "binary": plain.pop("accuracy"), **plain}


def read_egoschema(folder: Path, *, answered: bool) -> list[Question]:
    """questions.json, and subset_answers.json with the answers that are public (500)."""
    rows = list(read_rows(find(folder, "questions.json")))
    right = read_object(find(folder, "subset_answers.json")) if answered else {}
    found = []
    for row in rows:
        name = text_in(row, "q_uid")
        if answered and name not in right:
            continue
        options = lettered([text_in(row, f"option {number}") for number in range(5)])
        letter = letter_at(row, right[name], options) if answered else ""
        found.append(
            about(
                name, video_at(folder / "videos", name), shown(row["question"], options), letter, options, ""
            )
        )
    return found


def option_number(question: Question, answer: str) -> str:
    """The number of the chosen option, which EgoSchema's server takes; -1 is none."""
    letter = choices.ranked(answer, question.options)
    return str(list(question.options).index(letter)) if letter else "-1"


def read_nextqa(folder: Path) -> list[Question]:
    """The table of multiple choices, and videos by number, or as map_vid_vidorID.json says."""
    path = find(folder, "test.csv", "val.csv", "**/*.parquet")
    places = folder / "map_vid_vidorID.json"
    names = read_object(places) if places.exists() else {}
    found = []
    for row in read_rows(path):
        options = lettered([text_in(row, f"a{number}") for number in range(5)])
        video = text_in(row, "video")
        letter = letter_at(row, row["answer"], options)
        text = shown(f"{str(row['question']).strip().capitalize()}?", options)
        found.append(
            about(f"{video}-{row['qid']}", video_at(folder / "videos", str(names.get(video, video))), text, letter,
                  options, str(row["type"]))
        )  # fmt: skip
    return found


def read_seed_video(folder: Path) -> list[Question]:
    """The Parquet files, whose rows about videos hold their frames."""
    found = []
    for path in find_all(folder, "**/*.parquet", "*.jsonl"):
        for row in read_rows(path):
            if row["data_type"] != "video":
                continue
            options = lettered([text_in(row, f"choice_{letter}") for letter in "abcd"])
            letter = check_letter(row, row["answer"], options)
            frames = tuple(pictures_in(row, "image", path.parent))
            found.append(
                about(row["question_id"], frames, shown(row["question"], options), letter, options,
                      str(row["question_type_id"]))
            )  # fmt: skip
    return found


def read_activitynet(folder: Path) -> list[Question]:
    """ActivityNet-QA: test_q.json and test_a.json; videos are v_NAME with any ending."""
    answers = {row["question_id"]: row for row in read_rows(find(folder, "test_a.json"))}
    found = []
    for row in read_rows(find(folder, "test_q.json")):
        if row["question_id"] not in answers:
            raise DataError(f"question {row['question_id']} has no answer", path=row.path)
        own = answers[row["question_id"]]
        video = video_at(folder / "all_test", f"v_{row['video_name']}")
        text = f"{str(row['question']).capitalize()}?{SHORT}"
        parts = user(text, videos=[video]).parts
        found.append(
            Question(str(row["question_id"]), parts, text_in(own, "answer"), group=str(own.get("type", "")))
        )
    return found


def said_word(answer: str, reference: str) -> float:
    """ActivityNet-QA's own accuracy: the answer is the reference, case and a final period aside."""
    return float(answer.strip().rstrip(".").lower() == reference.strip().lower())


def only_first(answer: str, _: choices.Options) -> str | None:
    """TemporalBench: the first character."""
    return choices.first_character(answer)


def stands_alone(answer: str, _: choices.Options) -> str | None:
    """PerceptionTest by lmms-eval, LongVideoBench: the first capital from A to E that stands alone."""
    found = STAND_ALONE.search(answer)
    return found[1] if found else None


def letters(
    read: Callable[[str, choices.Options], str | None], figures: Callable[..., Figures] = accuracy
) -> Rules:
    return Rules(by_options(read).judge, figures)


BENCHMARKS = {
    "videomme": Benchmark(
        "Video-MME, without subtitles", "*.parquet with videoID, question, options, answer; data/", read_videomme,
        {"lmms": letters(choices.ranked), "vlmevalkit": letters(choices.vlmevalkit)},
    ),
    "mvbench": Benchmark(
        "MVBench", "json/*.json, video/ with the folders of its sources", read_candidates,
        {
            "lmms": Rules(lettering(lambda answer, _: choices.interleave(answer)).judge, of_tasks),
            "vlmevalkit": letters(choices.vlmevalkit, of_tasks),
        },
    ),
    "mlvu": Benchmark(
        "MLVU dev, multiple choice", "json/*.json, video/TASK/", read_candidates,
        {"lmms": letters(choices.ranked, of_tasks)},
    ),
    "longvideobench": Benchmark(
        "LongVideoBench val", "lvb_val.json, videos/", read_longvideobench, {"lmms": letters(stands_alone)},
    ),
    "perceptiontest": Benchmark(
        "PerceptionTest val", "mc_question_valid.json, videos/", read_perceptiontest,
        {"lmms": letters(stands_alone)},
    ),
    "temporalbench": Benchmark(
        "TemporalBench, short questions", "temporalbench_short_qa.json, and the videos that it names",
        read_temporalbench, {"official": letters(only_first, all_of_a_video)},
    ),
    "egoschema": Benchmark(
        "EgoSchema, public answers", "questions.json, subset_answers.json, videos/",
        lambda folder: read_egoschema(folder, answered=True), {"lmms": letters(choices.mmmu_lmms)},
    ),
    "egoschema-full": Benchmark(
        "EgoSchema, all", "questions.json, videos/", lambda folder: read_egoschema(folder, answered=False), {},
        submission=Submission(
            "submission.csv", "kaggle.com/competitions/egoschema-public", as_csv("q_uid,answer", option_number)
        ),
    ),
    "nextqa": Benchmark(
        "NExT-QA, multiple choice", "test.csv with video, question, a0 ... a4, answer, qid, type; videos/",
        read_nextqa, {"lmms": letters(choices.mmmu_lmms)},
    ),
    "seed-video": Benchmark(
        "SEED-Bench, videos", "*.parquet with the frames of each question", read_seed_video,
        {"lmms": lettering(lambda answer, _: choices.first_character(answer))},
    ),
    "activitynet-qa": Benchmark(
        "ActivityNet-QA, exact match", "test_a.json, test_q.json, all_test/", read_activitynet,
        {"official": compared(said_word)},
    ),
}  # fmt: skip
