"""Our pictures on their way to outside tools: where a schema asks for one, its name becomes what the schema wants.

The rule. Only to a server with `pictures: true`. An argument (or an item of a list) that is the name of a picture
on the desk is replaced where its schema is a text that wants a picture:

- `contentEncoding: base64`, `contentMediaType: image/...`, `format: byte`, or a name with `base64`: the PNG in
  base64;
- `format: uri` or `data-url`, or a name that ends with `url` or `uri`: the PNG as a data URL;
- `format: path` or `file-path`, or a name that ends with `path` or `file`, of a program here: the path of the PNG;
- a name such as `image` or `picture` without more: the PNG in base64.

Everything else is sent as the model wrote it.
"""

import base64
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from llavakit.core.errors import DataError
from llavakit.text.calls import Json, ToolError
from llavakit.tools.desk import Desk
from llavakit.vision.data_url import encode_data_url

IMAGE_NAME = re.compile(r"(^|_)(image|images|img|picture|pictures|photo|photos)(_data|_bytes)?$")
WORDS = "The name of a picture here, such as img_1."

Write = Callable[[Path], str]


def write_base64(path: Path) -> str:
    """The file's bytes."""
    return base64.b64encode(path.read_bytes()).decode("ascii")


def write_url(path: Path) -> str:
    """The file as a data URL."""
    return encode_data_url(path.read_bytes(), "image/png")


def wanted(name: str, schema: Any, *, local: bool) -> Write | None:
    """How an argument of this name and schema takes a picture; None: it does not. `local`: a program here."""
    if not isinstance(schema, Mapping):
        return None
    if schema.get("type") == "array":
        return wanted(name, schema.get("items"), local=local)
    kinds = schema.get("type", "string")
    if "string" not in (kinds if isinstance(kinds, list) else [kinds]) or "enum" in schema:
        return None
    form, low = str(schema.get("format", "")), name.lower()
    picture = str(schema.get("contentMediaType", "")).startswith("image/")
    if picture or schema.get("contentEncoding") == "base64" or form == "byte" or "base64" in low:
        return write_base64
    if form in ("uri", "data-url") or low.endswith(("url", "uri")):
        return write_url
    if form in ("path", "file-path") or low.endswith(("path", "file")):
        return str if local else None
    return write_base64 if IMAGE_NAME.search(low) else None


def tell(schema: Json, *, local: bool) -> Json:
    """The schema as the model is told it: what takes a picture takes the name of one."""
    own = schema.get("properties")
    if not isinstance(own, Mapping):
        return schema
    return schema | {"properties": {name: _told(name, one, local=local) for name, one in own.items()}}


def _told(name: str, schema: Any, *, local: bool) -> Any:
    if wanted(name, schema, local=local) is None:
        return schema
    plain = {key: value for key, value in schema.items() if not key.startswith("content") and key != "format"}
    said = str(plain.get("description", ""))
    return plain | {"description": f"{said} {WORDS}".strip()}


def send(arguments: Json, schema: Json, desk: Desk, *, local: bool) -> Json:
    """The arguments with pictures in the place of their names. ToolError for a picture that cannot be read."""
    own = schema.get("properties")
    if not isinstance(own, Mapping):
        return arguments
    found = {}
    for name, value in arguments.items():
        write = wanted(name, own.get(name), local=local)
        found[name] = value if write is None else _sent(value, desk, write)
    return found


def _sent(value: Any, desk: Desk, write: Write) -> Any:
    if isinstance(value, list):
        return [_sent(one, desk, write) for one in value]
    if not isinstance(value, str) or value not in desk.pictures():
        return value
    try:
        return write(desk.find(value).path)
    except (OSError, DataError) as error:
        raise ToolError(f"{value} cannot be sent: {error}") from None
