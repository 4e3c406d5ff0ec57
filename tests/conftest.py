"""One thread a process: tiny tensors gain nothing from more, and processes of a parallel run do not fight.

Set in the environment too, for the processes that tests start: sums depend on the number of threads in their last
bits, and some of those runs must equal one made here bit for bit.
"""

import os
import shutil
import sys
from collections.abc import Callable

import pytest
import torch

from llavakit import cli
from tests.browser import find_browser

os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)
NEEDS = {
    "clients": "LLAVAKIT_CLIENTS_PYTHON",
    "vllm": "LLAVAKIT_VLLM_PYTHON",
    "transformers": "LLAVAKIT_TRANSFORMERS_PYTHON",
    "trl": "LLAVAKIT_TRL_PYTHON",
}  # marker: the variable without which its tests are not part of the suite


def pytest_collection_modifyitems(config, items):
    """Leave out tests of programs that live in an environment of their own, unless it is named."""
    absent = [marker for marker, variable in NEEDS.items() if not os.environ.get(variable)]
    absent += ["browser"] * (find_browser() is None)
    absent += ["node"] * (shutil.which("node") is None)
    absent += ["gpu"] * (not torch.cuda.is_available())
    absent += ["compiler"] * (shutil.which("gcc") is None and shutil.which("cc") is None)
    absent += ["cpu_build"] * (torch.version.cuda is not None or shutil.which("g++") is None)
    left_out = [item for item in items if any(item.get_closest_marker(marker) for marker in absent)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


@pytest.fixture
def run(capsys, monkeypatch) -> Callable[..., tuple[int, str, str]]:
    """llavakit.cli.main in this process: its exit code, stdout and stderr."""

    def call(*words: object, stdin: str = "") -> tuple[int, str, str]:
        reading, writing = os.pipe()
        os.write(writing, stdin.encode())
        os.close(writing)
        with os.fdopen(reading) as lines, monkeypatch.context() as patch:
            patch.setattr(sys, "argv", ["llavakit", *map(str, words)])
            patch.setattr(sys, "stdin", lines)
            try:
                cli.main()
                code = 0
            except SystemExit as end:
                code = end.code or 0
        out, err = capsys.readouterr()
        return code, out, err

    return call
