"""`llavakit serve`: answer over HTTP."""

from pathlib import Path
from typing import Annotated, Any

import typer

from llavakit.cli.options import API_KEY, Kernels, Model, RopeFactor, Template, Weights, finite
from llavakit.core import config as settings
from llavakit.core.errors import ConfigError

MediaRoot = Annotated[Path | None, typer.Option(help="Let requests name files below this folder (file://).")]
AllowHttp = Annotated[
    bool, typer.Option("--allow-http", help="Fetch pictures over http:// too, not https:// alone.")
]
LogContent = Annotated[bool, typer.Option("--log-content", help="Write prompts and answers into the log.")]
BestOfCount = Annotated[
    int | None,
    typer.Option(
        min=2, help="Draw so many answers and give the one that --judge likes best (docs/judge.md)."
    ),
]
JudgeAt = Annotated[
    str | None, typer.Option(help="Who compares them: a checkpoint, run directory or hub id, or a URL.")
]
JudgeFormat = Annotated[str | None, typer.Option(help="How it is asked; as judge pairwise --format.")]
JudgeKey = Annotated[str | None, typer.Option(envvar="LLAVAKIT_JUDGE_KEY", help="Of a URL: the judge's key.")]
Expected = Annotated[
    bool, typer.Option("--expected", help="Weigh a local judge's verdicts by their probabilities.")
]
JUDGED_AT_ONCE = 8  # requests whose answers a judge behind a URL compares side by side
SEQUENCES, STEP_TOKENS = 64, 2048
MaxSequences = Annotated[
    int | None, typer.Option(min=1, help=f"Answers that are made side by side; default: {SEQUENCES}.")
]
StepTokens = Annotated[
    int | None,
    typer.Option(
        min=1,
        help=f"Tokens of a step; fewer keep streams even while long prompts come in; default: {STEP_TOKENS}.",
    ),
]
KvGigabytes = Annotated[
    float | None,
    typer.Option(min=0, callback=finite, help="Memory for keys and values, in GB (docs/engine.md)."),
]
AgentSettings = Annotated[
    list[str] | None,
    typer.Option(
        help="Run tools here: a setting as name=value, form=hermes say; may be repeated (docs/agent.md)."
    ),
]


def serve(
    model: Model,
    limits: Annotated[
        list[str] | None,
        typer.Argument(
            help="Limits as name=value, e.g. max_images=8 request_seconds=60 (see docs/serve.md)."
        ),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 is all of them.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    model_name: Annotated[
        str | None, typer.Option(help="What requests call the model; default: the directory's name.")
    ] = None,
    api_key: Annotated[
        list[str] | None,
        typer.Option(envvar=API_KEY, help="A key that clients must have one of; may be repeated."),
    ] = None,
    media_root: MediaRoot = None,
    allow_http: AllowHttp = False,
    log_content: LogContent = False,
    weights: Weights = "as_is",
    kernels: Kernels = "auto",
    max_sequences: MaxSequences = None,
    step_tokens: StepTokens = None,
    kv_gb: KvGigabytes = None,
    rope_factor: RopeFactor = None,
    template: Template = None,
    best_of: BestOfCount = None,
    judge: JudgeAt = None,
    judge_format: JudgeFormat = None,
    judge_key: JudgeKey = None,
    expected: Expected = False,
    agent: AgentSettings = None,
) -> None:
    """Answer over HTTP as OpenAI's chat completions do: llavakit serve --model runs/demo --port 8000"""
    from llavakit.align.reward_model import open_reward_model
    from llavakit.chat import load
    from llavakit.model.directory import load_card

    try:
        from llavakit.serve.listener import listen
        from llavakit.serve.server import serve as serve_model
        from llavakit.serve.service import Service
        from llavakit.serve.settings import ServeConfig
    except ImportError as error:
        raise ConfigError(f"llavakit serve needs {error.name}: pip install 'llavakit[serve]'") from None

    chosen = {
        "model_name": model_name or model.resolve().name,
        "api_keys": api_key or (),
        "media_root": media_root,
        "allow_http": allow_http,
        "log_content": log_content,
    }
    config = settings.override(settings.make(ServeConfig, chosen, where="command line"), limits or [])
    if (best_of is None) != (judge is None) or (agent and judge):
        raise ConfigError(
            "--best-of and --judge come together, and without --agent: how many, and who compares"
        )
    with listen(host, port) as listener:  # first: a port in use is known before a large model is read
        grading = load_card(model, template).grading
        if grading is not None:
            if best_of is not None or agent:
                raise ConfigError(
                    f"{model} is a reward model: it draws no answers; drop --best-of or --agent"
                )
            _refuse(model, {"max-sequences": max_sequences, "step-tokens": step_tokens, "kv-gb": kv_gb})
            scorer = open_reward_model(
                model, template_name=template, rope_factor=rope_factor, weights=weights, kernels=kernels
            )
            serve_model(Service(scorer.engine, scorer.encoder, config, grading=grading), listener)
            return
        loaded = load(
            model, template_name=template, rope_factor=rope_factor, weights=weights, kernels=kernels,
            max_sequences=max_sequences or SEQUENCES, step_tokens=step_tokens or STEP_TOKENS,
            kv_bytes=None if kv_gb is None else int(kv_gb * 1e9),
        )  # fmt: skip
        chooser = None if judge is None else _best_of(best_of or 2, judge, judge_format, judge_key, expected)
        box = _toolbox(agent) if agent else None
        serve_model(Service(loaded.engine, loaded.encoder, config, best_of=chooser, toolbox=box), listener)


def _best_of(count: int, where: str, format_name: str | None, key: str | None, expected: bool) -> Any:
    """Who chooses among the answers to a request."""
    from llavakit.cli.asked import open_judge
    from llavakit.critic.formats import choose
    from llavakit.critic.judge import Judge
    from llavakit.remote import Remote
    from llavakit.serve.best import BestOf

    form = choose(format_name, 2)  # before a model is read
    responder, _ = open_judge(where, None, None, key)
    threads = JUDGED_AT_ONCE if isinstance(responder, Remote) else 1
    return BestOf(Judge(responder, form, expected=expected), count, threads=threads)


def _toolbox(given: list[str]) -> Any:
    """What the model may call."""
    from llavakit.agent.opening import AgentConfig
    from llavakit.serve.agent import Toolbox

    return Toolbox(settings.override(AgentConfig(), given, where="--agent"))


def _refuse(model: Path, limits: dict[str, float | None]) -> None:
    """ConfigError for limits of answers: a reward model gives none, and scores one conversation at a time."""
    given = [f"--{name}={value:g}" for name, value in limits.items() if value is not None]
    if given:
        raise ConfigError(
            f"{given[0]}: {model} is a reward model, which makes no answers to be limited; drop it"
        )
