"""New weights for a server that runs, out of a directory: how a training run's samplers get what it has learned.

The routes are two of vLLM's, in its words, and are there only with `reload_root`: whoever can reach them chooses
the weights, but only among directories below that folder, of the model that is served.
"""

import asyncio
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import FastAPI
from pydantic import Field
from starlette.requests import Request

from llavakit.core.errors import UserError
from llavakit.model.formats.weights import read_all
from llavakit.model.opening import open_model
from llavakit.serve.body import read_json
from llavakit.serve.budget import MemoryShare
from llavakit.serve.errors import ApiError
from llavakit.serve.fields import Wire, only
from llavakit.serve.parse import parse
from llavakit.serve.service import Service
from llavakit.wire import CONTROL, FORGET


class WeightsPath(Wire):
    weights_path: Annotated[str, Field(max_length=4096)]


class ControlRequest(Wire):
    """The body of POST /collective_rpc."""

    method: Literal["reload_weights"]
    kwargs: WeightsPath
    args: Annotated[list[Any] | None, only([])] = None
    timeout: Annotated[float | None, Field(gt=0)] = None  # the request's own limits hold


def add_reload(app: FastAPI, service: Service, root: Path) -> None:
    """Add the routes."""
    settings, whole = service.settings, root.resolve()

    def load(folder: Path) -> None:
        """Between two steps; answers that run go on with the new weights from the beginning of their prompts."""
        try:
            tensors = read_all(open_model(folder, None).weights)
            service.worker.run(partial(service.engine.refresh, tensors))
        except (UserError, OSError) as error:
            raise ApiError(str(error), param="kwargs.weights_path") from None

    async def reload_weights(request: Request) -> dict[str, list[None]]:
        with closing(MemoryShare(service.memory)) as share:
            body = await read_json(request, settings, share)
        asked = parse(body, settings.max_json_values, ControlRequest)
        folder = Path(asked.kwargs.weights_path).resolve()
        if not folder.is_relative_to(whole):
            raise ApiError(
                f"weights are loaded from below {root} alone",
                status=403,
                param="kwargs.weights_path",
                code="forbidden",
            )
        await asyncio.to_thread(load, folder)
        return {"results": [None]}

    async def forget() -> dict[str, bool]:
        """Nothing is left to be forgotten: new weights are a new beginning."""
        return {"success": True}

    app.add_api_route(CONTROL, reload_weights, methods=["POST"])
    for path in FORGET:
        app.add_api_route(path, forget, methods=["POST"])
