"""`llavakit plan`: how a model would see a picture or a video, before anything is loaded."""

import json
import re
from bisect import bisect_right
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llavakit.core.errors import CheckpointError, ConfigError, DataError, pick, shorten
from llavakit.core.progress import console, say
from llavakit.model.card import Card
from llavakit.model.families import FAMILIES, family
from llavakit.model.families.row import plan_by
from llavakit.vision import video
from llavakit.vision.anyres import Rule
from llavakit.vision.drawing import draw_view, image_box
from llavakit.vision.frames import VideoInfo, choose_frames, rope_factor
from llavakit.vision.image import image_size
from llavakit.vision.layout import Grid, Plan, Size

SIZE = re.compile(r"(\d{1,6})\s*[xX×]\s*(\d{1,6})")
VIDEO_SUFFIXES = (  # of files that are no picture and no video: which of the two they were meant to be
    ".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".ts", ".m2ts", ".mts", ".mpg", ".mpeg", ".vob", ".flv",
    ".wmv", ".asf", ".ogv", ".ogg", ".3gp",
)  # fmt: skip
ASCII = str.maketrans("┌┬┐├┼┤└┴┘─│░", "+++++++++-|#")  # for terminals without line drawing
RULES: dict[str, Rule | None] = {"llava": "llava", "transformers": "transformers"}


@dataclass(frozen=True)
class Subject:
    """The model that looks: a released one or a checkpoint. `rope_scaling`: its release stretched the context."""

    name: str
    origin: str  # the publication, or what kind of checkpoint it is
    card: Card
    context: int
    rope_theta: float | None = None
    rope_scaling: bool = False

    def plan(
        self, size: Size, *, frames: int | None = None, alone: bool = True, rule: Rule | None = None
    ) -> Plan:
        """As `Family.plan`."""
        return plan_by(self.card, self.name, size, frames=frames, alone=alone, rule=rule)


@dataclass(frozen=True)
class Preview:
    """A plan and what it was made from. `frames` is None for images, of which there may be several."""

    model: Subject
    size: Size
    plan: Plan
    images: int = 1
    frames: int | None = None

    @property
    def num_tokens(self) -> int:
        return self.images * self.plan.num_tokens

    @property
    def fits(self) -> bool:
        return self.num_tokens <= self.model.context

    @property
    def stretch(self) -> int:
        """The linear RoPE scaling with which the tokens fit; 1 where they fit as they are."""
        return rope_factor(self.num_tokens, self.model.context)

    def most_frames(self) -> int:
        """How many frames of this size fit the context."""
        frames = range(1, (self.frames or 1) + 1)
        return bisect_right(
            frames, self.model.context, key=lambda count: self.model.plan(self.size, frames=count).num_tokens
        )

    def describe(self) -> dict[str, Any]:
        """Plain values. Sizes are [width, height] in pixels and [columns, rows]; `grid` is the map that is kept."""
        canvas, box = image_box(self.plan.views[-1], self.size)
        return {
            "name": self.model.name,
            "size": list(self.size),
            "images": self.images,
            "frames": self.frames,
            "tokens": self.num_tokens,
            "tiles": self.images * self.plan.tiles,
            "grid": list(self.plan.grid),
            "tokens_each": self.plan.num_tokens if self.frames is None else self.plan.grids[0].num_tokens,
            "newlines": self.images * sum(_newlines(grid) for grid in self.plan.grids),
            "tile": list(self.plan.tile),
            "base": len(self.plan.views) > 1,
            "canvas": list(canvas),
            "layout": [canvas[0] // self.plan.tile[0], canvas[1] // self.plan.tile[1]],
            "image_box": list(box),
            "context": self.model.context,
            "fits": self.fits,
            "rope_factor": None if self.fits else self.stretch,
        }


def preview(
    name: str, picture: str, *, frames: int | None = None, images: int = 1, rule: str | None = None
) -> Preview:
    """The plan of `picture` (WIDTHxHEIGHT, an image, a video, a folder of frames) under a model.

    `name` is that of a released model, a checkpoint's directory or a hub id.
    """
    model = find_model(name)
    reading = None if rule is None else pick(RULES, rule, "--rule")
    if images < 1:
        raise ConfigError(f"--images {images}: at least 1")
    if images > 1 and frames is not None:
        raise ConfigError("--images and --frames exclude each other")
    size, found = _measure(picture, model)
    frames = found if frames is None else frames
    if found is not None and images > 1:
        raise ConfigError(f"--images {images}: {picture} is a video")
    plan = model.plan(size, frames=frames, alone=images == 1, rule=reading)
    return Preview(model, size, plan, images, frames)


def find_model(name: str) -> Subject:
    """A released model by its name, a checkpoint by its directory or hub id: then its settings are read."""
    if name not in FAMILIES:
        from llavakit.model.formats.hub import is_hub_id

        if Path(name).exists() or is_hub_id(name):
            return _checkpoint(Path(name))
    _refuse_url(name)
    row = family(name)
    return Subject(
        row.name,
        row.system,
        row.card,
        row.context,
        float(row.decoder.rope_theta),
        rope_scaling=row.rope_scaling,
    )


def _checkpoint(path: Path) -> Subject:
    # Imported here: reading checkpoints brings in transformers, which a released name need not wait for.
    from llavakit.core.files import read_json
    from llavakit.model.directory import load_card, resolve
    from llavakit.model.formats.original import is_original
    from llavakit.model.hf_card import part_settings

    card = load_card(
        path, Card().template
    )  # no plan depends on a template, which some directories do not name
    folder = resolve(path, weights=False)
    config = read_json(folder / "config.json")
    text = config if is_original(config) else part_settings(config, folder)[0]
    context = text.get("max_position_embeddings")
    if not isinstance(context, int):
        raise CheckpointError(f"{folder}/config.json: the decoder does not say max_position_embeddings")
    theta = (text.get("rope_parameters") or text).get("rope_theta")
    return Subject(str(path), "a checkpoint", card, context, theta)


def show_plan(found: Preview, *, as_json: bool) -> None:
    """Print a preview: for people with a drawing, or as JSON."""
    if as_json:
        print(json.dumps(found.describe(), indent=1))  # not through rich: it must stay JSON
        return
    for line in plan_lines(found):
        say(line.translate(ASCII) if console.options.ascii_only else line)
    if not found.fits:
        console.print(f"warning: {_overlong(found)}", style="yellow", markup=False, soft_wrap=True)


def plan_lines(found: Preview) -> list[str]:
    """What a person reads, without the warning of an overlong one."""
    plan, model = found.plan, found.model
    what = "an image" if found.images == 1 else f"{found.images} images"
    if found.frames is not None:
        what = "a video of 1 frame" if found.frames == 1 else f"a video of {found.frames} frames"
    lines = [
        f"{model.name} ({model.origin}): {what}, {found.size[0]} x {found.size[1]} pixels",
        *(f"  {text}" for text in _views(found)),
        *(f"  {text}" for text in draw_view(plan, plan.views[-1], found.size)),
    ]
    shapes = Counter(grid._replace(first=0) for grid in plan.grids)
    lines += [f"  {_tokens_of(grid, plan.side, count)}" for grid, count in shapes.items()]
    each = f", {plan.num_tokens} each" if found.images > 1 else ""
    left = f", {model.context - found.num_tokens} left for text" if found.fits else ""
    count = found.images * plan.tiles
    tiles = f"{count} {'tile' if count == 1 else 'tiles'}"
    lines.append(f"{tiles}, {found.num_tokens} tokens{each}; context {model.context}{left}")
    return lines


def _measure(picture: str, model: Subject) -> tuple[Size, int | None]:
    """(size, None) of an image, (size, number of frames that are looked at) of a video."""
    match = SIZE.fullmatch(picture.strip())
    if match is not None:
        return (int(match[1]), int(match[2])), None
    _refuse_url(picture)
    path = Path(picture)
    if not picture or not _exists(path):
        raise ConfigError(
            f"{shorten(picture, 200)!r} is neither a size of at most 6 digits a side, as in 640x480, nor a file"
        )
    found = _look(path)
    if not isinstance(found, VideoInfo):
        return found, None
    if model.card.video is None:
        raise ConfigError(f"{model.name} takes no videos, and {picture} is one")
    return found.size, len(choose_frames(model.card.video, found))


def _look(path: Path) -> Size | VideoInfo:
    """What a file is, by its bytes: a picture if it can be one, else a video. A folder is a video of pictures."""
    if path.is_dir():
        return video.probe_video(path)
    try:
        return image_size(path)
    except DataError as error:
        no_picture = error
    try:
        return video.probe_video(path)
    except DataError as no_video:
        raise (no_video if path.suffix.lower() in VIDEO_SUFFIXES else no_picture) from None


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # longer than any name of a file; a NUL in it
        return False


def _refuse_url(name: str) -> None:
    """Planning reads files and settings; it does not fetch from anywhere but the hub."""
    if re.match(r"[a-z][a-z0-9+.-]*://|data:", name, re.IGNORECASE):
        raise ConfigError(
            f"{shorten(name, 80)}: a URL is not fetched here; download it and name the file, a model by its hub id"
        )


def _views(found: Preview) -> list[str]:
    """Sentences about the canvas, its padding, and the base view."""
    plan = found.plan
    canvas, (left, top, right, bottom) = image_box(plan.views[-1], found.size)
    width, height = plan.tile
    columns, rows = canvas[0] // width, canvas[1] // height
    tiles = "one tile" if columns * rows == 1 else f"{columns} x {rows} tiles"
    text = f"{tiles} of {width} x {height} pixels; the image becomes {right - left} x {bottom - top}"
    edges = {"left": left, "right": canvas[0] - right, "above": top, "below": canvas[1] - bottom}
    padded = [f"{pixels} {where}" for where, pixels in edges.items() if pixels > 0]
    cut = [f"{-pixels} {where}" for where, pixels in edges.items() if pixels < 0]
    text += f", padded by {', '.join(padded)}" if padded else ""
    text += f", cut by {', '.join(cut)}" if cut else ""
    if len(plan.views) == 1:
        return [text]
    base = plan.views[0]
    _, (left, top, right, bottom) = image_box(base, found.size)
    shape = "squashed" if (right - left, bottom - top) == plan.tile else "padded"
    return [f"base view first: the whole image, {shape} to {width} x {height}", text]


def _tokens_of(grid: Grid, side: Size, count: int) -> str:
    """One kind of grid: the map that is kept, where it comes from, and its sum of tokens."""
    width, height = grid.size
    kept = grid.crop[2] - grid.crop[0], grid.crop[3] - grid.crop[1]
    joined = grid.tiles[0] * side[0], grid.tiles[1] * side[1]
    text = f"{width} x {height}"
    if grid.resample != "none":
        text += f", {grid.resample} of {kept[0]} x {kept[1]}"
    if kept != joined:
        text += f", the part of {joined[0]} x {joined[1]} that saw the image"
    text += {"none": "", "row": ", newline behind every row", "end": ", newline at the end"}[grid.newline]
    text += ", faster token" if grid.closing else ""
    times = "" if count == 1 else f"{count} times "
    return f"{times}{text}: {count * grid.num_tokens} tokens"


def _newlines(grid: Grid) -> int:
    return {"none": 0, "row": grid.size[1], "end": 1}[grid.newline]


def _overlong(found: Preview) -> str:
    model, factor = found.model, found.stretch
    known = "as the released demo did" if model.rope_scaling else "which the release did not do"
    text = (
        f"{found.num_tokens} tokens are more than the context of {model.context}; linear RoPE scaling by {factor} "
        f"makes it {model.context * factor}, {known}: rope_parameters"
        f'={{"rope_type": "linear", "rope_theta": {model.rope_theta}, "factor": {factor}.0}}'
    )
    return text if found.frames is None else f"{text}; {found.most_frames()} frames fit as they are"
