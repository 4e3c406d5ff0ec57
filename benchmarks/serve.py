"""64 queued requests, a picture and 64 new tokens each: our engine, `generate` in one batch, vLLM's CPU engine.

All sides read one exported directory in bf16, on the same threads, and are timed from the pictures' files to the
last token, after a whole run that nobody counts. No two requests share a picture, so no cache helps; all say as
many tokens, whatever they say. vLLM runs eager in its own process; while one side works the others wait.

Once more the same requests go through `llavakit serve`, 64 clients at once, against our engine without it.

    python -m benchmarks.serve [--runs 3] [--requests 64] [--vllm-python VENV/bin/python]
"""

import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from benchmarks import smol
from benchmarks.http_side import Http
from benchmarks.machine import in_turn, matmul_peak, median, report
from benchmarks.sides import Generate, Ours, Side, export_model, options, vllm_side
from llavakit.core.memory import keep_freed_memory
from llavakit.model.checkpoint import Checkpoint
from llavakit.version import __version__


def request_flops(loaded: Checkpoint, prompt: int, new_tokens: int) -> float:
    """Arithmetic a request needs: 2 per weight and token; the head only where a token is chosen.

    Attention's products of queries and keys are left out: about 1 % here.
    """
    model = loaded.model
    head = model.language.get_output_embeddings().weight.numel()
    body = sum(p.numel() for p in model.language.parameters()) - head
    rows = model.tower.num_rows + model.tower.kind.num_cls
    seen = sum(p.numel() for p in model.tower.parameters()) * rows
    seen += sum(p.numel() for p in model.connector.parameters()) * rows
    return 2 * (body * (prompt + new_tokens) + head * new_tokens + seen)


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--requests", type=int, default=64)
    arguments = parser.parse_args()
    count = arguments.requests
    keep_freed_memory()  # as the command line has it; `generate` is in the same process

    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        files = Path(folder)
        loaded, exported = export_model(files)
        sides: dict[str, Side] = {"ours": Ours(exported, loaded), "generate": Generate(exported, loaded)}
        sides |= vllm_side(arguments.vllm_python, exported, loaded, files, stack)

        def tokens_per_second(side: Side, run: int) -> float:
            numbers = list(range((run + 1) * count, (run + 2) * count))
            return count * smol.NEW_TOKENS / side.run(numbers, smol.NEW_TOKENS)[0]

        http = stack.enter_context(Http(exported))

        def over_http(run: int) -> float:
            return http.rate(list(range((run + 1) * count, (run + 2) * count)), smol.NEW_TOKENS)

        contenders: dict[str, Callable[[int], float]] = {
            name: lambda run, side=side: tokens_per_second(side, run) for name, side in sides.items()
        }
        contenders["http"] = over_http
        for contender in contenders.values():
            contender(-1)
        rates = {name: median(found) for name, found in in_turn(contenders, arguments.runs).items()}

    sample = smol.request(loaded, 0, smol.picture(0))
    needed = request_flops(loaded, sample.num_tokens, smol.NEW_TOKENS)
    peak = matmul_peak()
    for name, side in list(sides.items())[1:]:
        report(
            f"{count} picture requests, against {name}",
            round(rates["ours"], 1),
            {"name": name, "version": side.version, "value": round(rates[name], 1)},
            "new tokens/s",
            better="higher",
            runs=arguments.runs,
            prompt_tokens=sample.num_tokens,
            arithmetic_roof=round(peak * smol.NEW_TOKENS / needed, 1),
            peak_gflops=round(peak / 1e9),
        )

    report(
        f"{count} picture requests over HTTP",
        round(rates["http"], 1),
        {"name": "our engine without HTTP", "version": __version__, "value": round(rates["ours"], 1)},
        "new tokens/s",
        better="higher",
        runs=arguments.runs,
    )


if __name__ == "__main__":
    main()
