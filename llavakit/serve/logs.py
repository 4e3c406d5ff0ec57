"""The log: one JSON object a line. What people asked and were answered is not in it unless the settings say so."""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any

NAME = "llavakit.serve"


class JsonLines(logging.Formatter):
    """A record as one line of JSON: time, level, event, and the fields given with it."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
        }
        line |= record.__dict__.get("fields", {})
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def log(event: str, *, level: int = logging.INFO, **fields: Any) -> None:
    """Write one line. Fields are plain values."""
    logging.getLogger(NAME).log(level, event, extra={"fields": fields})


def log_to_stderr(*, content: bool = False) -> None:
    """Our lines and uvicorn's, all of them JSON. For the process that serves; a library leaves logging alone.

    With `content`, faults of the engine are logged whole, with what people asked.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    for name, level in ((NAME, logging.INFO), ("llavakit", logging.INFO), ("uvicorn.error", logging.WARNING)):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(level)
    logging.getLogger("llavakit.engine.fault").setLevel(logging.DEBUG if content else logging.INFO)
