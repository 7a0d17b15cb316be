"""Logging: one event a line on stderr, as JSON for machines and as text for a terminal.

The message is constant, the data stands in fields: `log.info("restored", pod=..., seconds=...)`.
Environment contents and secrets are never logged.
"""

from __future__ import annotations

import contextlib
import json
import logging
import sys
import time
from collections.abc import Iterator, MutableMapping

LEVELS = ("debug", "info", "warning", "error")
_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime"}


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, severity, logger, event, then the fields."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
            + f".{int(record.msecs):03d}Z",
            "severity": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
        }
        line.update({k: v for k, v in record.__dict__.items() if k not in _STANDARD})
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class TextFormatter(logging.Formatter):
    """`12:00:01 info event key=value` for a person at a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        fields = " ".join(f"{k}={v}" for k, v in record.__dict__.items() if k not in _STANDARD)
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        text = f"{clock} {record.levelname.lower():7} {record.getMessage()} {fields}".rstrip()
        return f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text


class Logger(logging.LoggerAdapter[logging.Logger]):
    """Takes fields as keyword arguments."""

    def process(
        self, msg: object, kwargs: MutableMapping[str, object]
    ) -> tuple[object, MutableMapping[str, object]]:
        passed = {k: kwargs.pop(k) for k in ("exc_info", "stack_info", "stacklevel") if k in kwargs}
        # logging raises on names that its records have already; a line must never fail.
        mine = {f"{k}_" if k in _STANDARD else k: v for k, v in kwargs.items()}
        fields = {**(self.extra or {}), **mine}
        kwargs.clear()
        return msg, {**passed, "extra": fields}

    def bind(self, **fields: object) -> Logger:
        """A logger that adds these fields to every line."""
        return Logger(self.logger, {**(self.extra or {}), **fields})

    @contextlib.contextmanager
    def step(self, name: str, seconds: dict[str, float] | None = None) -> Iterator[None]:
        """Time a step; the elapsed time goes to the log and into `seconds[name]`."""
        start = time.monotonic()
        self.debug("step started", step=name)
        try:
            yield
        finally:
            elapsed = time.monotonic() - start
            if seconds is not None:
                seconds[name] = round(seconds.get(name, 0.0) + elapsed, 6)
            self.debug("step ended", step=name, elapsed_seconds=round(elapsed, 6))


def get(name: str) -> Logger:
    """The logger of a module."""
    return Logger(logging.getLogger(name), {})


def setup(level: str = "info", *, json_lines: bool | None = None) -> None:
    """Send all logging to stderr; JSON unless stderr is a terminal."""
    handler = logging.StreamHandler(sys.stderr)
    as_json = not sys.stderr.isatty() if json_lines is None else json_lines
    handler.setFormatter(JsonFormatter() if as_json else TextFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
