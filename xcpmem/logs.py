"""Logging, configured here and nowhere else: one sentence per line, on standard error.

A terminal gets text, everything else ``key=value``. Where standard error ends in the journal, or where it is
asked for, records go to the journal's own socket with their figures as fields (``journalctl XCPMEM_VM=...``),
or to syslog's. A sentence that repeats is shown a few times, then counted. Fields given with ``extra=``
follow the sentence as ``key=value``.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections import OrderedDict
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final, TextIO

from xcpmem.errors import ConfigError
from xcpmem.logsocket import JOURNAL_SOCKET, LARGEST, SYSLOG_SOCKET, SocketHandler, journal_entry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping


class LogLevel(StrEnum):
    """The severities that can be asked for."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class LogFormat(StrEnum):
    """How a line looks; ``auto`` is text on a terminal, ``kv`` elsewhere."""

    AUTO = "auto"
    TEXT = "text"
    KV = "kv"


class LogTarget(StrEnum):
    """Where records go; ``auto`` is the journal if standard error ends there, else standard error."""

    AUTO = "auto"
    STDERR = "stderr"
    JOURNALD = "journald"
    SYSLOG = "syslog"


# Priorities of syslog(3), which journald reads from the start of a line (sd-daemon(3)).
_PRIORITIES: Final = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))
_DEBUG_PRIORITY: Final = 7
_OWN_ATTRIBUTES: Final = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}
_REMARK: Final = "repetition"
_IDENTIFIER: Final = "xcpmemd"
_FACILITY: Final = 3 << 3  # daemon, of syslog(3)


def _escape(text: str) -> str:
    """Keep a line a line: control characters, line breaks and lone surrogates are shown as escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def _quote(value: object) -> str:
    text = _escape(str(value).replace("\\", "\\\\").replace('"', '\\"'))
    return f'"{text}"' if not text or any(c in text for c in ' ="\\') else text


def _fields(record: logging.LogRecord) -> Iterator[str]:
    for key, value in _own_fields(record).items():
        yield f"{key}={_quote(value)}"


def _own_fields(record: logging.LogRecord) -> dict[str, object]:
    known = _OWN_ATTRIBUTES | {_REMARK}
    return {key: value for key, value in record.__dict__.items() if key not in known}


def _whole_text(record: logging.LogRecord) -> str:
    """The sentence, what the filter remarks, and a traceback below."""
    remark = getattr(record, _REMARK, "")
    text = _escape(record.getMessage()) + (f" ({remark})" if remark else "")
    return f"{text}\n{logging.Formatter().formatException(record.exc_info)}" if record.exc_info else text


def _to_journal(record: logging.LogRecord) -> bytes:
    fields = {
        "MESSAGE": _whole_text(record),
        "PRIORITY": str(_priority(record.levelno)),
        "SYSLOG_IDENTIFIER": _IDENTIFIER,
        "XCPMEM_LOGGER": record.name,
    }
    for key, value in _own_fields(record).items():
        name = "".join(letter if letter.isascii() and letter.isalnum() else "_" for letter in key.upper())
        fields[f"XCPMEM_{name}"] = str(value)
    return journal_entry(fields)


def _to_syslog(record: logging.LogRecord) -> bytes:
    """Write a line as syslog(3) does: facility daemon, local time."""
    clock = time.strftime("%b %e %H:%M:%S", time.localtime(record.created))
    text = " ".join([_whole_text(record).replace("\n", " | "), *_fields(record)])
    line = f"<{_FACILITY + _priority(record.levelno)}>{clock} {_IDENTIFIER}[{os.getpid()}]: {text}"
    return line.encode("utf-8", "backslashreplace")[:LARGEST]


def _priority(level: int) -> int:
    return next((priority for least, priority in _PRIORITIES if level >= least), _DEBUG_PRIORITY)


class TextFormatter(logging.Formatter):
    """Lines for people: time, severity, sentence; a traceback follows on lines of its own."""

    def format(self, record: logging.LogRecord) -> str:
        """Write one record."""
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        parts = [clock, f"{record.levelname.lower():<7}", _escape(record.getMessage()), *_fields(record)]
        if remark := getattr(record, _REMARK, ""):
            parts.append(f"({remark})")
        line = " ".join(parts)
        if record.exc_info:
            trace = self.formatException(record.exc_info).splitlines()
            line += "".join(f"\n    {_escape(row)}" for row in trace)
        return line


class KeyValueFormatter(logging.Formatter):
    """Lines for programs: ``time= level= logger= msg=`` and the record's own fields.

    Args:
        journal: write for journald: priority first, no time.
    """

    def __init__(self, *, journal: bool = False) -> None:
        super().__init__()
        self._journal = journal

    def format(self, record: logging.LogRecord) -> str:
        """Write one record, a traceback included, as one line."""
        if self._journal:
            parts = [f"<{_priority(record.levelno)}>level={record.levelname.lower()}"]
        else:
            clock = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
            parts = [f"time={clock}.{int(record.msecs):03d}Z", f"level={record.levelname.lower()}"]
        parts += [f"logger={record.name}", f"msg={_quote(record.getMessage())}", *_fields(record)]
        if remark := getattr(record, _REMARK, ""):
            parts.append(f"repetition={_quote(remark)}")
        if record.exc_info:
            parts.append(f"traceback={_quote(self.formatException(record.exc_info))}")
        return " ".join(parts)


@dataclass(slots=True)
class _Window:
    started_s: float
    shown: int = 0
    hidden: int = 0


class RepeatFilter(logging.Filter):
    """Lets a sentence through ``burst`` times per window, counts the rest and says so.

    Two records are the same sentence if logger, severity and text before its arguments agree: a fault that
    repeats with another port or domid each time is still one fault. Debug is never held back.

    Args:
        burst: at least 1.
        window_s: seconds.
        capacity: sentences remembered; the one unseen for longest is forgotten first.
        monotonic_s: the clock, seconds.
    """

    def __init__(
        self,
        *,
        burst: int = 20,
        window_s: float = 10.0,
        capacity: int = 256,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__()
        self._burst = burst
        self._window_s = window_s
        self._capacity = capacity
        self._monotonic_s = monotonic_s
        self._windows: OrderedDict[tuple[str, int, str], _Window] = OrderedDict()

    def filter(self, record: logging.LogRecord) -> bool:
        """Decide whether a record is shown, and add a remark where something was or will be hidden."""
        if record.levelno <= logging.DEBUG:
            return True
        now_s = self._monotonic_s()
        key = (record.name, record.levelno, str(record.msg))
        window = self._windows.pop(key, None)
        remark = ""
        if window is None or now_s - window.started_s >= self._window_s:
            if window is not None and window.hidden:
                remark = f"{window.hidden} more like this were not shown"
            window = _Window(now_s)
        self._windows[key] = window
        if len(self._windows) > self._capacity:
            self._windows.popitem(last=False)
        if window.shown == self._burst:
            window.hidden += 1
            return False
        window.shown += 1
        if window.shown == self._burst:
            remark = f"more like this within {self._window_s:g} s are counted, not shown"
        if remark:
            record.__dict__[_REMARK] = remark
        return True


def _is_journal(stream: TextIO, environ: Mapping[str, str]) -> bool:
    """Tell whether the stream ends in the journal, as systemd.exec(5) says to: by device and inode."""
    told = environ.get("JOURNAL_STREAM", "")
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):  # a stream without a descriptor
        return False
    return told == f"{status.st_dev}:{status.st_ino}"


def _parse_override(text: str) -> dict[str, int]:
    """Read ``XCPMEM_LOG``: ``debug``, or ``info,xcpmem.xen=debug``; the empty name is the root."""
    levels: dict[str, int] = {}
    for part in text.split(","):
        name, equals, level = part.strip().rpartition("=")
        if level.lower() not in set(LogLevel) or bool(equals) != bool(name):
            raise ConfigError(
                "environment",
                "XCPMEM_LOG",
                f"expected LEVEL or NAME=LEVEL, comma between, of {', '.join(LogLevel)}, got {part!r}",
            )
        levels[name] = logging.getLevelNamesMapping()[level.upper()]
    return levels


def configure(
    level: LogLevel = LogLevel.INFO,
    log_format: LogFormat = LogFormat.AUTO,
    log_to: LogTarget = LogTarget.AUTO,
    *,
    stream: TextIO | None = None,
    environ: Mapping[str, str] | None = None,
) -> None:
    """Set the process's logging up; a second call replaces the first.

    Args:
        level: least severity shown; ``XCPMEM_LOG`` overrides it.
        log_format: how lines look on standard error.
        log_to: where records go; what a socket does not take goes to standard error.
        stream: used as standard error; the real one if None.
        environ: where ``XCPMEM_LOG`` and ``JOURNAL_STREAM`` are looked up; the process's own if None.

    Raises:
        ConfigError: ``XCPMEM_LOG`` cannot be read.
    """
    stream = sys.stderr if stream is None else stream
    environ = os.environ if environ is None else environ
    levels = {"": logging.getLevelNamesMapping()[level.upper()]}
    if override := environ.get("XCPMEM_LOG", ""):
        levels |= _parse_override(override)
    as_text = log_format is LogFormat.TEXT or (log_format is LogFormat.AUTO and stream.isatty())
    in_journal = _is_journal(stream, environ)
    lines = logging.StreamHandler(stream)
    lines.setFormatter(TextFormatter() if as_text else KeyValueFormatter(journal=in_journal))
    handler: logging.Handler = lines
    if log_to is LogTarget.JOURNALD or (log_to is LogTarget.AUTO and in_journal):
        handler = SocketHandler(JOURNAL_SOCKET, _to_journal, lines)
    elif log_to is LogTarget.SYSLOG:
        handler = SocketHandler(SYSLOG_SOCKET, _to_syslog, lines)
    handler.addFilter(RepeatFilter())
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
        old.close()
    root.addHandler(handler)
    for name, number in levels.items():
        logging.getLogger(name or None).setLevel(number)
    logging.captureWarnings(capture=True)
