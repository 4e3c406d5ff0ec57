"""A body as a request. What is wrong with it costs no more than what is right: the first fault is the one told."""

import re
from collections.abc import Callable
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_core import from_json

from llavakit.core.errors import nearest
from llavakit.serve.errors import ApiError
from llavakit.serve.fields import Wire
from llavakit.serve.settings import ServeConfig

# One for each value of a JSON text, or nearly: values are behind a comma or the first of their list or object. The
# second branch takes strings whole, so that what stands in them is not counted.
VALUE = re.compile(rb'[,\[{]|"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
R = TypeVar("R", bound=Wire)
Body = bytes | bytearray
LONGEST_NAME = 64  # letters of a field that are said again


def reader(kind: type[R], check: Callable[[R, ServeConfig], None]) -> Callable[[Body, ServeConfig], R]:
    """What reads bodies of a kind and checks them."""

    def read(body: Body, settings: ServeConfig) -> R:
        request = parse(body, settings.max_json_values, kind)
        check(request, settings)
        return request

    return read


def parse(body: Body, max_values: int, kind: type[R]) -> R:
    """The request in `body`; anything else is an ApiError that names the field.

    A JSON text of more than `max_values` values is refused unread: millions of empty objects are a few megabytes.
    """
    if _has_more_values(body, max_values):
        raise ApiError(f"more than {max_values} JSON values in one body", code="too_large")
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
    if first["type"] == "json_invalid":
        raise ApiError(
            f"the body is not JSON: {first['msg'].removeprefix('Invalid JSON: ')}", code="invalid_json"
        )
    param = _path(first["loc"], from_json(body), missing=first["type"] == "missing") or None
    what = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        name = str(first["loc"][-1])
        known = kind.model_fields if len(first["loc"]) == 1 and len(name) <= LONGEST_NAME else {}
        what = "unknown or unsupported field" + (nearest(name, known) if known else "")
    raise ApiError(f"{param}: {what}" if param else what, param=param, code=first["type"])


def _has_more_values(body: Body, limit: int) -> bool:
    """Stops where there are more; text and pictures are full of commas, which are not counted."""
    if sum(map(body.count, (b",", b"[", b"{"))) <= limit:
        return False
    count = 0
    for number, match in enumerate(VALUE.finditer(body)):
        count += body[match.start()] != ord('"')
        if count > limit or number > 3 * limit:  # a value has its mark, its name and itself
            return True
    return False


def _path(location: tuple[int | str, ...], value: Any, *, missing: bool) -> str:
    """`messages[0].content` of pydantic's location, which also names the branches of unions it took.

    What is not there in `value` is such a branch, but for the last step to a `missing` field.
    """
    path = ""
    for number, step in enumerate(location, 1):
        if isinstance(value, dict) and (step in value or (missing and number == len(location))):
            name = str(step) if len(str(step)) <= LONGEST_NAME else f"{str(step)[:LONGEST_NAME]}..."
            path, value = f"{path}.{name}" if path else name, value.get(step)
        elif isinstance(value, list) and isinstance(step, int):
            path, value = f"{path}[{step}]", value[step]
    return path
