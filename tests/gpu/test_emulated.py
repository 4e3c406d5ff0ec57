"""The GPU suite on a device that is not there (emulated.py): no two devices in one operation, no waits."""

import os
import re
import subprocess
import sys

import pytest

# Whole runs start threads, which do not see the device; int4 and the compiler's kernels exist on CUDA only; of
# attention, which is twins here, one case of each kernel.
CHOSEN = "(cuda or recorded or waits or nothing) and not int4 and (not attention or plain-plain or trees-all)"


@pytest.mark.cpu_build
def test_the_gpu_suite_passes_on_an_emulated_device():
    found = subprocess.run(
        [sys.executable, "-m", "tests.gpu.emulated", "tests/gpu/test_paths.py", "-q", "-k", CHOSEN],
        capture_output=True, text=True, check=False, env=os.environ | {"HF_HUB_OFFLINE": "1"}, timeout=300,
    )  # fmt: skip
    passed = re.search(r"(\d+) passed", found.stdout)
    assert found.returncode == 0 and passed, found.stdout[-3000:]
    assert int(passed[1]) > 20
