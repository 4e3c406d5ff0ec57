"""What a benchmark ran on, the measured matrix-product peak, and the one line each benchmark ends with."""

import json
import platform
import statistics
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import torch
import transformers

import llavakit
from llavakit.train.flops import measure_peak


def facts() -> dict[str, str | int]:
    """Processor, cores and versions."""
    return {
        "cpu": _cpu_name(),
        "cores": torch.get_num_threads(),
        "device": "cuda" if torch.cuda.is_available() else "cpu",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "llavakit": llavakit.__version__,
        "date": date.today().isoformat(),
    }


def matmul_peak() -> float:
    """FLOP/s of large matrix products on the CPU, in the faster of bf16 and float32; measured for two seconds."""
    return max(measure_peak(torch.device("cpu"), precision, seconds=1.0) for precision in ("bf16", "float32"))


def alternate(ours: Callable[[int], object], peer: Callable[[int], object], runs: int) -> tuple[list, list]:
    """Seconds of `ours(run)` and `peer(run)`, taken in turn; which goes first changes every run."""
    mine, theirs = [], []
    for run in range(runs):
        pair = [(ours, mine), (peer, theirs)]
        for work, seconds in pair if run % 2 else reversed(pair):
            seconds.append(_seconds(lambda work=work, run=run: work(run)))
    return mine, theirs


def in_turn(contenders: dict[str, Callable[[int], float]], runs: int) -> dict[str, list[float]]:
    """What each contender measures of itself, run by run, in turn; the order turns with every run."""
    names, found = list(contenders), {name: [] for name in contenders}
    for run in range(runs):
        turned = names[run % len(names) :] + names[: run % len(names)]
        for name in turned:
            found[name].append(contenders[name](run))
    return found


def memory_bandwidth() -> float:
    """Bytes/s of reading 1 GiB, the best of several; no cache holds that."""
    block = torch.zeros(2**28, dtype=torch.float32)
    return block.numel() * 4 / min(_seconds(block.sum) for _ in range(5))


def report(name: str, ours: float, peer: dict, unit: str, *, better: str, runs: int, **more: object) -> dict:
    """Print and return the result: one JSON object on the last line. A ratio above 1 is better for us."""
    ratio = ours / peer["value"] if better == "higher" else peer["value"] / ours
    result = {"name": name, "ours": ours, "peer": peer, "unit": unit, "ratio": round(ratio, 3), "runs": runs}
    result |= more | {"machine": facts()}
    print(json.dumps(result), flush=True)
    return result


def median(values: list[float]) -> float:
    return statistics.median(values)


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "unknown")
