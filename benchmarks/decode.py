"""Answers token by token: one stream and sixteen, fewer bits, and the second question about a picture.

1. One stream after its prompt (with a picture), bf16: our engine, `generate`, vLLM's CPU engine.
2. Sixteen streams after their prompts: our engine, `generate`.
3. One stream of text with int8 and int4 weights (the head in int8): our engine, llama.cpp with its layers in Q8_0,
   in Q4_1, in Q4_0 (the head in Q8_0).
4. A second question about the same picture: time to its first token, with what our engine remembers, against
   `generate`, which begins anew.

Beside a stream's rate stands the memory roof: the rate if reading the weights once a token were all there is.

    python -m benchmarks.decode [--runs 5] [--only streams|bits|turn] [--vllm-python P] [--llamacpp-python P]
"""

import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from benchmarks import smol
from benchmarks.machine import in_turn, median, report
from benchmarks.sides import (
    Q4_0,
    Q4_1,
    Q8_0,
    Generate,
    LlamaCpp,
    Ours,
    Side,
    decoder_bytes,
    export_model,
    options,
    roof,
    vllm_side,
)
from llavakit.core.memory import keep_freed_memory
from llavakit.engine.decoder import Weights
from llavakit.engine.sampler import Sampling
from llavakit.model.checkpoint import Checkpoint
from llavakit.text.conversation import Conversation, Message, assistant, user

BITS: dict[Weights, tuple[tuple[int, str], ...]] = {
    "int8": ((Q8_0, "Q8_0"),),
    "int4": ((Q4_1, "Q4_1"), (Q4_0, "Q4_0")),
}
ANSWER_TOKENS = 20
MORE = "And which of the colors is there most of?"


def compare(name: str, sides: dict[str, Side], streams: int, runs: int, **more: object) -> None:
    """Tokens/s after the first token of every stream; one line for each peer."""

    def rate(side: Side, run: int) -> float:
        numbers = list(range((run + 1) * streams, (run + 2) * streams))
        _, seconds, tokens = side.run(numbers, smol.NEW_TOKENS)
        return tokens / seconds

    for side in sides.values():
        rate(side, -1)
    found = in_turn({key: lambda run, side=side: rate(side, run) for key, side in sides.items()}, runs)
    rates = {key: round(median(each), 1) for key, each in found.items()}
    for key, side in list(sides.items())[1:]:
        peer = {"name": key, "version": side.version, "value": rates[key]}
        report(f"{name}, against {key}", rates["ours"], peer, "tokens/s", better="higher", runs=runs, **more)


def streams(loaded: Checkpoint, exported: Path, files: Path, vllm: Path | None, runs: int) -> None:
    ours, generate = Ours(exported, loaded), Generate(exported, loaded)
    with ExitStack() as stack:
        sides: dict[str, Side] = {"ours": ours, "generate": generate}
        sides |= vllm_side(vllm, exported, loaded, files, stack)
        compare("one stream", sides, 1, runs, memory_roof=round(roof(decoder_bytes(loaded)), 1))
    compare("16 streams", {"ours": ours, "generate": generate}, 16, runs)


def bits(loaded: Checkpoint, exported: Path, files: Path, python: Path | None, runs: int) -> None:
    if python is None:
        print("llama.cpp: not measured (name its interpreter: --llamacpp-python)")
        return
    question = Conversation((user(smol.QUESTION.format(0)),))
    sample = smol.encoder(loaded).encode(question, open_turn=True)
    for weights, types in BITS.items():
        ours = Ours(exported, loaded, weights)
        for file_type, name in types:
            side = LlamaCpp(python, file_type, files)
            with side.peer:
                compare_bits(f"one stream of text, {weights} against {name}", ours, side, sample, runs)


def compare_bits(name: str, ours: Ours, side: LlamaCpp, sample, runs: int) -> None:
    def rate(run: int) -> float:
        _, seconds, tokens = ours.stream([sample], 2 * smol.NEW_TOKENS, time.perf_counter())
        return tokens / seconds

    contenders: dict[str, Callable[[int], float]] = {
        "ours": rate,
        "llama.cpp": lambda run: side.run(list(sample.ids), 2 * smol.NEW_TOKENS),
    }
    in_turn(contenders, 1)
    rates = {key: round(median(each), 1) for key, each in in_turn(contenders, runs).items()}
    peer = {"name": "llama.cpp by llama-cpp-python", "version": side.version, "value": rates["llama.cpp"]}
    memory = round(roof(side.bytes), 1)
    report(name, rates["ours"], peer, "tokens/s", better="higher", runs=runs, memory_roof_of_peer=memory)


def second_turn(loaded: Checkpoint, exported: Path, runs: int) -> None:
    """Seconds to the first token of the second question; our engine answered the first before, as in a chat."""
    ours, generate = Ours(exported, loaded), Generate(exported, loaded)
    row = loaded.card.prompt()

    def first_round(run: int) -> tuple[Message, str]:
        question = user(smol.QUESTION.format(0), [smol.picture(run)])
        sample = smol.encoder(loaded).encode(Conversation((question,)), open_turn=True)
        (ids,) = ours.engine.generate([sample], Sampling(max_tokens=ANSWER_TOKENS, ignore_end=True))
        return question, loaded.tokenizer.decode(ids)

    def ask_ours(run: int) -> float:
        question, answer = first_round(run)
        began = time.perf_counter()
        talk = Conversation((question, assistant(answer), user(MORE)))
        sample = smol.encoder(loaded).encode(talk, open_turn=True)
        return ours.stream([sample], 1, began)[0]

    def ask_generate(run: int) -> float:
        _, answer = first_round(run)
        said = f"{smol.prompt(loaded, 0)}{answer}{row.end}{row.tail}"
        again = f"{said}{row.user[0]}{MORE}{row.user[1]}{row.header}"
        picture = smol.picture(run)
        return generate.answer([again], [picture], 1, time.perf_counter())[0]

    contenders = {"ours": ask_ours, "generate": ask_generate}
    in_turn(contenders, 2)
    found = in_turn({key: lambda run, ask=ask: ask(run + 2) for key, ask in contenders.items()}, runs)
    times = {key: round(1000 * median(each), 1) for key, each in found.items()}
    report(
        "second question about a picture, time to first token", times["ours"],
        {"name": "generate without a cache", "version": generate.version, "value": times["generate"]}, "ms",
        better="lower", runs=runs,
    )  # fmt: skip


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--only", choices=["streams", "bits", "turn"])
    arguments = parser.parse_args()
    keep_freed_memory()  # as the command line has it; `generate` is in the same process
    with tempfile.TemporaryDirectory() as folder:
        files = Path(folder)
        loaded, exported = export_model(files)
        if arguments.only in (None, "streams"):
            streams(loaded, exported, files, arguments.vllm_python, arguments.runs)
        if arguments.only in (None, "turn"):
            second_turn(loaded, exported, arguments.runs)
        if arguments.only in (None, "bits"):
            bits(loaded, exported, files, arguments.llamacpp_python, arguments.runs)


if __name__ == "__main__":
    main()
