"""What goes wrong with a request, in the shape OpenAI clients read."""

from collections.abc import Mapping
from http import HTTPStatus

from llavakit.core.errors import DataError, UserError
from llavakit.engine.request import ContextError

TYPES = {
    HTTPStatus.UNAUTHORIZED: "authentication_error",
    HTTPStatus.TOO_MANY_REQUESTS: "rate_limit_error",
    HTTPStatus.INTERNAL_SERVER_ERROR: "server_error",
    HTTPStatus.SERVICE_UNAVAILABLE: "server_error",
    HTTPStatus.GATEWAY_TIMEOUT: "timeout_error",
}


class ClientGone(Exception):
    """Nobody waits for the answer any more."""


LONGEST = 400  # letters of a message: what a client sent is never sent back whole


class ApiError(UserError):
    """An answer that is an error. `param` is the field at fault, `code` a word for programs."""

    def __init__(
        self,
        message: str,
        *,
        status: int = HTTPStatus.BAD_REQUEST,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message if len(message) <= LONGEST else f"{message[:LONGEST]}...")
        self.status, self.param, self.code, self.headers = status, param, code, dict(headers or {})

    def about(self, param: str) -> "ApiError":
        """The same of a field with another name."""
        message = str(self)
        if self.param is not None and message.startswith(self.param):
            message = param + message[len(self.param) :]
        return ApiError(message, status=self.status, param=param, code=self.code, headers=self.headers)

    def body(self) -> dict[str, object]:
        """The JSON that is sent."""
        kind = TYPES.get(HTTPStatus(self.status), "invalid_request_error")
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}


def invalid_media(param: str, error: DataError) -> ApiError:
    """A picture or video that cannot be had or read; `param` says which of the request's."""
    return ApiError(f"{param}: {error}", param=param, code="invalid_media")


def too_long(error: ContextError, param: str) -> ApiError:
    """A prompt beyond the context, in OpenAI's words, which clients look for."""
    return ApiError(
        f"This model's maximum context length is {error.context} tokens. However, your {param} resulted in "
        f"{error.length} tokens. Please reduce the length of the {param}.",
        param=param, code="context_length_exceeded",
    )  # fmt: skip
