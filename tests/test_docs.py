"""The documents are executed: every ```bash and ```python block, in a folder with a tiny runs/demo in it.

Where LLAVAKIT_DEMO names what `llavakit demo` left, its files are runs/demo instead.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from llavakit.align.collect.run import open_session
from llavakit.align.collect.session import Rules
from llavakit.model import checkpoint as checkpoints
from tests import tiny
from tests.preloaded import Server
from tests.vision.clips import write_clip

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PATCHED = {"extend.md"}  # its blocks need its diffs: see test_extend.py
FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
BLOCK = re.compile(r"^```(bash|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture
def sandbox(tmp_path):
    """What a reader has after `make demo`, in small: runs/demo with a picture.

    And what documents call the reader's own: x.png, data.json, clip.mp4, pairs.json, and shapes.votes, what
    somebody said of the pairs.
    """
    tiny.picture(tmp_path / "x.png")
    demo = tmp_path / "runs" / "demo"
    if real := os.environ.get("LLAVAKIT_DEMO"):
        shutil.copytree(Path(real).resolve(), demo, copy_function=os.symlink)
    else:
        checkpoints.save(tiny.checkpoint(), demo / "stage2")
        (demo / "latest").write_text("stage2\n")
        (demo / "pictures").mkdir()
        tiny.picture(demo / "pictures" / "0.png")
    write_clip(tmp_path / "clip.mp4")
    rows = [tiny.record(number, "x.png", [("What color is the shape?", "red")]) for number in range(8)]
    (tmp_path / "data.json").write_text("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]")
    pairs = [
        {
            "image": "x.png",
            "prompt": f"<image>\nWhat is shape {number}?",
            "chosen": "red",
            "rejected": "a blue one",
        }
        for number in range(8)
    ]
    (tmp_path / "pairs.json").write_text(json.dumps(pairs))
    with open_session([tmp_path / "pairs.json"], tmp_path / "shapes.votes", [], Rules()) as session:
        while (task := session.task("ada")) is not None:
            session.vote("ada", task.item.name, "left", None, 4.0)
    return tmp_path


def blocks() -> list:
    found = []
    for page in PAGES:
        if page.name in PATCHED:
            continue
        for number, match in enumerate(BLOCK.finditer(page.read_text())):
            found.append(pytest.param(match[1], match[2], id=f"{page.name}-{number}-{match[1]}"))
    return found


@pytest.fixture(scope="session")
def programs(tmp_path_factory):
    """`llavakit` and `python` that start at once."""
    folder = tmp_path_factory.mktemp("preloaded")
    server = Server(folder)
    yield server.shims(folder / "bin")
    server.stop()


@pytest.mark.slow
@pytest.mark.parametrize(("language", "code"), blocks())
def test_the_block_runs(sandbox, programs, language, code):
    command = (
        ["bash", "-euo", "pipefail", "-c", code] if language == "bash" else [programs / "python", "-c", code]
    )
    path = f"{programs}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        command, cwd=sandbox, capture_output=True, text=True, timeout=300, env=os.environ | {"PATH": path}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_links_in_the_documents_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)\)", FENCED.sub("", page.read_text())):
            if not target.startswith(("http:", "https:")):
                assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_reading_order_names_real_files():
    named = re.findall(r"`(llavakit/[\w/]+\.py)`", (ROOT / "README.md").read_text())
    assert len(named) >= 10
    assert all((ROOT / name).is_file() for name in named)


def test_the_readme_counts_what_there_is():
    from llavakit.eval.tasks.table import BENCHMARKS, JUDGED
    from llavakit.tools.skills import SKILLS

    readme = (ROOT / "README.md").read_text()
    assert f"{len(BENCHMARKS | JUDGED)} benchmarks" in readme
    assert f"{len(SKILLS)} skills" in readme


def test_every_verb_has_its_page():
    from typer.main import get_command

    from llavakit.cli import app

    readme = (ROOT / "README.md").read_text()
    for verb in get_command(app).commands:
        assert f"docs/{verb}.md" in readme and (ROOT / "docs" / f"{verb}.md").is_file(), verb
