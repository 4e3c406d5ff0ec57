"""How fast the editor is below its page, and how many clicks its own segmenter needs.

    python -m benchmarks.studio [--sides 1024 4096] [--out FILE.json]

Photos are scikit-image's, enlarged. Each figure is the median of several runs, and the p95 where an aim is one.
"""

import argparse
import io
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import PIL.Image
import skimage

from llavakit.studio.click_data import read_things
from llavakit.studio.clicks import figures, measure_clicks
from llavakit.studio.defaults import default_bench
from llavakit.studio.engines import Bench
from llavakit.studio.http.preparing import all_steps
from llavakit.studio.looking import SceneView
from llavakit.studio.picture import read_picture
from llavakit.studio.segment.naming import notice
from llavakit.studio.session import Session, first_scene

PHOTO = Path(skimage.__file__).parent / "data" / "coffee.png"
MASKS = Path(__file__).parents[1] / "tests" / "golden"
HOLE = 0.05  # of the picture
ROUNDS = 9


def photo(side: int) -> bytes:
    """A JPEG whose longer side has so many pixels."""
    with PIL.Image.open(PHOTO) as image:
        scale = side / max(image.size)
        large = image.convert("RGB").resize((round(image.width * scale), round(image.height * scale)))
    file = io.BytesIO()
    large.save(file, "jpeg", quality=92)
    return file.getvalue()


def seconds(work) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def measure(side: int, folder: Path) -> dict[str, float]:
    """Seconds of what a person does to a picture of this size."""
    bench = default_bench()
    look_at(view_of(np.zeros((64, 64, 3), np.uint8)), bench)  # networks are read once for the process
    data = photo(side)
    said = {"open": 0.0}
    session = None

    def start():
        nonlocal session
        session = Session.create(folder / str(side), data, bench)

    said["open"] = seconds(start)
    width, height = session.scene.size
    said |= look_at(SceneView(session.scene), bench)
    said["pieces after upload"] = said["open"] + said["pieces"]
    clicks = []
    for number in range(ROUNDS):
        x, y = width * (0.3 + 0.05 * number), height * (0.3 + 0.04 * (number % 5))
        clicks.append(seconds(lambda x=x, y=y: session.apply({"do": "select", "points": [[x, y, True]]})))
        wrong = [[x + width * 0.05, y + height * 0.05, number % 2 == 0]]
        clicks.append(
            seconds(lambda wrong=wrong: session.apply({"do": "select", "points": wrong, "how": "refine"}))
        )
    said["click_median"], said["click_p95"] = statistics.median(clicks), float(np.percentile(clicks, 95))
    reach = (HOLE * width * height / 1.1) ** 0.5 / 2
    box = [width * 0.8 - reach, height * 0.8 - reach, width * 0.8 + reach, height * 0.8 + reach]
    previews, finals, undos = [], [], []
    for _ in range(3):
        session.apply({"do": "select", "box": box, "how": "new"})
        session.apply({"do": "deselect"})
        session.apply({"do": "paint", "path": [[box[0], (box[1] + box[3]) / 2], [box[2], (box[1] + box[3]) / 2]],
                       "width": min(4096, box[3] - box[1])})  # fmt: skip
        previews.append(seconds(lambda: session.apply({"do": "remove", "fill": "preview", "grow": 0})))
        finals.append(seconds(lambda: session.apply({"do": "refine"})))
        undos.append(seconds(lambda: session.apply({"do": "undo"})))
        undos.append(seconds(lambda: session.apply({"do": "undo"})))
    said["removal_preview"], said["removal_final"] = statistics.median(previews), statistics.median(finals)
    said["undo"] = max(undos)
    said["tile"] = seconds(lambda: session.tile(session.rev, 0, 1, 1))
    said["overview"] = seconds(lambda: session.tile(session.rev, max(0, side.bit_length() - 9), 0, 0))
    session.close()
    said["reopen"] = seconds(lambda: Session.open(folder / str(side), bench).close())
    return {name: round(value, 4) for name, value in said.items()}


def look_at(view: SceneView, bench: Bench) -> dict[str, float]:
    """Seconds of every step of what is found out about a picture that came, in the order of the page."""
    return {step.title: seconds(step.run) for step in all_steps(bench, view, lambda: notice(view))}


def view_of(rgb: np.ndarray) -> SceneView:
    file = io.BytesIO()
    PIL.Image.fromarray(rgb).save(file, "png")
    return SceneView(first_scene(read_picture(file.getvalue())))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sides", type=int, nargs="*", default=[1024, 4096, 8000])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--no-clicks", action="store_true")
    asked = parser.parse_args()
    said: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as folder:
        for side in asked.sides:
            said[str(side)] = found = measure(side, Path(folder))
            print(
                f"{side} px  " + "  ".join(f"{name} {value:.3f} s" for name, value in found.items()),
                flush=True,
            )
    if not asked.no_clicks:
        rounds = list(measure_clicks(default_bench().segmenter(), read_things(MASKS)))
        said["clicks"] = figures(rounds)
        for each in rounds:
            print(f"{each.name:<20}" + " ".join(f"{iou:.2f}" for iou in each.iou[:10]))
        print("  ".join(f"{name} {value:.3g}" for name, value in said["clicks"].items()))
    if asked.out:
        asked.out.write_text(json.dumps(said, indent=1) + "\n")


if __name__ == "__main__":
    main()
