"""`llavakit serve`: a model on a port until a signal comes."""

import socket

import uvicorn

from llavakit.core.progress import say
from llavakit.serve.app import create_app
from llavakit.serve.listener import LOOPBACK, Server, app_config, place_of
from llavakit.serve.logs import log_to_stderr
from llavakit.serve.service import Service


def serve(service: Service, listener: socket.socket) -> None:
    """Answer requests until SIGINT or SIGTERM. `listener` is what `listen` gave."""
    log_to_stderr(content=service.settings.log_content)
    host, port = listener.getsockname()[:2]
    if host not in LOOPBACK and not service.settings.api_keys:
        say(f"warning: whoever reaches {host}:{port} may use this server; give it an --api-key")
    say(f"serving {service.settings.model_name} on {place_of(listener)}/v1")
    say(service.engine.about)
    say(str(service.plan))
    Server(http_config(service)).run([listener])


def http_config(service: Service) -> uvicorn.Config:
    """How uvicorn runs a model."""
    return app_config(create_app(service))
