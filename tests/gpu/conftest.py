"""What stands for a device: the CPU in the ordinary suite, so that nothing rots, and CUDA in `make gpu-test`."""

import os
import subprocess
import sys

import pytest
import torch

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.fixture(params=DEVICES)
def device(request):
    """Where the tested side runs; its twin runs on the CPU."""
    return torch.device(request.param)


@pytest.fixture
def on_the_cpu(tmp_path):
    """Run a function `name` of a module in a process that sees no GPU; what it returned, as it printed it."""

    def call(module: str, name: str, *words: object) -> str:
        code = f"import {module} as m; print(m.{name}(*{[str(word) for word in words]!r}))"
        found = subprocess.run(
            [sys.executable, "-c", code], env=os.environ | {"CUDA_VISIBLE_DEVICES": ""},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert found.returncode == 0, found.stderr
        return found.stdout.splitlines()[-1]

    return call
