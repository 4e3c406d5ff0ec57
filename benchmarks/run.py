"""Run every benchmark, each in a process of its own, and write the table in docs/performance.md.

python -m benchmarks.run [--vllm-python PYTHON] [--llamacpp-python PYTHON]          # or: make bench

A peer that is not there is named and left out of the table.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

from benchmarks.page import rewrite

BENCHMARKS = [
    "benchmarks.sft",
    "benchmarks.preprocess",
    "benchmarks.preprocess --videos",
    "benchmarks.decode",
    "benchmarks.serve",
]
PEERS = {
    "benchmarks.decode": ("vllm", "llamacpp"),
    "benchmarks.serve": ("vllm",),
}  # in environments of their own
PAGE = Path(__file__).parent.parent / "docs" / "performance.md"
EXTRAS = (
    "mfu",
    "peer_mfu",
    "peak_gflops",
    "padding",
    "ratio_two_workers",
    "ratio_same_memory",
    "lowest_ratio",
    "memory_roof",
    "memory_roof_of_peer",
    "arithmetic_roof",
    "prompt_tokens",
)
BEGIN, END = "<!-- table: written by make bench -->", "<!-- end of table -->"


def run(benchmark: str, pythons: dict[str, str | None]) -> list[dict]:
    """The JSON objects, a line each, in the output of a module and its options; the other lines go through."""
    print(f"== {benchmark}", flush=True)
    words = benchmark.split()
    for peer in PEERS.get(words[0], ()):
        python = pythons[peer]
        words += [f"--{peer}-python", python] if python else []
    found = []
    with subprocess.Popen([sys.executable, "-m", *words], stdout=subprocess.PIPE, text=True) as child:
        for line in child.stdout or ():
            print(line, end="", flush=True)
            if line.startswith("{"):
                found.append(json.loads(line))
    if child.returncode:
        raise SystemExit(f"{benchmark} failed with exit code {child.returncode}")
    return found


def table(results: list[dict]) -> str:
    """A Markdown table, and the machine it was measured on."""
    machine = results[0]["machine"]
    rows = [
        "| benchmark | ours | peer | unit | ratio | runs |",
        "|---|---|---|---|---|---|",
        *(
            f"| {r['name']} | {r['ours']:g} | {r['peer']['value']:g} ({r['peer']['name']} {r['peer']['version']}) "
            f"| {r['unit']} | **{r['ratio']:g}** | {r['runs']} |"
            for r in results
        ),
    ]
    more = [f"{r['name']}: " + ", ".join(f"{key} {r[key]}" for key in EXTRAS if key in r) for r in results]
    where = f"{machine['cpu']}, {machine['cores']} threads, torch {machine['torch']}, {machine['date']}"
    return "\n".join([*rows, "", *more, "", f"Medians, alternating, on: {where}."])


def main() -> None:
    parser = argparse.ArgumentParser()
    for peer in ("vllm", "llamacpp"):
        parser.add_argument(
            f"--{peer}-python", help="interpreter of its environment (benchmarks/peers/install.sh)"
        )
    arguments = parser.parse_args()
    pythons = {"vllm": arguments.vllm_python, "llamacpp": arguments.llamacpp_python}
    results = [result for benchmark in BENCHMARKS for result in run(benchmark, pythons)]
    rewrite(PAGE, BEGIN, END, table(results))


if __name__ == "__main__":
    main()
