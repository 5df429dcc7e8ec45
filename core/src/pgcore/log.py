"""Logging of the agent: plain or JSON lines on stderr or in a rotating file (config 2.2)."""

from __future__ import annotations

import json
import logging
import logging.handlers
import os
import sys
from collections.abc import Mapping, Sequence
from io import TextIOWrapper

from pgcore.model.basics import Json

PLAIN_FORMAT = "%(asctime)s %(levelname)s: %(message)s"
DECISION_FIELDS = ("rule", "because", "took_ms")


class PlainFormatter(logging.Formatter):
    """A line a record. Further lines of a message are indented: a name with a line break cannot pass for a record."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        """The line; control characters and halves of characters as escapes. A traceback follows as it is."""
        text = super().formatMessage(record).encode("utf-8", "backslashreplace").decode()
        return text.translate(_ESCAPES).replace("\n", "\n  ")


_ESCAPES = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\t\n"}


class JsonFormatter(logging.Formatter):
    """One JSON object a line: the chosen fields of the record, the fields of a decision, and the static ones."""

    def __init__(
        self, fields: Sequence[Json] = (), static: Mapping[str, Json] | None = None, dateformat: str | None = None
    ) -> None:
        super().__init__(datefmt=dateformat)
        self._fields = fields or ("asctime", "levelname", "message")
        self._static = dict(static or {})

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        record.message = record.getMessage()
        record.asctime = self.formatTime(record, self.datefmt)
        line: dict[str, Json] = {}
        for field in self._fields:
            name, shown = next(iter(field.items())) if isinstance(field, Mapping) else (field, field)
            line[str(shown)] = getattr(record, str(name), None)
        line |= {name: getattr(record, name) for name in DECISION_FIELDS if hasattr(record, name)} | self._static
        if record.exc_info:
            line["exc_info"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class _TracebackFilter(logging.Filter):
    """With ``traceback_level: DEBUG`` a traceback appears only when the level is DEBUG; otherwise one line with the exception."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.exc_info and not logging.getLogger().isEnabledFor(logging.DEBUG):
            record.msg = f"{record.getMessage()}, DETAIL: '{record.exc_info[1]}'"
            record.args, record.exc_info = (), None
        return True


class _RotatingFile(logging.handlers.RotatingFileHandler):
    """Every file, also the one after a rotation, gets the configured permissions."""

    def __init__(self, path: str, size: int, count: int, mode: int | None) -> None:
        self._permissions = mode
        super().__init__(path, maxBytes=size, backupCount=count)

    def _open(self) -> TextIOWrapper:
        stream = super()._open()
        if self._permissions is not None:
            os.chmod(self.baseFilename, self._permissions)
        return stream


_named: set[str] = set()
"""Loggers given a level by the configuration; those no longer named inherit again (config 2.2)."""


def configure(
    *,
    kind: str = "plain",
    level: str = "INFO",
    traceback_level: str = "ERROR",
    format_: Json = None,
    dateformat: str | None = None,
    static_fields: Mapping[str, Json] | None = None,
    directory: str | None = None,
    file_num: int = 4,
    file_size: int = 25_000_000,
    mode: int | None = None,
    loggers: Mapping[str, str] | None = None,
) -> None:
    """Put the ``log`` section in force; may be called again after a reload. OSError when the file cannot be opened."""
    handler: logging.Handler
    if directory:
        path = os.path.join(directory, "patroni.log")
        handler = _RotatingFile(path, file_size, file_num, mode)
    else:
        handler = logging.StreamHandler(sys.stderr)
    if kind == "json":
        fields = format_ if isinstance(format_, (list, tuple)) else ()
        handler.setFormatter(JsonFormatter(fields, static_fields, dateformat))
    else:
        handler.setFormatter(PlainFormatter(format_ if isinstance(format_, str) else PLAIN_FORMAT, dateformat))
    if traceback_level.upper() == "DEBUG":
        handler.addFilter(_TracebackFilter())
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
        old.close()
    root.addHandler(handler)
    root.setLevel(level)
    for name in _named - set(loggers or {}):
        logging.getLogger(name).setLevel(logging.NOTSET)
    _named.clear()
    for name, wanted in (loggers or {}).items():
        logging.getLogger(name).setLevel(wanted)
        _named.add(name)
