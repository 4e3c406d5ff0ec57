"""`llavakit studio`: the editor on a port until a signal comes."""

import socket
from pathlib import Path

from llavakit.core.progress import say
from llavakit.engine.responder import Responder
from llavakit.serve.listener import LOOPBACK, Server, app_config, place_of
from llavakit.serve.logs import log_to_stderr
from llavakit.serve.pauses import shorten_pauses
from llavakit.studio.engines import Bench
from llavakit.studio.http.app import create_studio
from llavakit.studio.http.rooms import Rooms
from llavakit.studio.http.settings import StudioConfig
from llavakit.studio.http.talk import Talk
from llavakit.studio.picture import read_file


def serve_studio(
    listener: socket.socket,
    settings: StudioConfig,
    bench: Bench,
    responder: Responder | None,
    model: str,
    picture: Path | None = None,
) -> None:
    """Serve until SIGINT or SIGTERM. `listener` is what `listen` gave; `picture` is opened for who started it."""
    rooms = Rooms(settings, bench)
    place = place_of(listener)
    if picture is not None:
        place += f"/#{rooms.create(read_file(picture), picture.name).name}"
    say(f"open {place}")
    if listener.getsockname()[0] not in LOOPBACK:
        say("anybody who reaches this address may open pictures of their own; nobody sees those of others")
    log_to_stderr()  # last: a picture that cannot be read is one line, and no log has begun
    rooms.warm_up().add_done_callback(lambda _: shorten_pauses())  # what was imported for it stays, too
    Server(app_config(create_studio(rooms, Talk(responder, model, settings)))).run([listener])
