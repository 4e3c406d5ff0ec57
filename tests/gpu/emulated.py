"""A CUDA device with the numbers of the CPU: where GPU code mixes devices or waits, it shows without a GPU.

    python -m tests.gpu.emulated tests/gpu/test_paths.py -k cuda

runs pytest with it. A tensor "on cuda" is a CPU tensor in a wrapper that says so: every operation is computed by
the CPU, one that mixes the two raises, and where `torch.cuda.set_sync_debug_mode` forbids it so does what makes a
host wait: numbers read, copies from plain memory, sizes that depend on values. Kernels that exist on CUDA only are
their twins; nothing here says that those work. It needs PyTorch's build for CPUs, and g++.
"""

import ctypes
import importlib.util
import subprocess
import sys
import tempfile
from pathlib import Path


def load_device() -> None:
    """The little that PyTorch asks a device for in C++; before PyTorch is imported."""
    spec = importlib.util.find_spec("torch")
    assert spec is not None and spec.origin is not None
    torch_dir = Path(spec.origin).parent
    with tempfile.TemporaryDirectory() as folder:
        built = Path(folder) / "emulated.so"
        source = Path(__file__).with_suffix(".cpp")
        compiler = ["g++", "-shared", "-fPIC", "-std=c++20"]
        places = [f"-I{torch_dir}/include", f"-L{torch_dir}/lib"]
        subprocess.run(
            [*compiler, *places, str(source), "-lc10", "-ltorch_cpu", "-o", str(built)], check=True
        )
        for name in ("libc10.so", "libtorch_cpu.so"):
            ctypes.CDLL(str(torch_dir / "lib" / name), mode=ctypes.RTLD_GLOBAL)
        ctypes.CDLL(str(built))


if __name__ == "__main__":
    load_device()
    import pytest
    import torch

    # Wrapped tensors cannot be made in inference mode. Before any module takes it as a decorator.
    torch.inference_mode = lambda mode=True: torch.no_grad() if mode else torch.enable_grad()  # type: ignore[assignment,misc]

    from tests.gpu.emulated_cuda import EmulatedCuda, stand_in

    with EmulatedCuda() as device:
        stand_in(device)
        sys.exit(pytest.main(["-p", "no:cacheprovider", "-p", "no:xdist", "-o", "addopts=", *sys.argv[1:]]))
