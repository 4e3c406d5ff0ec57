"""Pictures described and things in them found: COCO captions (CIDEr-D) and RefCOCO (boxes)."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

from llavakit.data.layouts import find, find_all, picture_in, read_object, read_rows, rows_of
from llavakit.eval.benchmark import Benchmark, Figures, Points, Question, Rules, accuracy, each
from llavakit.rules import boxes, captions, stanford
from llavakit.rules.means import mean
from llavakit.rules.treebank import tokenize
from llavakit.text.conversation import user
from llavakit.vision.image import image_size

CAPTION = "Provide a one-sentence caption for the provided image."
REGION = "Please provide the bounding box coordinate of the region this sentence describes: "


def read_captions(folder: Path) -> list[Question]:
    """COCO's annotations: pictures and the captions of each."""
    whole = read_object(find(folder, "captions_*.json", "annotations/captions_*.json"))
    said = defaultdict(list)
    for row in rows_of(whole, "annotations"):
        said[row["image_id"]].append(str(row["caption"]))
    place = folder / whole.path.stem.removeprefix("captions_")
    found = []
    for row in rows_of(whole, "images"):
        if row["id"] not in said:
            raise row.error(f"picture {row['id']} has no caption")
        parts = user(CAPTION, [place / row["file_name"]]).parts
        found.append(Question(str(row["id"]), parts, said[row["id"]]))
    return found


Tokens = Callable[[Sequence[str]], list[str]]  # of captions


def cider_points(tokenize: Tokens) -> Callable[[Sequence[Question], Sequence[str]], Points]:
    """CIDEr-D of each caption, of tokens joined by blanks as `tokenize` gives them."""

    def points(questions: Sequence[Question], answers: Sequence[str]) -> Points:
        tokens = iter(tokenize([*answers, *(caption for q in questions for caption in q.reference)]))
        said = [next(tokens) for _ in answers]
        return captions.cider(said, [[next(tokens) for _ in q.reference] for q in questions])

    return points


def cider_figures(questions: Sequence[Question], points: Points) -> Figures:
    return {"CIDEr-D": 100 * mean([point or 0.0 for point in points])}


def read_refcoco(folder: Path) -> list[Question]:
    """Parquet with `image`, `bbox` (left, top, width, height in pixels) and `answer`, the sentences."""
    found = []
    for path in find_all(folder, "**/*.parquet", "*.json", "*.jsonl"):
        for number, row in enumerate(read_rows(path)):
            picture = picture_in(row, "image", path.parent)
            width, height = image_size(picture)
            try:
                left, top, wide, high = map(float, row["bbox"])
            except (TypeError, ValueError):
                raise row.error("'bbox' is not left, top, width, height") from None
            box = (left / width, top / height, (left + wide) / width, (top + high) / height)
            sentences = row["answer"] if isinstance(row["answer"], list) else [row["answer"]]
            for which, sentence in enumerate(sentences):
                parts = user(REGION + str(sentence), [picture]).parts
                found.append(Question(f"{path.stem}-{number}-{which}", parts, box))
    return found


def box_point(answer: str, question: Question) -> float | None:
    """Whether half of both boxes is common; None where there is no box."""
    if boxes.read_box(answer) is None:
        return None
    return boxes.box_figures(answer, question.reference)["acc05"]


BENCHMARKS = {
    "coco-captions": Benchmark(
        "COCO captions", "captions_*.json, pictures in the folder of its name (val2014/)", read_captions,
        {
            "official": Rules(cider_points(lambda each: list(map(tokenize, each))), cider_figures),
            "stanford": Rules(cider_points(stanford.tokenize_all), cider_figures),  # needs Java
            "vlmevalkit": Rules(cider_points(list), cider_figures),  # words as they stand
        },
        max_tokens=64,
    ),
    "refcoco": Benchmark(
        "RefCOCO", "*.parquet with image, bbox and answer", read_refcoco,
        {"lmms": Rules(each(box_point), accuracy)}, max_tokens=48,
    ),
}  # fmt: skip
