"""docs/extend.md: its diffs apply to the code as it is, and what they add works."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import MetaClip2VisionConfig, MetaClip2VisionModel

from tests import tiny

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "extend.md").read_text()
BLOCK = re.compile(r"^```(diff|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture
def place(tmp_path):
    """A copy of the code, and the parts that the page names."""
    shutil.copytree(ROOT / "llavakit", tmp_path / "llavakit", ignore=shutil.ignore_patterns("__pycache__"))
    built = tiny.checkpoint()
    built.model.language.save_pretrained(tmp_path / "my-llm")
    built.tokenizer.hf.save_pretrained(tmp_path / "my-llm")
    built.model.tower.vision.save_pretrained(tmp_path / "my-clip")
    small = MetaClip2VisionConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        image_size=28,
        patch_size=14,
    )
    MetaClip2VisionModel(small).save_pretrained(tmp_path / "my-metaclip")
    tiny.picture(tmp_path / "x.png")
    return tmp_path


@pytest.mark.slow
def test_every_change_of_the_page_applies_and_works(place):
    blocks = BLOCK.findall(PAGE)
    assert len([kind for kind, _ in blocks if kind == "diff"]) == 7
    for kind, text in blocks:
        if kind == "diff":
            git = ["git", "apply", "-"]
            done = subprocess.run(git, input=text, cwd=place, capture_output=True, text=True, check=False)
            assert done.returncode == 0, f"{done.stderr}\n{text}"
    code = "\n".join(text for kind, text in blocks if kind == "python")
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=place,
        env=os.environ | {"PYTHONPATH": str(place)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for found in (
        "MetaClip2VisionModel",
        "LayerNorm",
        "offset=(0, 3)",
        "Q: ",
        "576",
        "('connector',)",
        "A circle.",
    ):
        assert found in done.stdout
