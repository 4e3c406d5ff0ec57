"""What models learned about colours since their start: exact match on easy-vqa's test questions, and the gain.

    OMP_NUM_THREADS=1 python -m benchmarks.gains runs/rlhf/stage2 runs/grpo runs/dpo

Greedy and sampled answers of the start and of each model; the interval is over pictures drawn again.
"""

import argparse
from pathlib import Path

from llavakit.chat import load
from llavakit.core.progress import say
from llavakit.eval.easy_vqa import EasyVqa
from llavakit.eval.vqa import accuracy, gain
from llavakit.recipes.demo_rlhf import ask
from llavakit.recipes.easy_vqa import colour_questions


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("start", type=Path)
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--questions", type=int, default=400)
    args = parser.parse_args()
    questions = colour_questions(EasyVqa("test"))[: args.questions]
    before = ask(load(args.start), questions, str(args.start))
    for model in args.models:
        after = ask(load(model), questions, str(model))
        for how, said in before.items():
            first, last = (100 * accuracy(questions, each)["all"] for each in (said, after[how]))
            say(f"{model}, {how}: {first:.1f} % to {last:.1f} %, {gain(questions, said, after[how]).tell()}")


if __name__ == "__main__":
    main()
