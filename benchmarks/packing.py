"""What finding its rows costs a rank: packed from noted lengths, with 2 and with many ranks, and the first row.

Writes a file of short conversations, notes their lengths, and then stands for one rank of so many: processor's
seconds of a step, one row for every rank, of which this one encodes its own. `without` is a loader that knows no
lengths, as one rank has it. Then a new loader's first row, opening the data included.

    python -m benchmarks.packing [--records 1000000] [--ranks 2,64,256] [--steps 20]
"""

import argparse
import json
import random
import tempfile
import time
from itertools import islice
from pathlib import Path

from benchmarks.machine import facts
from llavakit.data.loader import Loader, Position
from llavakit.data.settings import DataConfig
from tests import tiny

TOKENS = 2048  # of a row
WORDS = "the a red blue shape circle big small left right of on and what is there"


def write_records(path: Path, count: int) -> None:
    draw = random.Random(0)
    words = WORDS.split()
    with path.open("w") as file:
        for number in range(count):
            question, answer = (" ".join(draw.choices(words, k=draw.randint(4, 40))) for _ in range(2))
            file.write(json.dumps(tiny.record(number, None, [(question, answer)])) + "\n")


def step_seconds(loader: Loader, ranks: int, steps: int) -> float:
    """Processor's seconds of a step of the last rank, which reads all other rows' places first."""
    rows = loader.batches(Position(), rank=ranks - 1, ranks=ranks, step=ranks)
    list(islice(rows, ranks))  # once, to warm up
    began = time.process_time()
    list(islice(rows, ranks * steps))
    return (time.process_time() - began) / steps


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--ranks", default="2,64,256")
    parser.add_argument("--steps", type=int, default=20)
    arguments = parser.parse_args()
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "records.jsonl"
        write_records(path, arguments.records)
        config = DataConfig(files=(path,), tokens=TOKENS, workers=0)

        def opened(noted: bool = True) -> Loader:
            loader = Loader(config.model_copy(update={"workers": 2}), tiny.encoder(), seed=0)
            if noted:
                loader.note_lengths(Path(folder) / "lengths")
            loader.config = config
            return loader

        began = time.perf_counter()
        opened()
        found["seconds_to_note"] = round(time.perf_counter() - began, 1)
        began = time.perf_counter()
        loader = opened()
        next(iter(loader.batches(Position(), rank=0, ranks=2, step=2)))
        found["seconds_to_first_row"] = round(time.perf_counter() - began, 2)
        for ranks in map(int, arguments.ranks.split(",")):
            for name, each in (("noted", loader), ("without", opened(noted=False))):
                steps = arguments.steps if name == "noted" else 2
                found[f"ms_of_a_step_{ranks}_ranks_{name}"] = round(1e3 * step_seconds(each, ranks, steps), 2)
                print(f"{ranks} ranks, {name}: {found[f'ms_of_a_step_{ranks}_ranks_{name}']} ms", flush=True)
    print(json.dumps({"name": f"packing, {arguments.records} records", **found, "machine": facts()}))


if __name__ == "__main__":
    main()
