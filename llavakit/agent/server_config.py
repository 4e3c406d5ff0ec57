"""Outside servers of tools as a file names them, in the form that other programs read too."""

from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, SecretStr, field_validator, model_validator

from llavakit.agent.budget import Seconds
from llavakit.core import config as settings
from llavakit.core.config import Config


class ServerConfig(Config):
    """One server: a `command` to start (stdio) or a `url` (streamable HTTP)."""

    command: str | None = None
    args: tuple[str, ...] = ()
    env: dict[str, SecretStr] = Field(default={})  # beside the few variables that every program needs
    cwd: Path | None = None
    url: str | None = None
    headers: dict[str, SecretStr] = Field(default={})  # of every request to `url`, as Authorization
    type: str | None = None  # other programs write it; command or url say the same
    tools: tuple[str, ...] | None = None  # only these of its tools
    start_seconds: Seconds = 20.0
    call_seconds: Seconds = 60.0
    ping_seconds: Seconds | None = 20.0  # it is asked so often whether it lives; null: never
    pictures: bool = False  # ours may go to it, where a call names one (docs/agent.md)
    max_result_bytes: Annotated[int, Field(ge=1)] = 20 * 2**20

    @model_validator(mode="after")
    def _is_one_kind(self) -> Self:
        if (self.command is None) == (self.url is None):
            raise ValueError("give either command (a program) or url (a server)")
        if self.url is not None and not self.url.startswith(("http://", "https://")):
            raise ValueError("url must begin with http:// or https://")
        if self.headers and self.url is None:
            raise ValueError("headers are for a url; a program has env")
        return self


class ServersConfig(Config):
    """A file as other programs have it: {"mcpServers": {"name": {"command": ..., "args": [...]}}}."""

    mcpServers: dict[str, ServerConfig]  # the name that all programs use

    @field_validator("mcpServers")
    @classmethod
    def _are_named(cls, servers: dict[str, ServerConfig]) -> dict[str, ServerConfig]:
        for name in servers:
            if not name.replace("-", "").replace("_", "").isalnum() or not name.isascii() or len(name) > 24:
                raise ValueError(f"server {name!r}: a name is up to 24 letters, digits, - and _")
        return servers


def load_servers(path: Path) -> ServersConfig:
    """A JSON or YAML file of servers. ConfigError for what is none."""
    return settings.load(ServersConfig, path)
