"""The page's pure parts, by Node's own test runner; and the file of Konva is the one that was published."""

import hashlib
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from llavakit.studio.http.app import page_files
from tests.test_architecture import MAX_FILE

HERE = Path(__file__).parent
PAGE = Path(__file__).parents[3] / "llavakit" / "studio" / "page"


@pytest.mark.node
def test_the_pure_parts_of_the_page():
    done = subprocess.run(
        [shutil.which("node"), "--test", HERE / "parts.test.mjs"], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout
    assert re.search(r"# pass [1-9]\d", done.stdout) or re.search(r"ℹ pass [1-9]\d", done.stdout)


def test_what_is_not_ours_is_unchanged_and_named():
    vendor = PAGE / "vendor"
    sums = dict(line.split()[::-1] for line in (vendor / "checksums.txt").read_text().splitlines())
    assert {file.name for file in vendor.glob("*.js")} == set(sums)
    for name, wanted in sums.items():
        assert hashlib.sha256((vendor / name).read_bytes()).hexdigest() == wanted
    assert "MIT License" in (vendor / "konva.LICENSE").read_text()


def test_no_module_of_the_page_is_long():
    lengths = {
        path: content.count(b"\n") for path, (_, content) in page_files().items() if "vendor" not in path
    }
    assert len(lengths) > 15 and {path: n for path, n in lengths.items() if n > MAX_FILE} == {}
