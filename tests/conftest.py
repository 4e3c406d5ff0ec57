"""One thread a process: tiny tensors gain nothing from more, and processes of a parallel run do not fight.

Set in the environment too, for the processes that tests start: sums depend on the number of threads in their last
bits, and some of those runs must equal one made here bit for bit.
"""

import os

import torch

os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)
NEEDS = {
    "vllm": "LLAVAKIT_VLLM_PYTHON"
}  # marker: the variable without which its tests are not part of the suite


def pytest_collection_modifyitems(config, items):
    """Leave out tests of programs that live in an environment of their own, unless it is named."""
    absent = [marker for marker, variable in NEEDS.items() if not os.environ.get(variable)]
    left_out = [item for item in items if any(item.get_closest_marker(marker) for marker in absent)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]
