"""Where the things to click on come from: folders as GrabCut, Berkeley, DAVIS and SBD are released, and our own.

Which it is, is told by what a folder holds; nothing is downloaded.
"""

import importlib.util
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

from llavakit.core.errors import DataError
from llavakit.studio.clicks import Thing
from llavakit.studio.tiles import Pixels
from llavakit.tools.opencv import opencv
from llavakit.vision.image import load_image, load_rgba

PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
UNKNOWN = 128  # GrabCut's grey of pixels about which nobody says what is right
POLYGONS = "masks.json"
SEED = 0


def read_things(folder: Path) -> Iterator[Thing]:
    """Every object of a folder. DataError where the folder is none of those that are known."""
    for parts, read in LAYOUTS:
        if all((folder / part).exists() for part in parts):
            return read(folder)
    known = "; ".join(" and ".join(parts) for parts, _ in LAYOUTS)
    raise DataError(f"not a data set of objects to click on; a folder has {known}", path=folder)


def polygons(folder: Path) -> Iterator[Thing]:
    """masks.json: {"objects": {name: {"photo": file, "polygon": [[x, y]]}}}; photos here or scikit-image's."""
    path = folder / POLYGONS
    try:
        objects = json.loads(path.read_text())["objects"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"cannot be read: {error}", path=path) from None
    for name, said in objects.items():
        rgb = _rgb(_photo(folder, str(said["photo"])))
        mask = np.zeros(rgb.shape[:2], np.uint8)
        corners = np.rint(np.array(said["polygon"], np.float64) * 16).astype(np.int32)
        opencv().fillPoly(mask, [corners], 1, shift=4)
        yield Thing(name, rgb, mask.astype(bool))


def grabcut(folder: Path) -> Iterator[Thing]:
    """50 photos in data_GT, masks in boundary_GT: 255 inside, 128 unknown."""
    for photo in _files(folder / "data_GT"):
        mask = _grey(_same_stem(folder / "boundary_GT", photo.stem))
        yield Thing(photo.stem, _rgb(photo), mask == 255, mask == UNKNOWN)


def berkeley(folder: Path) -> Iterator[Thing]:
    """Photos in images, one mask for each object in masks: NAME.png or NAME#2.png."""
    for mask in _files(folder / "masks"):
        photo = _same_stem(folder / "images", mask.stem.split("#")[0])
        yield Thing(mask.stem, _rgb(photo), _grey(mask) > 127)


def davis(folder: Path) -> Iterator[Thing]:
    """Frames in img, masks in gt; all that moves is one object, as the protocol has it."""
    for photo in _files(folder / "img"):
        yield Thing(photo.stem, _rgb(photo), _numbers(_same_stem(folder / "gt", photo.stem)) > 0)


def sbd(folder: Path) -> Iterator[Thing]:
    """Photos in img, instances in inst as MATLAB files, the names of those that count in val.txt."""
    if importlib.util.find_spec("scipy") is None:
        raise DataError("SBD's masks are MATLAB files: pip install 'llavakit[eval]'", path=folder)
    from scipy.io import loadmat

    for name in (folder / "val.txt").read_text().split():
        said = loadmat(str(folder / "inst" / f"{name}.mat"))["GTinst"][0, 0]["Segmentation"]
        rgb = _rgb(folder / "img" / f"{name}.jpg")
        for number in [int(one) for one in np.unique(said) if 0 < one < 255]:
            yield Thing(f"{name}-{number}", rgb, said == number)


def composites(folder: Path) -> Iterator[Thing]:
    """Pictures with real transparency in cutouts, laid on those in backgrounds; what is half covered is unknown."""
    grounds = _files(folder / "backgrounds")
    for number, file in enumerate(_files(folder / "cutouts")):
        random = np.random.default_rng(SEED + number)
        ground = _rgb(grounds[number % len(grounds)])
        cut = load_rgba(file)
        share = random.uniform(0.3, 0.7) * min(ground.shape[1] / cut.width, ground.shape[0] / cut.height)
        cut = cut.resize((max(1, round(cut.width * share)), max(1, round(cut.height * share))))
        x = int(random.integers(0, ground.shape[1] - cut.width + 1))
        y = int(random.integers(0, ground.shape[0] - cut.height + 1))
        canvas = PIL.Image.fromarray(ground)
        canvas.paste(cut, (x, y), cut)
        alpha = np.zeros(ground.shape[:2], np.uint8)
        alpha[y : y + cut.height, x : x + cut.width] = np.asarray(cut)[..., 3]
        yield Thing(file.stem, np.asarray(canvas), alpha >= UNKNOWN, (alpha > 0) & (alpha < 255))


Reader = Callable[[Path], Iterator[Thing]]
LAYOUTS: tuple[tuple[tuple[str, ...], Reader], ...] = (
    ((POLYGONS,), polygons),
    (("data_GT", "boundary_GT"), grabcut),
    (("images", "masks"), berkeley),
    (("img", "gt"), davis),
    (("img", "inst", "val.txt"), sbd),
    (("cutouts", "backgrounds"), composites),
)


def _files(folder: Path) -> list[Path]:
    found = sorted(file for file in folder.iterdir() if file.suffix.lower() in PICTURES)
    if not found:
        raise DataError("has no picture", path=folder)
    return found


def _same_stem(folder: Path, stem: str) -> Path:
    for suffix in PICTURES:
        if (folder / (stem + suffix)).is_file():
            return folder / (stem + suffix)
    raise DataError(f"has no picture {stem}", path=folder)


def _photo(folder: Path, name: str) -> Path:
    if (folder / name).is_file():
        return folder / name
    spec = importlib.util.find_spec("skimage")
    for place in (spec.submodule_search_locations or ()) if spec else ():
        if (Path(place) / "data" / name).is_file():
            return Path(place) / "data" / name
    raise DataError(
        f"has no photo {name}; those of scikit-image come with it: pip install scikit-image", path=folder
    )


def _rgb(path: Path) -> Pixels:
    return np.asarray(load_image(path))


def _grey(path: Path) -> Pixels:
    return np.asarray(load_image(path).convert("L"))


def _numbers(path: Path) -> Any:
    """A mask's numbers as they are stored: those of DAVIS are places in a palette."""
    with PIL.Image.open(path) as image:
        return np.asarray(image) if image.mode in ("L", "P") else np.asarray(image.convert("L"))
