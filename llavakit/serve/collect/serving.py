"""`llavakit collect`: a collection on a port until a signal comes."""

import socket
from urllib.parse import quote

from llavakit.align.collect.session import Session
from llavakit.core.errors import ConfigError
from llavakit.core.progress import say
from llavakit.serve.collect.app import create_collection
from llavakit.serve.listener import Server, app_config, place_of
from llavakit.serve.logs import log_to_stderr


def check_key(key: str) -> str:
    """The key, if browsers can send it: they put it into a header."""
    if not key.isascii() or not key.isprintable() or " " in key:
        raise ConfigError("--key must be letters, digits and signs of ASCII, without blanks")
    return key


def serve_collection(session: Session, listener: socket.socket, key: str, annotator: str | None) -> None:
    """Take votes until SIGINT or SIGTERM. `listener` is what `listen` gave."""
    log_to_stderr()
    say(f"open {place_of(listener)}/#key={quote(key, safe='')}")
    Server(app_config(create_collection(session, key, annotator))).run([listener])
