"""Real clients against a real server.

Runs where LLAVAKIT_CLIENTS_PYTHON names the interpreter of an environment that `benchmarks/peers/install.sh clients
FOLDER` made. docs/serve.md has the versions it was last run with.
"""

import json
import os
import subprocess
from pathlib import Path

import pytest

from benchmarks.peers.process import HERE
from tests import tiny
from tests.serve.live import served

pytestmark = pytest.mark.clients
PYTHON = {
    "openai (Python)", "langchain-openai", "litellm", "instructor", "pydantic-ai", "llama-index",
    "lmms-eval, VLMEvalKit",
}  # fmt: skip


@pytest.mark.parametrize(("kind", "clients"), [("python", PYTHON), ("node", {"openai (npm)", "AI SDK"})])
def test_they_are_answered(tmp_path, kind, clients):
    python = Path(os.environ["LLAVAKIT_CLIENTS_PYTHON"])
    start = {
        "python": [str(python), str(HERE / "clients.py")],
        "node": ["node", str(HERE / "clients.mjs"), str(python.parents[1] / "npm")],
    }[kind]
    picture = tiny.picture(tmp_path / "a.png")
    with served(context=8192) as (url, _):
        done = subprocess.run([*start, f"{url}/v1", str(picture)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert {row["client"] for row in rows} == clients
    for row in rows:
        print(f"| {row['client']} | {row['version']} | {'; '.join(row['did'])} |")
