"""A tool of an outside server: what it says of itself is its word, what it gives is checked and bounded."""

import base64
import binascii
import re
from collections.abc import Callable
from typing import Any

from llavakit.agent.connection import Offer
from llavakit.agent.run import BETWEEN
from llavakit.agent.sending import send, tell
from llavakit.agent.server_config import ServerConfig
from llavakit.core.errors import DataError, printable
from llavakit.text.calls import Card, Json, ToolError
from llavakit.tools.desk import Desk
from llavakit.tools.registry import Made

MOST_PICTURES = 8  # of one result


class OutsideTool:
    """Called through its server, by `call(arguments, seconds=...)`.

    Never `read_only`: a server's hints about that are its own word.
    """

    def __init__(self, call: Callable[..., Any], server: str, offer: Offer, config: ServerConfig) -> None:
        self._call, self._config, self._schema = call, config, offer.parameters
        self._local = config.command is not None
        name = re.sub(r"[^a-zA-Z0-9_-]", "_", f"{server}{BETWEEN}{offer.name}")[:64]
        self.card = Card(
            name,
            offer.description,
            tell(offer.parameters, local=self._local) if config.pictures else offer.parameters,
            read_only=False,
            seconds=config.call_seconds,
            server=server,
        )

    def run(self, arguments: Json, desk: Desk, *, seconds: float) -> Made:
        """Call it. ToolUnavailable where its server is gone or late, ToolError for what it calls an error."""
        if self._config.pictures:
            arguments = send(arguments, self._schema, desk, local=self._local)
        result = self._call(arguments, seconds=seconds)
        size = len(result.model_dump_json())
        if size > self._config.max_result_bytes:
            raise ToolError(f"the result has {size} bytes; {self._config.max_result_bytes} are taken")
        texts = [block.text for block in result.content if block.type == "text"]
        if result.is_error:
            raise ToolError(printable("\n".join(texts))[:2000] or "the tool failed and did not say why")
        value: Json = {}
        if isinstance(result.structured_content, dict):
            value = dict(result.structured_content)
        elif texts:
            value = {"text": "\n".join(texts)}
        links = [block.uri for block in result.content if block.type == "resource_link"]
        if links:
            value["links"] = [str(link) for link in links]
        return Made(value, self._pictures(result.content, desk))

    def _pictures(self, content: list[Any], desk: Desk) -> tuple[str, ...]:
        found = [block for block in content if block.type == "image"][:MOST_PICTURES]
        names = []
        for block in found:
            try:
                data = base64.b64decode(block.data, validate=True)
                names.append(desk.add_image(data, made_by=self.card.name))
            except (binascii.Error, DataError) as error:
                raise ToolError(f"the tool gave a picture that is none: {error}") from None
        return tuple(names)

    def close(self) -> None:
        """Nothing: the servers are closed by whoever opened them."""
