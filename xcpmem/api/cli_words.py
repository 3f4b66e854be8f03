"""A command line as typed values: the words of one `/cli` request, taken apart as xapi does.

The first word is the command, the others become key and value: ``--flag`` is ``flag=true``, ``-x value``
is one of the known switches, anything else is split at its first ``=``. Where a key comes twice the first
counts. The error texts are `xe`'s own (xapi's ``cli_frontend.ml`` and ``record_util.ml``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from xcpmem.errors import CommandError, InvalidValue, UsageError
from xcpmem.units import BYTES_PER_MIB, UNITS_HINT, format_bytes, parse_size_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

_SWITCHES: Final = {"-u": "username", "-pw": "password", "-s": "server", "-h": "server", "-p": "port"}
_TRUE: Final = frozenset({"true", "t", "1"})
_FALSE: Final = frozenset({"false", "f", "0"})
_LARGEST_INT: Final = 2**63 - 1
_SESSION: Final = "session_id="


@dataclass(frozen=True, slots=True)
class Words:
    """One command line.

    Args:
        command: the first word.
        params: keys and values in the order they were typed.
    """

    command: str
    params: tuple[tuple[str, str], ...] = ()

    def get(self, key: str, default: str = "") -> str:
        """Give the first value of a key, or the default."""
        return next((value for name, value in self.params if name == key), default)

    def has(self, key: str) -> bool:
        """Tell whether a key was given at all."""
        return any(name == key for name, _ in self.params)

    def require(self, key: str) -> str:
        """Give the value of a key that the command cannot do without.

        Raises:
            UsageError: it was not given.
        """
        if not self.has(key):
            raise UsageError(f"Required parameter not found: {key}")
        return self.get(key)

    def flag(self, key: str) -> bool:
        """Give a truth value, false when the key was not given.

        Raises:
            CommandError: the value is neither true nor false.
        """
        value = self.get(key, "false").lower()
        if value not in _TRUE | _FALSE:
            raise CommandError(f"Failed to parse parameter '{key}': expecting 'true' or 'false'")
        return value in _TRUE

    def size(self, key: str) -> int:
        """Give a size that the command cannot do without, in bytes.

        Raises:
            UsageError: it was not given.
            CommandError: the value is no size.
        """
        return parse_size(key, self.require(key))

    def memory(self, key: str, *, may_be_zero: bool) -> int:
        """Give a size of memory for a command that `xe` does not have: a MiB at least, in bytes.

        Less can only be a size whose unit was forgotten; XenAPI would take it.

        Args:
            key: whose value is read.
            may_be_zero: whether no memory makes sense as well.

        Raises:
            UsageError: it was not given.
            CommandError: the value is no size, or too small a one.
        """
        size_bytes = self.size(key)
        if size_bytes >= BYTES_PER_MIB or (may_be_zero and size_bytes == 0):
            return size_bytes
        raise CommandError(
            f"Failed to parse field '{key}': {format_bytes(size_bytes)} is less than 1 MiB; {UNITS_HINT}"
        )

    def without(self, keys: Iterable[str]) -> Iterator[tuple[str, str]]:
        """Give the pairs whose key, up to a colon, is none of ``keys``."""
        skipped = frozenset(keys)
        return (pair for pair in self.params if pair[0].partition(":")[0] not in skipped)


def parse_size(field: str, text: str) -> int:
    """Read a size as `xe` does and complain as `xe` does.

    Args:
        field: what the size is for.
        text: decimal digits and perhaps a suffix, see `units.parse_size_bytes`.

    Returns:
        Bytes, from 0 to the largest XenAPI int.

    Raises:
        CommandError: the text is no size, or the size is too large for XenAPI.
    """
    failed = f"Failed to parse field '{field}'"
    try:
        size_bytes = parse_size_bytes(text, field)
    except InvalidValue as error:
        raise CommandError(
            f"{failed}: expecting an integer (possibly with suffix KiB, MiB, GiB, TiB), got '{text}'",
        ) from error
    if size_bytes > _LARGEST_INT:
        raise CommandError(f"{failed}: number too big (maximum = {_LARGEST_INT} bytes), got '{text}'")
    return size_bytes


def parse_words(words: Sequence[str]) -> Words:
    """Take the words of a command line apart.

    Args:
        words: as the shell split them, the command first.

    Raises:
        UsageError: there is no command, or a switch is unknown or lacks its value.
    """
    command = words[0] if words else ""
    if not words or "=" in command:
        raise UsageError("Syntax error: command name is missing")
    params = []
    rest = iter(words[1:])
    for word in rest:
        if word.startswith("--"):
            params.append((word[2:], "true"))
        elif word.startswith("-"):
            value = next(rest, None)
            if word not in _SWITCHES or value is None:
                raise UsageError(f"Syntax error: {word}")
            params.append((_SWITCHES[word], value))
        else:
            key, _, value = word.partition("=")
            params.append((key, value))
    return Words(command, tuple(params))


def parse_body(body: bytes) -> tuple[str, list[str]]:
    """Take the body of a `/cli` request apart.

    Args:
        body: one word a line; LF or CRLF between the lines; a first line ``session_id=`` names a session
            that is open already, as a proxying pool member sends it.

    Returns:
        The session's reference or an empty text, and the words.
    """
    lines = [line.removesuffix("\r") for line in body.decode(errors="replace").split("\n")]
    if lines[0].startswith(_SESSION):
        return lines[0].removeprefix(_SESSION), lines[1:]
    return "", lines
