"""The released models, for people and programs: `llavakit models`, `llavakit.families()`, `llavakit.plan()`."""

import json
from itertools import groupby
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from llavakit.core.progress import console, say
from llavakit.model.counts import Counts, count_parameters
from llavakit.model.families import FAMILIES, family
from llavakit.model.families.row import Family
from llavakit.text.templates import ALIASES, TEMPLATES
from llavakit.vision.layout import Plan, Size

EXAMPLE: Size = (640, 480)  # pixels; the picture whose tokens the list shows
WIDE = 130  # characters of a window that shows every column
PIPE_WIDTH = 160  # characters of a table that nobody's window limits


def families() -> tuple[Family, ...]:
    """Every released model, a row each, by generation."""
    return tuple(FAMILIES.values())


def plan(name: str, width: int, height: int, frames: int | None = None) -> Plan:
    """How the model `name` sees an image of width x height pixels, or a video of `frames` such frames.

    `.num_tokens`, `.tiles` and `.grid` (columns, rows of the map that is kept) are integers; nothing is loaded.
    An unknown name, a size without pixels, or frames for a model without videos is a ConfigError.
    """
    return family(name).plan((width, height), frames=frames)


def show_models(name: str | None, *, as_json: bool) -> None:
    """Print the table of all rows, or one row in full."""
    if as_json:
        found: Any = [describe(row) for row in families()] if name is None else describe(family(name))
        print(json.dumps(found, indent=1))  # not through rich: it must stay JSON
    elif name is None:
        wide = not console.is_terminal or console.width >= WIDE
        _print(models_table(wide=wide))
        if not wide:
            say("tower, language model and template: in a wider window, or llavakit models NAME")
        say(
            f"{len(FAMILIES)} models; tokens of an image of {EXAMPLE[0]} x {EXAMPLE[1]} and of a video's frames"
        )
    else:
        _show_model(family(name))


def describe(row: Family) -> dict[str, Any]:
    """A row as plain values, with its parameter counts. Sizes are [width, height] and [columns, rows]."""
    counts, card = count_parameters(row), row.card
    return {
        "name": row.name,
        "system": row.system,
        "params": {"total": counts.total, **counts._asdict()},
        "tower": card.tower.path,
        "language": row.decoder.path,
        "connector": card.connector.kind,
        "template": card.template,
        "plan": image_rule(row),
        "context": row.context,
        "image_tokens": row.plan(EXAMPLE).num_tokens,
        "video_frames": None if card.video is None else card.video.max_frames,
        "video_tokens": _video_tokens(row),
        "released": row.released,
        "converted": row.converted,
        "rope_scaling": row.rope_scaling,
        "image": card.image.model_dump(mode="json"),
        "video": None if card.video is None else card.video.model_dump(mode="json"),
        "im_start_end": card.im_start_end,
        "tower_layer": card.tower.layer,
        "tower_config": row.vision.config(),
        "language_config": row.decoder.config(),
        "remarks": list(row.remarks),
    }


def image_rule(row: Family) -> str:
    """The image rule in a few words, in the terms of released configs where they have one."""
    image = row.card.image
    if image.anyres is None:
        return f"{image.kind} {image.size} px"
    if image.anyres.max_tiles is not None:
        cap = f"_max_{image.anyres.max_tiles}"
    else:
        cap = "" if image.anyres.max_tokens is None else f" at most {image.anyres.max_tokens} tokens"
    return f"{image.kind}{cap} {image.size} px, {len(image.anyres.pinpoints)} layouts"


def models_table(*, wide: bool) -> Table:
    """All rows, under their systems. Not `wide`: what fits 80 columns uncut."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("model", no_wrap=True)
    columns = {
        "params": False,
        "tower": True,
        "language": True,
        "template": True,
        "image": False,
        "video": False,
    }
    for title, is_text in {**columns, "context": False}.items():
        if wide or not is_text:
            table.add_column(title, justify="left" if is_text else "right", no_wrap=not wide, overflow="fold")
    for system, rows in groupby(families(), key=lambda row: row.system):
        table.add_row(Text(system, style="bold cyan"))
        for row in rows:
            parts = (_tower(row), row.decoder.path.rpartition("/")[2], row.card.template)
            table.add_row(
                f"  {row.name}", f"{count_parameters(row).total / 1e9:.2f} B", *(parts if wide else ()),
                f"{row.plan(EXAMPLE).num_tokens:,}", _video(row), f"{row.context:,}",
            )  # fmt: skip
    return table


def show_templates(*, as_json: bool) -> None:
    """Print every prompt template: other names, the publications that use it, and how a turn looks."""
    users = {name: [row.system for row in families() if row.card.template == name] for name in TEMPLATES}
    if as_json:
        print(json.dumps({name: list(dict.fromkeys(systems)) for name, systems in users.items()}, indent=1))
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("template", no_wrap=True)
    table.add_column("of", overflow="fold", ratio=2)
    table.add_column("a turn", overflow="fold", ratio=3)
    for name, row in TEMPLATES.items():
        said = ALIASES[name] if name in ALIASES else ", ".join(dict.fromkeys(users[name]))
        turn = f"{row.user[0]}QUESTION{row.user[1]}{row.header}{row.lead}ANSWER{row.end}"
        table.add_row(name, Text(f"same as {said}" if name in ALIASES else said), Text(repr(turn)[1:-1]))
    console.print(table)


def _show_model(row: Family) -> None:
    counts, card = count_parameters(row), row.card
    table = Table("what", "", box=None, show_header=False)
    for what, text in {
        "model": row.name,
        "system": row.system,
        "checkpoint": ", ".join(name for name in (row.released, row.converted) if name) or "not released",
        "parameters": _parameters(counts),
        "tower": f"{card.tower.path}, layer {card.tower.layer}, {row.vision.hidden_size} wide",
        "connector": f"{card.connector.kind}, {row.vision.hidden_size} to {row.decoder.hidden_size}",
        "language": f"{row.decoder.path}, {row.decoder.num_hidden_layers} layers of {row.decoder.hidden_size}",
        "template": card.template + (" with <im_start> and <im_end>" if card.im_start_end else ""),
        "image": f"{image_rule(row)}: {row.plan(EXAMPLE).num_tokens} tokens for {EXAMPLE[0]} x {EXAMPLE[1]}",
        "video": "none" if card.video is None else f"{_video(row)} tokens, newline {card.video.newline}",
        "context": f"{row.context}" + (", stretched by linear RoPE scaling" if row.rope_scaling else ""),
    }.items():
        table.add_row(Text(what, style="bold"), Text(text))
    for remark in row.remarks:
        table.add_row(Text("remark", style="bold"), Text(remark))
    _print(table)


def _print(table: Table) -> None:
    """As wide as the window; where there is none (a pipe, a file), wide enough to cut nothing off."""
    (console if console.is_terminal else Console(width=PIPE_WIDTH, emoji=False)).print(table)


def _parameters(counts: Counts) -> str:
    return (
        f"{counts.total / 1e9:.2f} B: vision {counts.vision / 1e6:.1f} M, "
        f"connector {counts.connector / 1e6:.1f} M, language {counts.language / 1e9:.2f} B"
    )


def _tower(row: Family) -> str:
    return f"{row.vision.model_type.removesuffix('_vision_model')} {row.vision.image_size}"


def _video_tokens(row: Family) -> int | None:
    video = row.card.video
    return None if video is None else row.plan(EXAMPLE, frames=video.max_frames).num_tokens


def _video(row: Family) -> str:
    video = row.card.video
    return "" if video is None else f"{video.max_frames} frames {_video_tokens(row):,}"
