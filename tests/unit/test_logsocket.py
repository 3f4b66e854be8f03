"""Records that go to the journal or to syslog: every field arrives, and nothing is lost on the way."""

from __future__ import annotations

import logging
import socket
import sys
from io import StringIO
from typing import TYPE_CHECKING

import pytest

from xcpmem.logs import LogFormat, LogLevel, LogTarget, configure
from xcpmem.logsocket import LARGEST, journal_entry

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LOG = logging.getLogger("xcpmem.chronicle")


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    for handler in list(root.handlers):
        if handler not in handlers:
            root.removeHandler(handler)
            handler.close()
    for handler in handlers:
        root.addHandler(handler)
    root.setLevel(level)
    logging.captureWarnings(capture=False)


class Listener:
    """The system's end of a socket.

    Args:
        path: where it is bound.
    """

    def __init__(self, path: Path) -> None:
        path.unlink(missing_ok=True)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.settimeout(10)

    def hear(self) -> bytes:
        return self._socket.recv(LARGEST + 1)

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("xcpmem.logs.JOURNAL_SOCKET", str(tmp_path / "socket"))
    monkeypatch.setattr("xcpmem.logs.SYSLOG_SOCKET", str(tmp_path / "socket"))
    return tmp_path / "socket"


@pytest.fixture
def listener(path: Path) -> Iterator[Listener]:
    opened = Listener(path)
    yield opened
    opened.close()


def fields_of(entry: bytes) -> dict[str, str]:
    """Read an entry as journald does."""
    found = {}
    while entry:
        name, mark, rest = entry.partition(b"\n")
        if b"=" in name:
            key, _, value = name.partition(b"=")
            found[key.decode()] = value.decode()
            entry = rest
        else:
            assert mark
            length = int.from_bytes(rest[:8], "little")
            found[name.decode()] = rest[8 : 8 + length].decode()
            entry = rest[9 + length :]
    return found


def start(target: LogTarget) -> StringIO:
    stream = StringIO()
    configure(LogLevel.INFO, LogFormat.KV, target, stream=stream, environ={})
    return stream


def test_journal_gets_sentence_priority_and_figures_as_fields(listener: Listener) -> None:
    stream = start(LogTarget.JOURNALD)
    LOG.warning("%s does not give back", "web", extra={"vm": "u-1", "goal_kib": 7, "odd key": "x\ny"})
    assert fields_of(listener.hear()) == {
        "MESSAGE": "web does not give back",
        "PRIORITY": "4",
        "SYSLOG_IDENTIFIER": "xcpmemd",
        "XCPMEM_LOGGER": "xcpmem.chronicle",
        "XCPMEM_VM": "u-1",
        "XCPMEM_GOAL_KIB": "7",
        "XCPMEM_ODD_KEY": "x\ny",
    }
    assert stream.getvalue() == ""


def test_journal_gets_a_traceback_below_the_sentence(listener: Listener) -> None:
    start(LogTarget.JOURNALD)
    try:
        int("of all things")
    except ValueError:
        LOG.exception("it failed")
    message = fields_of(listener.hear())["MESSAGE"]
    assert message.startswith("it failed\nTraceback")
    assert "ValueError: invalid literal" in message


def test_syslog_gets_one_line_with_facility_and_program(listener: Listener) -> None:
    start(LogTarget.SYSLOG)
    LOG.error("a person is needed", extra={"vm": "u-1"})
    line = listener.hear().decode()
    assert line.startswith("<27>")
    assert line.endswith(": a person is needed vm=u-1")
    assert " xcpmemd[" in line
    assert "\n" not in line


@pytest.mark.parametrize("target", [LogTarget.JOURNALD, LogTarget.SYSLOG])
def test_what_the_socket_does_not_take_goes_to_standard_error(target: LogTarget, path: Path) -> None:
    stream = start(target)
    LOG.warning("nobody listens")
    assert 'msg="nobody listens"' in stream.getvalue()
    listener = Listener(path)
    LOG.warning("now somebody does")
    assert b"now somebody does" in listener.hear()
    listener.close()
    LOG.warning("gone again")
    assert 'msg="gone again"' in stream.getvalue()
    again = Listener(path)
    LOG.warning("and back")
    assert b"and back" in again.hear()
    again.close()


def test_full_socket_holds_nobody_up(listener: Listener) -> None:
    stream = start(LogTarget.JOURNALD)
    for number in range(2000):
        LOG.warning(f"line {number} {'x' * 2000}")  # noqa: G004 each its own sentence, which none holds back
    assert "line " in stream.getvalue()


def test_level_and_repetition_count_here_as_well(listener: Listener) -> None:
    start(LogTarget.JOURNALD)
    LOG.info("shown")
    LOG.debug("not shown")
    assert fields_of(listener.hear())["MESSAGE"] == "shown"
    messages = []
    for turn in range(25):
        LOG.info("again")
        if turn < 20:
            messages.append(fields_of(listener.hear())["MESSAGE"])
    assert messages[0] == "again"
    assert messages[-1] == "again (more like this within 10 s are counted, not shown)"


def test_entry_that_is_too_long_is_cut() -> None:
    entry = journal_entry({"MESSAGE": "x" * 2 * LARGEST, "PRIORITY": "6"})
    assert len(entry) <= LARGEST
    assert entry.startswith(b"MESSAGE=xxx")


def test_record_that_cannot_be_written_ends_nothing(
    listener: Listener, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    start(LogTarget.JOURNALD)
    monkeypatch.setattr(logging, "raiseExceptions", True)
    LOG.info("%d figures", "no")
    assert "Logging error" in capsys.readouterr().err
    assert sys.exc_info() == (None, None, None)
