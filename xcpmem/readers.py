"""How one setting is read: from a TOML value or from a word of the command line to a typed value.

Each `Reader` says in words what it expects, for the complaint when it gets something else.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, Self

from xcpmem.units import bytes_to_kib_ceil, parse_size_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from enum import StrEnum

_PORT_LIMIT: Final = 65535


def is_loopback(address: str) -> bool:
    """Tell whether an address is this machine's own; what is no IP address is not."""
    try:
        found = ip_address(address.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(found, "ipv4_mapped", None)
    return (mapped or found).is_loopback


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen for TCP.

    Args:
        host: a name or an IP address, without brackets.
        port: 0 to 65535; 0 takes a free one.

    Raises:
        ValueError: no host, or a port out of range.
    """

    host: str
    port: int

    def __post_init__(self) -> None:
        if not self.host or not 0 <= self.port <= _PORT_LIMIT:
            raise ValueError(str(self))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``HOST:PORT``; an IPv6 address stands in brackets.

        Raises:
            ValueError: it has another form, or the port is out of range.
        """
        host, _, port = text.rpartition(":")
        if host.startswith("[") and host.endswith("]"):
            host = str(ip_address(host[1:-1]))
        elif ":" in host:
            raise ValueError(text)
        if not (port.isascii() and port.isdigit()):
            raise ValueError(text)
        return cls(host, int(port))

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it; of names only ``localhost`` counts."""
        return self.host == "localhost" or is_loopback(self.host)

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Reader(NamedTuple):
    """One kind of value.

    Args:
        read: makes the value, or raises ValueError or InvalidValue.
        expected: what may be written, in words.
    """

    read: Callable[[object], object]
    expected: str


def _read_text(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(value)
    return value


def _read_path(value: object) -> Path:
    text = _read_text(value)
    if "\0" in text:
        raise ValueError(text)
    return Path(text).expanduser()


def _read_boolean(value: object) -> bool:
    if value is True or value is False:
        return value
    raise ValueError(value)


def _read_seconds(value: object) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value) and value > 0:
        return float(value)
    raise ValueError(value)


def _read_kib(value: object) -> int:
    if isinstance(value, str) and not value.strip().isdigit():
        return bytes_to_kib_ceil(parse_size_bytes(value, "size"))
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    raise ValueError(value)


def _read_count(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    raise ValueError(value)


def _read_table(value: object) -> Mapping[str, object]:
    if isinstance(value, dict) and all(isinstance(each, str | int | float) for each in value.values()):
        return value
    raise ValueError(value)


def _read_tables(value: object) -> Mapping[str, Mapping[str, object]]:
    if isinstance(value, dict):
        return {key: _read_table(table) for key, table in value.items()}
    raise ValueError(value)


def choice(words: type[StrEnum]) -> Reader:
    """Make the reader of an enumeration: its words, as they are spelled."""
    return Reader(lambda value: words(_read_text(value)), "one of " + ", ".join(words))


TEXT: Final = Reader(_read_text, "text, not empty")
PATH: Final = Reader(_read_path, "a path")
BOOLEAN: Final = Reader(_read_boolean, "true or false")
SECONDS: Final = Reader(_read_seconds, "seconds, a number above 0")
COUNT: Final = Reader(_read_count, "a whole number of 0 or more")
KIB: Final = Reader(_read_kib, "KiB, a whole number of 0 or more, or text with a unit (72MiB)")
TABLE: Final = Reader(_read_table, "a table of keys with plain values")
TABLES: Final = Reader(_read_tables, "a table of tables of keys with plain values")
ADDRESS: Final = Reader(lambda value: Address.parse(_read_text(value)), "HOST:PORT, the port from 0 to 65535")
