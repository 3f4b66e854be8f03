"""What a command has at hand while it runs, and how it tells what went wrong."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from xcpmem.api.cli_errors import describe_error
from xcpmem.api.cli_frames import Error, PrintStderr
from xcpmem.api.cli_printer import make_visible

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from xcpmem.api.cli_frames import Message
    from xcpmem.api.cli_printer import Printer
    from xcpmem.api.cli_records import Call, Records
    from xcpmem.api.cli_words import Words
    from xcpmem.errors import XcpmemError

STANDARD: Final = (
    *("server", "password", "port", "username", "minimal", "force", "multiple", "all", "message-priority"),
    "trace",
)
"""Keys that every command knows, so that they select nothing."""


class Failed(Exception):
    """The command has said everything and ends with exit code 1."""


@dataclass(frozen=True, slots=True)
class Run:
    """One command under way.

    Args:
        words: the command line.
        call: makes XenAPI calls in the command's session.
        records: what the command looks at.
        printer: where its answer goes.
        ask: puts a question to whoever typed the command, and gives the line that comes back.
        wants_progress: whether a waiting command shall say how far it is, on standard error.
    """

    words: Words
    call: Call
    records: Records
    printer: Printer
    ask: Callable[[str], Awaitable[str]]
    wants_progress: bool = False


async def describe(records: Records, error: XcpmemError) -> list[str]:
    """Put an error of a XenAPI call into words.

    Args:
        records: names the objects that the error refers to.
        error: as it came from the call.

    Returns:
        Lines of text, what to do about it in the first; none if there are no words for its code.
    """
    names = [await records.name_of(param) for param in error.params]
    return add_advice(describe_error(error.code, names), error.advice)


def add_advice(lines: Sequence[str], advice: str) -> list[str]:
    """Put what to do about an error behind its sentence.

    Args:
        lines: from `describe_error`. Nobody parses the first; those behind it are as in `xe`.
        advice: a sentence without its end, or nothing.
    """
    if not (lines and advice):
        return [*lines]
    return [f"{lines[0].removesuffix('.')}: {advice}.", *lines[1:]]


def explain(error: XcpmemError, lines: Sequence[str] = ()) -> list[Message]:
    """Make the messages that tell a client why a XenAPI call failed.

    Args:
        error: as it came from the call.
        lines: from `describe`, if there is a session to name objects with.

    Returns:
        A line of text each, or an Error frame if there are no words for the code.
    """
    lines = lines or add_advice(describe_error(error.code, error.params), error.advice)
    return [PrintStderr(f"{make_visible(line)}\n") for line in lines] or [Error(error.code, error.params)]
