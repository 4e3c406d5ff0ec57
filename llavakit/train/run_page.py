"""A page of a run, `index.html` in its folder: where it stands, curves, answers, checkpoints, and how to repeat it.

It is written with every checkpoint, stands alone and runs nothing; what it links to lies beside it.
"""

import base64
import html
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path

from llavakit.core import config as settings
from llavakit.core.files import write_text
from llavakit.train import run_directory
from llavakit.train.metrics import Row
from llavakit.train.probes import begin_page
from llavakit.train.ranks import Ranks
from llavakit.train.run import Run
from llavakit.train.state import State

PAGE = "index.html"
PICTURES = {
    "curves.png": "Loss of every step, its running mean, and loss on held-out data",
    "rollouts.png": "Reward, divergence, entropy and length of the rounds",
}
BESIDE = {
    "probes.html": "answers to the same questions while it trained",
    "retention.json": "short answers before and after",
    "metrics.jsonl": "a line for every step",
    "bad_records.txt": "records that were skipped",
}
ROUNDS = 5  # of the newest pages of rollouts


def write_run_page(run: Run, state: State, rows: Sequence[Row], ranks: Ranks) -> None:
    """The page as of `state`."""
    out, newest = run.out, rows[-1] if rows else {}
    parts = [
        begin_page(f"{run.name}: a run"),
        f"<p>{html.escape(_tell_state(state, rows))}</p>",
        _section("Commands", _commands(run, ranks)),
        *(_figure(file, _describe(file)) for file in sorted(out.glob("*.png"))),
        _section("Newest step", _table((name, _number(value)) for name, value in newest.items())),
        _section("Checkpoints", _checkpoints(out)),
        _section("Beside this page", _links(out)),
        "<section><details><summary>Settings (run.yaml)</summary>"
        f"<pre>{html.escape(settings.dump(run))}</pre></details></section>",
    ]
    write_text(out / PAGE, "\n".join(parts) + "\n</html>\n")


def _tell_state(state: State, rows: Sequence[Row]) -> str:
    done = f"Step {state.step:,} of {state.steps:,}, {state.tokens:,} tokens in {state.seconds / 60:,.1f} minutes"
    if not rows:
        return f"{done}."
    return f"{done}; loss {rows[0]['loss']:.4f} at first, {rows[-1]['loss']:.4f} now."


def _commands(run: Run, ranks: Ranks) -> str:
    out, resume = shlex.quote(str(run.out)), run_directory.resume_command(run.out, ranks)
    again = resume.removesuffix("--resume") + shlex.quote(f"out={run.out}-again")
    use = ("talk to it", f'llavakit chat --model {out} --image PICTURE "What is this?"')
    if run.reward is not None:
        use = ("score with it", f"llavakit reward PAIRS --model {out} --out scores.jsonl")
    told = (("repeat it", again), ("go on", resume), use)
    return _table((what, f"<code>{html.escape(command)}</code>") for what, command in told)


def _describe(file: Path) -> str:
    return PICTURES.get(file.name, file.stem.replace("_", " ").replace("-", " "))


def _figure(file: Path, text: str) -> str:
    text = html.escape(text)
    data = base64.b64encode(file.read_bytes()).decode()
    return f'<section><h2>{text}</h2><img alt="{text}" src="data:image/png;base64,{data}"></section>'


def _checkpoints(out: Path) -> str:
    rows = []
    for folder in reversed(run_directory.list_checkpoints(out)):
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        rows.append((_link(folder.name), f"{size / 1e6:,.1f} MB"))
    return _table(rows) or "<p>None yet.</p>"


def _links(out: Path) -> str:
    found = [(_link(name), html.escape(text)) for name, text in BESIDE.items() if (out / name).exists()]
    pages = sorted(out.glob("rollouts/round*.html"))[-ROUNDS:]
    found += [
        (_link(f"rollouts/{page.name}"), "answers of a round with what they were worth") for page in pages
    ]
    return _table(found)


def _link(name: str) -> str:
    name = html.escape(name)
    return f'<a href="{name}">{name}</a>'


def _number(value: object) -> str:
    return html.escape(f"{value:,.6g}" if isinstance(value, int | float) else str(value))


def _table(rows: Iterable[tuple[str, str]]) -> str:
    """Of cells that are HTML already."""
    lines = "".join(f"<tr><td>{left}</td><td>{right}</td></tr>" for left, right in rows)
    return f"<table>{lines}</table>" if lines else ""


def _section(title: str, content: str) -> str:
    return f"<section><h2>{html.escape(title)}</h2>{content}</section>"
