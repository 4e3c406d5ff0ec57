"""The other benchmarks in small: reasoning, hallucination, medicine, several pictures, videos, and test sets."""

import base64
import csv
from collections.abc import Callable
from pathlib import Path

from tests.eval.layouts import ROWS, parquet, picture, stored, write

OPTIONS = ["cat", "dog", "cow", "pig", "hen"]


def frames(folder: Path, seed: int = 0) -> Path:
    """A video as a folder of two frames."""
    for number in range(2):
        picture(folder / f"{number}.png", seed + number)
    return folder


def table(path: Path, rows: list[dict], delimiter: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)


def mmstar(folder: Path) -> None:
    parquet(
        folder / "val.parquet",
        [
            {"index": n, "question": "Which?\nOptions: A: cat, B: dog, C: cow, D: pig", "answer": "ABC"[n],
             "category": "math", "l2_category": f"kind {n % 2}", "image": stored(folder, n)}
            for n in range(ROWS)
        ],
    )  # fmt: skip


def realworldqa(folder: Path) -> None:
    asked = "Which?\nA. left\nB. right\nPlease answer directly with only the letter of the correct option."
    rows = [{"question": asked, "answer": "AB"[n], "image": stored(folder, n)} for n in range(2)]
    rows.append({"question": "How many?", "answer": "2", "image": stored(folder, 2)})
    parquet(folder / "test-00000-of-00001.parquet", rows)


def mmmu_pro(folder: Path) -> None:
    base = {"options": "['cat', 'dog', 'cow']", "subject": "Art"}
    parquet(
        folder / "standard" / "test-0.parquet",
        [
            base | {"id": f"t_{n}", "question": "See <image 1>. Which?", "answer": "AB"[n],
                    "image_1": stored(folder, n)}
            for n in range(2)
        ],
    )  # fmt: skip
    parquet(
        folder / "vision" / "test-0.parquet",
        [base | {"id": f"t_{n}", "answer": "C", "image": stored(folder, n)} for n in range(2)],
    )


def mathvista(folder: Path) -> None:
    base = {"unit": None, "image": "images/0.jpg", "choices": [], "precision": None, "query": "Look.\nWhat?"}
    kinds = [
        {"question_type": "multi_choice", "answer_type": "text", "answer": "cow", "choices": OPTIONS},
        {"question_type": "free_form", "answer_type": "integer", "answer": "12"},
        {"question_type": "free_form", "answer_type": "float", "answer": "1.5", "precision": 1.0},
    ]
    write(folder / "testmini.json", [base | kind | {"pid": str(n)} for n, kind in enumerate(kinds)])
    picture(folder / "images" / "0.jpg")


def mathverse(folder: Path) -> None:
    base = {"question": "How?\nChoices:\nA:1\nB:2\nC:3\nD:4", "query_wo": "How?", "image": "images/0.png"}
    kinds = [("multi-choice", "B"), ("free-form", "12"), ("free-form", "x^2")]
    write(
        folder / "testmini.json",
        [
            base
            | {
                "sample_index": str(n),
                "problem_version": "Text Lite",
                "question_type": kind,
                "answer": answer,
            }
            for n, (kind, answer) in enumerate(kinds)
        ],
    )
    picture(folder / "images" / "0.png")


def ocrbench(folder: Path) -> None:
    rows = [
        {"dataset_name": "IIIT5K" if n else "HME100k", "image_path": f"a/{n}.png", "question": "what is written?",
         "answers": ["x ^ 2"] if n == 0 else "STOP", "type": "Regular Text Recognition", "id": n}
        for n in range(ROWS)
    ]  # fmt: skip
    write(folder / "OCRBench.json", rows)
    for n in range(ROWS):
        picture(folder / "OCRBench_Images" / "a" / f"{n}.png", n)


def hallusionbench(folder: Path) -> None:
    rows = [
        {"category": "VD", "subcategory": "chart", "set_id": "0", "figure_id": str(n // 2),
         "question_id": str(n % 2), "question": "Is it?", "gt_answer": str(n % 2), "filename": f"./VD/{n // 2}.png"}
        for n in range(4)
    ]  # fmt: skip
    write(folder / "HallusionBench.json", rows)
    for n in range(2):
        picture(folder / "hallusion_bench" / "VD" / f"{n}.png", n)


def amber(folder: Path) -> None:
    kinds = (
        "discriminative-hallucination",
        "discriminative-relation",
        "discriminative-attribute-state",
        "relation",
    )
    write(
        folder / "query_discriminative.json",
        [{"id": n + 1, "image": f"AMBER_{n}.jpg", "query": "Is there a cat?"} for n in range(4)],
    )
    write(
        folder / "annotations.json",
        [{"id": n + 1, "type": kind, "truth": ("no", "yes")[n % 2]} for n, kind in enumerate(kinds)],
    )
    for n in range(4):
        picture(folder / "image" / f"AMBER_{n}.jpg", n)


def amber_descriptions(folder: Path) -> None:
    write(
        folder / "query_generative.json",
        [{"id": n + 1, "image": f"AMBER_{n}.jpg", "query": "Describe this image."} for n in range(2)],
    )
    notes = {"type": "generative", "truth": ["sky", "person"], "hallu": ["kite"]}
    write(folder / "annotations.json", [notes | {"id": n + 1} for n in range(2)])
    write(
        folder / "relation.json", {"person": ["man", "woman"], "sky": ["cloud"], "kite": ["bird"], "dog": []}
    )
    (folder / "safe_words.txt").write_text("dog\n")
    for n in range(2):
        picture(folder / "image" / f"AMBER_{n}.jpg", n)


def chair(folder: Path) -> None:
    (folder / "synonyms.txt").write_text("person, man, woman\ndog, puppy\ntraffic light, stop light\ncar\n")
    write(
        folder / "instances_val2014.json",
        {
            "categories": [{"id": 1, "name": "person"}, {"id": 2, "name": "dog"}],
            "annotations": [{"image_id": n, "category_id": 1 + n % 2} for n in range(ROWS)],
        },
    )
    write(
        folder / "captions_val2014.json",
        {
            "images": [{"id": n, "file_name": f"{n}.jpg"} for n in range(ROWS)],
            "annotations": [{"image_id": n, "caption": "A car at a traffic light."} for n in range(ROWS)],
        },
    )
    for n in range(ROWS):
        picture(folder / "val2014" / f"{n}.jpg", n)


def interleave(folder: Path) -> None:
    rows = [
        {"sample_id": n, "question": "<image> and <image>: which? A. cat B. dog", "answer": "AB"[n],
         "question_type": "multi-choice", "sub_task": ("QBench", "RAVEN")[n],
         "image_0": stored(folder, n), "image_1": stored(folder, n + 1), "image_2": None}
        for n in range(2)
    ]  # fmt: skip
    rows += [
        rows[0] | {"sample_id": 5 + n, "question_type": "open-ended", "answer": "the cup has moved left",
                   "sub_task": name}
        for n, name in enumerate(("IEdit", "HQ-Edit", "HQ-Edit"))
    ]  # fmt: skip
    parquet(folder / "in_domain.parquet", rows)


def muirbench(folder: Path) -> None:
    rows = [
        {"idx": str(n), "question": "Which of <image>?", "options": ["<image>", "None"], "answer": "AB"[n % 2],
         "task": "Counting", "image_list": [stored(folder, n), stored(folder, n + 1)]}
        for n in range(ROWS)
    ]  # fmt: skip
    parquet(folder / "test.parquet", rows)


def mantis(folder: Path) -> None:
    base = {"images": [stored(folder, 0), stored(folder, 1)], "question": "<image><image> Which?"}
    rows = [
        base
        | {
            "id": f"m{n}",
            "question_type": "multi-choice",
            "options": ["(A) cat", "(B) dog"],
            "answer": "AB"[n],
        }
        for n in range(2)
    ]
    rows.append(base | {"id": "m2", "question_type": "short-answer", "options": [], "answer": "red"})
    parquet(folder / "test.parquet", rows)


def medical(folder: Path, path: str, key: str, pictures: str, more: dict) -> None:
    kinds = [("CLOSED", "Yes"), ("OPEN", "left lung"), ("CLOSED", "MRI")]
    write(
        folder / path,
        [
            {"qid": n, key: f"{n}.jpg", "question": "Is it?", "answer": answer, "answer_type": kind} | more
            for n, (kind, answer) in enumerate(kinds)
        ],
    )
    for n in range(ROWS):
        picture(folder / pictures / f"{n}.jpg", n)


def vqa_rad(folder: Path) -> None:
    medical(folder, "VQA_RAD Dataset Public.json", "image_name", "VQA_RAD Image Folder", {})


def slake(folder: Path) -> None:
    medical(folder, "test.json", "img_name", "imgs", {"q_lang": "en"})


def pathvqa(folder: Path) -> None:
    rows = [
        {"question": "is it?", "answer": answer, "image": stored(folder, n)}
        for n, answer in enumerate(("yes", "no", "liver cells"))
    ]
    parquet(folder / "test-00000-of-00001.parquet", rows)


def videomme(folder: Path) -> None:
    rows = [
        {"videoID": f"v{n}", "question_id": f"00{n}", "duration": "short", "question": "Which?",
         "options": [f"{'ABCD'[k]}. {OPTIONS[k]}" for k in range(4)], "answer": "ABC"[n]}
        for n in range(ROWS)
    ]  # fmt: skip
    parquet(folder / "test.parquet", rows)
    for n in range(ROWS):
        frames(folder / "data" / f"v{n}", n)


def candidates(folder: Path, tasks: dict[str, str]) -> None:
    for task, place in tasks.items():
        rows = [
            {"video": f"{n}.mp4", "question": "Which?", "candidates": OPTIONS[:3], "answer": OPTIONS[n]}
            for n in range(2)
        ]
        write(folder / "json" / f"{task}.json", rows)
        for n in range(2):
            frames(folder / "video" / place / str(n), n)


def mvbench(folder: Path) -> None:
    candidates(folder, {"scene_transition": "scene_qa/video", "moving_count": "clevrer/video_validation"})


def mlvu(folder: Path) -> None:
    candidates(folder, {"1_plotQA": "1_plotQA", "2_needle": "2_needle"})


def longvideobench(folder: Path) -> None:
    rows = [
        {"id": f"l{n}", "video_path": f"{n}.mp4", "question": "Which?", "candidates": OPTIONS, "correct_choice": n,
         "duration_group": 60}
        for n in range(ROWS)
    ]  # fmt: skip
    write(folder / "lvb_val.json", rows)
    for n in range(ROWS):
        frames(folder / "videos" / str(n), n)


def perceptiontest(folder: Path) -> None:
    asked = [
        {"id": n, "question": "Which?", "options": OPTIONS[:3], "answer_id": n, "area": "memory"}
        for n in (0, 1)
    ]
    write(folder / "mc_question_valid.json", {f"video_{n}": {"mc_question": asked} for n in range(2)})
    for n in range(2):
        frames(folder / "videos" / f"video_{n}", n)


def temporalbench(folder: Path) -> None:
    rows = [
        {"idx": n, "question": "Which is it?\nA. up\nB. down\nAnswer with the letter.", "GT": "AB"[n % 2],
         "video_name": f"short/{n // 2}.mp4", "dataset": "Charades"}
        for n in range(4)
    ]  # fmt: skip
    write(folder / "temporalbench_short_qa.json", rows)
    for n in range(2):
        frames(folder / "short" / str(n), n)


def egoschema_full(folder: Path) -> None:
    options = {f"option {n}": text for n, text in enumerate(OPTIONS)}
    write(
        folder / "questions.json",
        [{"q_uid": f"u{n}", "question": "Which?"} | options for n in range(ROWS + 1)],
    )
    for n in range(ROWS + 1):
        frames(folder / "videos" / f"u{n}", n)


def egoschema(folder: Path) -> None:
    egoschema_full(folder)
    write(folder / "subset_answers.json", {f"u{n}": n for n in range(ROWS)})


def nextqa(folder: Path) -> None:
    options = {f"a{n}": text for n, text in enumerate(OPTIONS)}
    rows = [
        {"video": str(7 + n), "question": "why did it run", "answer": n, "qid": n, "type": "CW"} | options
        for n in range(ROWS)
    ]
    table(folder / "test.csv", rows, ",")
    write(folder / "map_vid_vidorID.json", {"7": "1164/7"})
    for place in ("1164/7", "8", "9"):
        frames(folder / "videos" / place)


def seed_video(folder: Path) -> None:
    rows = [
        {"question_id": f"s{n}", "question": "Which?", "data_type": "video", "question_type_id": 10,
         "answer": "ABC"[n], "image": [stored(folder, n), stored(folder, n + 1)],
         **{f"choice_{each}": f"a {each}" for each in "abcd"}}
        for n in range(ROWS)
    ]  # fmt: skip
    parquet(folder / "test.parquet", [*rows, rows[0] | {"data_type": "image", "question_id": "i"}])


def activitynet_qa(folder: Path) -> None:
    asked = [{"question_id": f"a_{n}", "video_name": f"n{n}", "question": "what is it"} for n in range(ROWS)]
    write(folder / "test_q.json", asked)
    write(
        folder / "test_a.json", [{"question_id": f"a_{n}", "answer": "red", "type": 4} for n in range(ROWS)]
    )
    for n in range(ROWS):
        frames(folder / "all_test" / f"v_n{n}", n)


def vqav2_test(folder: Path) -> None:
    asked = [{"question_id": n, "image_id": n, "question": "What?"} for n in range(2)]
    write(folder / "v2_OpenEnded_mscoco_test-dev2015_questions.json", {"questions": asked})
    for n in range(2):
        picture(folder / "test2015" / f"COCO_test2015_{n:012d}.jpg", n)


def vizwiz_test(folder: Path) -> None:
    write(folder / "test.json", [{"image": f"{n}.jpg", "question": "What?"} for n in range(2)])
    for n in range(2):
        picture(folder / "test" / f"{n}.jpg", n)


def docvqa_test(folder: Path) -> None:
    rows = [{"questionId": n, "question": "Which?", "image": f"documents/{n}.png"} for n in range(2)]
    write(folder / "test_v1.0.json", {"data": rows})
    for n in range(2):
        picture(folder / "documents" / f"{n}.png", n)


def infovqa_test(folder: Path) -> None:
    rows = [{"questionId": n, "question": "Which?", "image_local_name": f"{n}.jpeg"} for n in range(2)]
    write(folder / "infographicsVQA_test_v1.0.json", {"data": rows})
    for n in range(2):
        picture(folder / "infographicsvqa_images" / f"{n}.jpeg", n)


def mmbench_test(folder: Path) -> None:
    image = base64.b64encode(picture(folder / "cell.png").read_bytes()).decode()
    rows = [
        {
            "index": n,
            "question": "Which?",
            "hint": "",
            "A": "cat",
            "B": "dog",
            "C": "",
            "D": "",
            "image": image,
        }
        for n in range(2)
    ]
    table(folder / "mmbench_test.tsv", rows, "\t")


def mmmu_test(folder: Path) -> None:
    row = {
        "question": "See <image 1>. Which?",
        "options": "['cat', 'dog']",
        "question_type": "multiple-choice",
    }
    rows = [row | {"id": f"test_Art_{n}", "image_1": stored(folder, n)} for n in range(2)]
    rows[1] |= {"question_type": "open", "options": "[]"}
    parquet(folder / "Art" / "test-00000-of-00001.parquet", rows)


MORE: dict[str, Callable[[Path], None]] = {
    "mmstar": mmstar, "realworldqa": realworldqa, "mmmu-pro": mmmu_pro, "mathvista": mathvista,
    "mathverse": mathverse, "ocrbench": ocrbench, "hallusionbench": hallusionbench, "amber": amber, "chair": chair,
    "amber-descriptions": amber_descriptions,
    "interleave": interleave, "muirbench": muirbench, "mantis": mantis, "vqa-rad": vqa_rad, "slake": slake,
    "pathvqa": pathvqa, "videomme": videomme, "mvbench": mvbench, "mlvu": mlvu, "longvideobench": longvideobench,
    "perceptiontest": perceptiontest, "temporalbench": temporalbench, "egoschema": egoschema,
    "egoschema-full": egoschema_full, "nextqa": nextqa, "seed-video": seed_video,
    "activitynet-qa": activitynet_qa, "vqav2-test": vqav2_test, "vizwiz-test": vizwiz_test,
    "docvqa-test": docvqa_test, "infovqa-test": infovqa_test, "mmbench-test": mmbench_test, "mmmu-test": mmmu_test,
}  # fmt: skip
