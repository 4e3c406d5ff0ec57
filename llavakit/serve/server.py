"""`llavakit serve`: a model on a port until a signal comes."""

import gc
import socket
import sys

import uvicorn

from llavakit.core.progress import say
from llavakit.serve.app import create_app
from llavakit.serve.connection import raise_descriptor_limit
from llavakit.serve.listener import LOOPBACK, Server, app_config, place_of
from llavakit.serve.logs import log_to_stderr
from llavakit.serve.service import Service

# Seconds after which a thread that holds the interpreter's lock gives it up to one that waits. The engine's thread
# lets go of it in every operation and wants it back at once: with Python's own 5 ms, a single thread that reads a
# request can make each operation of a step 5 ms longer.
LOCK_SECONDS = 0.0005


def serve(service: Service, listener: socket.socket) -> None:
    """Answer requests until SIGINT or SIGTERM. `listener` is what `listen` gave."""
    log_to_stderr(content=service.settings.log_content)
    host, port = listener.getsockname()[:2]
    if host not in LOOPBACK and not service.settings.api_keys:
        say(f"warning: whoever reaches {host}:{port} may use this server; give it an --api-key")
    say(f"serving {service.settings.model_name} on {place_of(listener)}/v1")
    say(service.engine.about)
    say(str(service.plan))
    raise_descriptor_limit()
    stop_nobody()
    Server(http_config(service)).run([listener])


def stop_nobody() -> None:
    """Keep what Python does with the interpreter's lock in its hand short, from here on in this process."""
    sys.setswitchinterval(LOCK_SECONDS)
    # What is there now stays: modules, the model, the vocabulary. Each look for garbage among all of it would stop
    # every answer.
    gc.collect()
    gc.freeze()


def http_config(service: Service) -> uvicorn.Config:
    """How uvicorn runs a model."""
    return app_config(create_app(service))
