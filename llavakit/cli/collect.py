"""`llavakit collect`: ask people which of two answers is better."""

import secrets
from pathlib import Path
from typing import Annotated, Literal

import typer

from llavakit.cli.options import Images, Unread
from llavakit.core.errors import ConfigError

KEY = "LLAVAKIT_COLLECT_KEY"


def collect(
    files: Annotated[
        list[Path] | None,
        typer.Argument(help="Pairs of answers in any dialect, or rollouts; judged already or not."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="The file of votes, NAME.votes; one that is there is continued.")
    ] = None,
    report: Annotated[
        Path | None, typer.Option(help="Instead: what a file of votes came to, NAME.votes.")
    ] = None,
    annotator: Annotated[
        str | None,
        typer.Option(help="Who judges; default: the page asks, and any number of people may come."),
    ] = None,
    gold: Annotated[
        list[Path] | None,
        typer.Option(help="Pairs of which it is known what is right, mixed in unseen; may be repeated."),
    ] = None,
    gold_every: Annotated[
        int, typer.Option(min=2, help="One pair of so many is a gold item, as long as there are any.")
    ] = 10,
    votes: Annotated[
        int, typer.Option(min=0, help="How many people judge a pair; 0: everybody judges all.")
    ] = 0,
    ask: Annotated[
        Literal["tie", "both"],
        typer.Option(help="When to ask which answer is more helpful: after a tie, or always."),
    ] = "tie",
    images: Images = None,
    unread: Unread = None,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 is all of them.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8010,
    key: Annotated[
        str | None,
        typer.Option(envvar=KEY, help="The key in the page's address; default: a new one each time."),
    ] = None,
) -> None:
    """Ask people, in the browser, which of two answers is less hallucinated, and then which is more helpful."""
    if report is not None:
        if files or out is not None:
            raise ConfigError("--report FILE.votes stands alone: it reads votes and asks nobody")
        from llavakit.align.collect.run import show_report

        show_report(report)
        return
    if not files or out is None:
        raise ConfigError("give files of pairs and --out NAME.votes; or --report NAME.votes")
    from llavakit.align.collect.run import open_session
    from llavakit.align.collect.session import Rules

    try:
        from llavakit.serve.collect.serving import check_key, serve_collection
        from llavakit.serve.listener import listen
    except ImportError as error:
        raise ConfigError(f"llavakit collect needs {error.name}: pip install 'llavakit[serve]'") from None

    key = check_key(key or secrets.token_urlsafe(16))
    rules = Rules(votes=votes, gold_every=gold_every, always_ask_both=ask == "both")
    with (
        listen(host, port) as listener,
        open_session(
            files, out, gold or [], rules, images=images, unread=unread or [], annotator=annotator
        ) as session,
    ):
        serve_collection(session, listener, key, annotator)
