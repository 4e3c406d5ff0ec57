"""Run every benchmark, each in a process of its own, and write the table in docs/performance.md.

python -m benchmarks.run          # or: make bench
"""

import json
import subprocess
import sys
from pathlib import Path

BENCHMARKS = ["benchmarks.sft", "benchmarks.preprocess", "benchmarks.preprocess --videos"]
PAGE = Path(__file__).parent.parent / "docs" / "performance.md"
EXTRAS = (
    "mfu",
    "peer_mfu",
    "peak_gflops",
    "padding",
    "ratio_two_workers",
    "ratio_same_memory",
    "lowest_ratio",
)
BEGIN, END = "<!-- table: written by make bench -->", "<!-- end of table -->"


def run(benchmark: str) -> dict:
    """The JSON object on the last line of the output of a module and its options; the other lines go through."""
    print(f"== {benchmark}", flush=True)
    with subprocess.Popen(
        [sys.executable, "-m", *benchmark.split()], stdout=subprocess.PIPE, text=True
    ) as child:
        last = ""
        for line in child.stdout or ():
            print(line, end="", flush=True)
            last = line.strip() or last
    if child.returncode:
        raise SystemExit(f"{benchmark} failed with exit code {child.returncode}")
    return json.loads(last)


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
    results = [run(benchmark) for benchmark in BENCHMARKS]
    page = PAGE.read_text()
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}\n\n{table(results)}\n\n{END}{after}")
    print(f"wrote {PAGE}")


if __name__ == "__main__":
    main()
