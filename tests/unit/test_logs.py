"""Log lines: their two forms, what is kept out of them, and what happens to repetition."""

from __future__ import annotations

import io
import logging
import os
import sys
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xcpmem.errors import ConfigError
from xcpmem.logs import KeyValueFormatter, LogFormat, LogLevel, RepeatFilter, TextFormatter, configure

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(autouse=True)
def own_logging() -> Iterator[None]:
    root = logging.getLogger()
    for handler in list(root.handlers):
        root.removeHandler(handler)
    yield
    for name in ("xcpmem.xen", "xcpmem.api"):
        logging.getLogger(name).setLevel(logging.NOTSET)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def record(text: str, *args: object, level: int = logging.INFO, **fields: object) -> logging.LogRecord:
    made = logging.LogRecord("xcpmem.controller", level, __file__, 1, text, args, None)
    made.__dict__.update(fields)
    made.created, made.msecs = 1_700_000_000.25, 250.0
    return made


def test_key_value_line_carries_time_level_logger_sentence_and_fields() -> None:
    line = KeyValueFormatter().format(record("domain %d is at its target", 3, domid=3, why='range "narrow"'))
    assert line == (
        'time=2023-11-14T22:13:20.250Z level=info logger=xcpmem.controller msg="domain 3 is at its target" '
        'domid=3 why="range \\"narrow\\""'
    )


@pytest.mark.parametrize(
    ("level", "priority"),
    [(logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6), (logging.DEBUG, 7)],
)
def test_journal_line_begins_with_its_priority_and_has_no_time(level: int, priority: int) -> None:
    line = KeyValueFormatter(journal=True).format(record("hello", level=level))
    name = logging.getLevelName(level).lower()
    assert line == f"<{priority}>level={name} logger=xcpmem.controller msg=hello"


def test_text_line_carries_level_sentence_and_fields() -> None:
    line = TextFormatter().format(record("looked at the host", domains=6))
    assert line[8:] == " info    looked at the host domains=6"


@settings(deadline=None)
@given(st.text(), st.text(min_size=1))
def test_record_stays_one_printable_line_whatever_it_says(text: str, value: str) -> None:
    for formatter in (TextFormatter(), KeyValueFormatter()):
        line = formatter.format(record("%s", text, name_label=value))
        assert line.isprintable()
        assert line.encode()


def fail() -> None:
    raise RuntimeError("first\nsecond")


def test_traceback_stays_on_the_line_in_key_value_and_is_indented_in_text() -> None:
    try:
        fail()
    except RuntimeError:
        failed = record("the turn failed", level=logging.ERROR)
        failed.exc_info = sys.exc_info()
    line = KeyValueFormatter().format(failed)
    assert line.isprintable()
    assert 'traceback="Traceback (most recent call last):\\n' in line
    first, *rest = TextFormatter().format(failed).splitlines()
    assert first.endswith("the turn failed")
    assert rest[-2:] == ["    RuntimeError: first", "    second"]


def test_repetition_is_counted_instead_of_shown_when_it_passes_the_burst() -> None:
    now_s = 100.0
    repeats = RepeatFilter(burst=2, window_s=10, monotonic_s=lambda: now_s)
    lines = []
    for number in range(7):
        one = record("port %d is refused", number)
        if repeats.filter(one):
            lines.append(TextFormatter().format(one)[9:])
    now_s = 110.0
    one = record("port %d is refused", 7)
    assert repeats.filter(one)
    lines.append(TextFormatter().format(one)[9:])
    assert lines == [
        "info    port 0 is refused",
        "info    port 1 is refused (more like this within 10 s are counted, not shown)",
        "info    port 7 is refused (5 more like this were not shown)",
    ]


def test_repetition_of_one_sentence_does_not_hide_another() -> None:
    repeats = RepeatFilter(burst=1, monotonic_s=lambda: 0.0)
    assert repeats.filter(record("a"))
    assert not repeats.filter(record("a"))
    assert repeats.filter(record("b"))
    assert repeats.filter(record("a", level=logging.ERROR))


def test_debug_is_never_held_back() -> None:
    repeats = RepeatFilter(burst=1, monotonic_s=lambda: 0.0)
    assert all(repeats.filter(record("a", level=logging.DEBUG)) for _ in range(5))


def test_repetition_is_remembered_for_a_bounded_number_of_sentences() -> None:
    repeats = RepeatFilter(burst=1, capacity=2, monotonic_s=lambda: 0.0)
    assert [repeats.filter(record(text)) for text in "aabbcc"] == [True, False] * 3
    assert repeats.filter(record("a"))  # forgotten, as b and c came later
    assert len(repeats._windows) == 2


@pytest.mark.parametrize(
    ("log_format", "stream", "expected"),
    [
        (LogFormat.AUTO, Terminal(), "info    hello"),
        (LogFormat.TEXT, io.StringIO(), "info    hello"),
        (LogFormat.AUTO, io.StringIO(), "level=info logger=xcpmem.xen msg=hello"),
        (LogFormat.KV, Terminal(), "level=info logger=xcpmem.xen msg=hello"),
    ],
)
def test_format_follows_the_stream_unless_it_is_chosen(
    log_format: LogFormat, stream: io.StringIO, expected: str
) -> None:
    configure(log_format=log_format, stream=stream, environ={})
    logging.getLogger("xcpmem.xen").info("hello")
    assert expected in stream.getvalue()


def test_journal_is_recognised_by_device_and_inode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xcpmem.logs.JOURNAL_SOCKET", str(tmp_path / "no.socket"))
    with (tmp_path / "journal").open("w+", encoding="utf-8") as stream:
        status = os.fstat(stream.fileno())
        configure(stream=stream, environ={"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"})
        logging.getLogger("xcpmem.xen").warning("hello")
        configure(stream=stream, environ={"JOURNAL_STREAM": "8:1"})
        logging.getLogger("xcpmem.xen").warning("hello")
        stream.seek(0)
        journal, plain = stream.read().splitlines()
    assert journal == "<4>level=warning logger=xcpmem.xen msg=hello"
    assert plain.startswith("time=")


def shown(level: LogLevel, override: str) -> str:
    stream = io.StringIO()
    configure(level, LogFormat.TEXT, stream=stream, environ={"XCPMEM_LOG": override} if override else {})
    for name in ("xcpmem.xen", "xcpmem.api"):
        for number in (logging.DEBUG, logging.INFO, logging.WARNING):
            logging.getLogger(name).log(number, "%s", name[-3:])
    return " ".join(f"{line.split()[2]}:{line.split()[1]}" for line in stream.getvalue().splitlines())


@pytest.mark.parametrize(
    ("level", "override", "expected"),
    [
        (LogLevel.WARNING, "", "xen:warning api:warning"),
        (LogLevel.WARNING, "info", "xen:info xen:warning api:info api:warning"),
        (LogLevel.WARNING, "xcpmem.xen=info", "xen:info xen:warning api:warning"),
        (LogLevel.DEBUG, "warning, xcpmem.api=INFO", "xen:warning api:info api:warning"),
    ],
)
def test_level_is_overridden_by_the_environment(level: LogLevel, override: str, expected: str) -> None:
    assert shown(level, override) == expected


@pytest.mark.parametrize("override", ["loud", "=info", "xcpmem.xen=", "info,,debug", "xcpmem.xen=loud"])
def test_override_is_refused_when_it_cannot_be_read(override: str) -> None:
    with pytest.raises(ConfigError, match="environment: XCPMEM_LOG: expected LEVEL or NAME=LEVEL"):
        configure(stream=io.StringIO(), environ={"XCPMEM_LOG": override})


def test_second_configuration_replaces_the_first() -> None:
    first, second = io.StringIO(), io.StringIO()
    configure(stream=first, environ={})
    configure(stream=second, environ={})
    logging.getLogger("xcpmem.xen").info("hello")
    assert first.getvalue() == ""
    assert second.getvalue().count("hello") == 1
