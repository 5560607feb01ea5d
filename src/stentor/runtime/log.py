"""Logs in upstream's form: one line an event, ``time=… level=info msg="…" key=value``, to standard error."""

from __future__ import annotations

import logging
import sys
import time
from typing import Final

_STANDARD: Final = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}


class LineFormatter(logging.Formatter):
    """A record as ``key=value`` pairs (logfmt); whatever ``extra=`` held follows the message."""

    def format(self, record: logging.LogRecord) -> str:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        fields: dict[str, object] = {
            "time": f"{stamp}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "msg": record.getMessage(),
            "subsys": record.name.removeprefix("stentor."),
        }
        fields.update((key, value) for key, value in record.__dict__.items() if key not in _STANDARD)
        if record.exc_info and record.exc_info[1] is not None:
            fields["error"] = f"{record.exc_info[0].__name__ if record.exc_info[0] else ''}: {record.exc_info[1]}"
        line = " ".join(f"{key}={_quote(str(value))}" for key, value in fields.items())
        if record.exc_info and record.levelno >= logging.ERROR:
            line += "\n" + self.formatException(record.exc_info)
        return line


def _quote(text: str) -> str:
    if text and not any(c in text for c in ' "=\n\t'):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'


def set_up(*, debug: bool = False) -> None:
    """Send all loggers to standard error in this form; a repeated call replaces the earlier one."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LineFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.DEBUG if debug else logging.INFO)
    # aiohttp's access lines are metrics' business.
    logging.getLogger("aiohttp.access").setLevel(logging.WARNING)
    logging.getLogger("asyncio").setLevel(logging.WARNING)
