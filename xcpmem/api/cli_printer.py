"""How `xe` lays out what a command answers, to the byte (xapi's ``cli_printer.ml``).

A `Printer` turns tables, values and numbers into frames; with ``--minimal`` it keeps only the first column
of each table and every value, joined by commas in a single line at the end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from xcpmem.api.cli_frames import Print, encode

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from xcpmem.api.cli_frames import Message

_MARGIN = 4
"""Letters that the labels of a record stand away from the left edge."""

_OBEYED: Final = {*range(0x20), *range(0x7F, 0xA0)} - {*map(ord, "\n\r\t")}
_SHOWN_INSTEAD: Final = dict.fromkeys(_OBEYED, "\ufffd")

Row = tuple[str, str]
"""A label and a value of a record."""


class Duplex(Protocol):
    """The two directions of a connection to a client, past the HTTP request that opened it."""

    async def send(self, data: bytes) -> None:
        """Send bytes, waiting for a slow client for a while.

        Raises:
            ConnectionError: the client is gone or takes too long.
        """

    async def receive(self) -> bytes:
        """Give the next bytes from the client; none mean that it has hung up."""


def make_visible(text: str) -> str:
    """Replace what a terminal would obey rather than show: a VM's name may hold an escape sequence."""
    return text.translate(_SHOWN_INSTEAD)


def format_record(rows: Sequence[Row]) -> str:
    """Lay out one record: the first label at the left edge, the others at the right of their column.

    Args:
        rows: labels and values in the order they are shown.

    Returns:
        One line for each row, each with its newline; a single newline for no rows.
    """
    width = _MARGIN + max((len(label) for label, _ in rows), default=0)
    labels = [label.rjust(width) if at else label.ljust(width) for at, (label, _) in enumerate(rows)]
    return "\n".join(f"{label}: {value}" for label, (_, value) in zip(labels, rows, strict=True)) + "\n"


def escape_minimal(value: str) -> str:
    r"""Escape a value for the comma-joined line of ``--minimal``: ``\`` and ``,`` by a backslash."""
    return value.replace("\\", "\\\\").replace(",", "\\,")


class Printer:
    """Sends a command's answer to the client.

    Args:
        duplex: the connection.
        is_minimal: whether ``--minimal`` was asked for.
    """

    def __init__(self, duplex: Duplex, *, is_minimal: bool) -> None:
        self._duplex = duplex
        self._is_minimal = is_minimal
        self._kept: list[str] = []

    @property
    def is_minimal(self) -> bool:
        """Whether only values are wanted."""
        return self._is_minimal

    async def send(self, message: Message) -> None:
        """Send one message past all layout."""
        await self._duplex.send(encode(message))

    async def table(self, records: Sequence[Sequence[Row]]) -> None:
        """Print records, each a block with a blank line behind it."""
        if self._is_minimal:
            if records and records[0]:
                self._keep(rows[0][1] for rows in records)
            return
        for rows in records:
            await self.send(Print(make_visible(format_record(rows)) + "\n"))

    async def values(self, values: Sequence[str]) -> None:
        """Print values, one a line."""
        if self._is_minimal:
            self._keep(values)
            return
        for value in values:
            await self.send(Print(make_visible(value)))

    async def number(self, number: int) -> None:
        """Print a number that ``--minimal`` hides, as `xe` has it for the computing commands."""
        if not self._is_minimal:
            await self.send(Print(str(number)))

    async def flush(self) -> None:
        """Print the one line of ``--minimal``, even if it is empty."""
        if self._is_minimal:
            await self.send(Print(make_visible(",".join(reversed(self._kept)))))

    def _keep(self, values: Iterable[str]) -> None:
        self._kept.append(",".join(escape_minimal(value) for value in values))
