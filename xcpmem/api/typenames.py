"""XenAPI's types by the names that xapi's documents give them, and what a field of each starts from."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from xcpmem.refs import NULL_REF

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

EPOCH: Final = datetime.fromtimestamp(0, UTC)


@dataclass(frozen=True, slots=True)
class Simple:
    """``int``, ``string``, ``bool``, ``float``, ``datetime``, ``void``, or ``an event batch``.

    The last is the answer of ``event.from``, for which xapi's model has these words and no type.
    """

    name: str

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class Ref:
    """A reference to an object of a class, which need not be a served one."""

    of: str

    def __str__(self) -> str:
        return f"{self.of} ref"


@dataclass(frozen=True, slots=True)
class Enum:
    """A word out of a fixed set, spelled as it is stored."""

    name: str

    def __str__(self) -> str:
        return f"enum {self.name}"


@dataclass(frozen=True, slots=True)
class SetOf:
    """A set, which XenAPI sends as an array in a stable order."""

    of: Type

    def __str__(self) -> str:
        return f"{self.of} set"


@dataclass(frozen=True, slots=True)
class MapOf:
    """A map; its keys are strings on every wire."""

    key: Type
    value: Type

    def __str__(self) -> str:
        return f"({self.key} -> {self.value}) map"


@dataclass(frozen=True, slots=True)
class RecordOf:
    """All fields of an object of a class; ``<class>`` where it is whichever class another field names."""

    of: str

    def __str__(self) -> str:
        return f"{self.of} record"


@dataclass(frozen=True, slots=True)
class TupleOf:
    """A fixed number of values in an array; squeezed answers so, xapi never does."""

    of: tuple[Type, ...]

    def __str__(self) -> str:
        return f"({', '.join(str(part) for part in self.of)}) tuple"


@dataclass(frozen=True, slots=True)
class Variant:
    """``[name, value]``, the type of the value depending on the name; squeezed answers so."""

    name: str

    def __str__(self) -> str:
        return f"{self.name} variant"


Type = Simple | Ref | Enum | SetOf | MapOf | RecordOf | TupleOf | Variant

_SIMPLE: Final = frozenset({"int", "string", "bool", "float", "datetime", "void", "an event batch"})
_NAMED: Final[Mapping[str, Callable[[str], Type]]] = {"ref": Ref, "record": RecordOf, "variant": Variant}
_DEFAULTS: Final[Mapping[str, object]] = {
    "int": 0,
    "string": "",
    "bool": False,
    "float": 0.0,
    "datetime": EPOCH,
    "void": None,
}


@cache
def parse_type(text: str) -> Type:
    """Read a type as xapi's documents spell it: ``VM ref set``, ``(string -> string) map``.

    Raises:
        ValueError: no such spelling.
    """
    if text in _SIMPLE:
        return Simple(text)
    if match := re.fullmatch(r"\((.+?) -> (.+)\) map", text):
        return MapOf(parse_type(match[1]), parse_type(match[2]))
    if match := re.fullmatch(r"\((.+)\) tuple", text):
        return TupleOf(tuple(parse_type(part) for part in match[1].split(", ")))
    if match := re.fullmatch(r"(.+) set", text):
        return SetOf(parse_type(match[1]))
    if match := re.fullmatch(r"enum (\w+)", text):
        return Enum(match[1])
    if match := re.fullmatch(r"(\w+|<class>) (ref|record|variant)", text):
        return _NAMED[match[2]](match[1])
    raise ValueError(f"no XenAPI type: {text}")


def default_of(field_type: Type, given: Any, enums: Mapping[str, Mapping[str, str]]) -> object:
    """Give the value that a field has where nothing better is known.

    Args:
        field_type: of the field.
        given: xapi's default as JSON, or None where it has none: then it is what the type starts from.
        enums: the words of the class's enumerations, each with what it means.
    """
    match field_type:
        case SetOf():
            return tuple(given or ())
        case MapOf():
            return dict(given or {})
        case Ref():
            return given or NULL_REF
        case Enum(name):
            return given or next(iter(enums[name]))
        case RecordOf():
            return None
        case _:
            return given if given is not None else _DEFAULTS[str(field_type)]
