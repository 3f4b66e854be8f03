"""The driver's side of the serial line: lines that the watcher outside reads."""

from __future__ import annotations

import sys


class CheckError(Exception):
    """What a check expected did not come true; the text says what was seen instead."""


def require(truth: object, expectation: str) -> None:
    """Fail the running check with the expectation, in words, unless it came true."""
    if not truth:
        raise CheckError(expectation)


def step(text: str) -> None:
    """Tell the watcher what goes on."""
    _line("STEP", text)


def figure(name: str, value: float, unit: str) -> None:
    """Report a measurement, which is no assertion."""
    _line("FIGURE", f"{name} {value:.3f} {unit}")


def log(text: str) -> None:
    """Pass on details, line by line: a traceback, the end of a log."""
    for line in text.splitlines():
        _line("LOG", f"| {line}")


def passed(name: str, detail: str) -> None:
    """Report a check that came true, and what was seen."""
    _line("PASS", f"{name} {detail}")


def failed(name: str, reason: str) -> None:
    """Report a check that did not come true, and why, on one line."""
    _line("FAIL", f"{name} {' '.join(reason.split())}")


def verdict(passed_count: int, failed_count: int) -> None:
    """Close the run: without this line the machine counts as crashed."""
    word = "fail" if failed_count or not passed_count else "pass"
    _line("VERDICT", f"{word} {passed_count} passed {failed_count} failed")


def _line(kind: str, text: str) -> None:
    sys.stdout.write(f"LAB {kind} {text}\n")
    sys.stdout.flush()
