"""A policy's parameters: declared once as fields, and from that read, checked and explained.

A policy's knobs arrive as TOML values, or as text from XenAPI and the command line; both become the same
frozen dataclass, or an error that names the parameter and the value.
"""

from __future__ import annotations

from dataclasses import MISSING, dataclass, fields
from math import isfinite
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar, get_type_hints

from xcpmem.errors import InvalidValue

if TYPE_CHECKING:
    from collections.abc import Mapping

_WORDS: Final = {"true": True, "false": False}
_KINDS: Final[Mapping[type, str]] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
}


class Parameter(NamedTuple):
    """What a parameter is beside its type and default; written as ``Annotated[int, Parameter(...)]``.

    Args:
        about: one line for people, with the unit.
        least: the smallest value that makes sense, itself included.
        most: the largest.
        choices: the only words that are allowed; empty: any.
    """

    about: str
    least: float | None = None
    most: float | None = None
    choices: tuple[str, ...] = ()


def percent(about: str, least: float = 0, most: float | None = None) -> Parameter:
    """Declare a part of something."""
    return Parameter(f"{about}, percent", least, most)


def seconds(about: str, least: float = 0, most: float | None = None) -> Parameter:
    """Declare a time."""
    return Parameter(f"{about}, seconds", least, most)


def kib(about: str, least: float = 0, most: float | None = None) -> Parameter:
    """Declare a size."""
    return Parameter(f"{about}, KiB", least, most)


class Declared(NamedTuple):
    """A parameter as a reader of lists sees it.

    Args:
        name: of the field.
        kind: bool, int, float or str.
        default: the value that it has when nobody says anything.
        parameter: what else is known.
    """

    name: str
    kind: type
    default: object
    parameter: Parameter

    @property
    def expected(self) -> str:
        """What a value must be, in words: ``a whole number from 0 to 99``."""
        _, least, most, choices = self.parameter
        if choices:
            return " or ".join(choices)
        words = _KINDS[self.kind]
        if least is not None and most is not None:
            return f"{words} from {least:g} to {most:g}"
        if least is not None:
            return f"{words} of {least:g} or more"
        return words if most is None else f"{words} of {most:g} or less"


@dataclass(frozen=True)
class Parameters:
    """What every policy's parameters derive from: a frozen dataclass whose fields all have defaults.

    Raises:
        InvalidValue: a field has a value of another type, or outside its bounds.
    """

    def __post_init__(self) -> None:
        for declared in declared_parameters(type(self)):
            _check(declared, getattr(self, declared.name))


_Made = TypeVar("_Made", bound=Parameters)


def declared_parameters(kind: type[Parameters]) -> tuple[Declared, ...]:
    """List the parameters of a policy in the order of declaration.

    Raises:
        TypeError: one has no default, or a type that cannot be written as text.
    """
    hints = get_type_hints(kind, include_extras=True)
    found = []
    for field in fields(kind):
        hint = hints[field.name]
        bare = getattr(hint, "__origin__", hint)
        notes = [note for note in getattr(hint, "__metadata__", ()) if isinstance(note, Parameter)]
        if bare not in _KINDS or field.default is MISSING:
            raise TypeError(f"parameter {field.name} must be a bool, int, float or str with a default")
        found.append(Declared(field.name, bare, field.default, notes[0] if notes else Parameter("")))
    return tuple(found)


def read_parameters(kind: type[_Made], given: Mapping[str, object]) -> _Made:
    """Make parameters from what a file, a script or a client gave.

    Args:
        kind: of the policy.
        given: by name; each a TOML value, or text.

    Raises:
        InvalidValue: an unknown name, or a value that cannot be read as its type or is out of its bounds.
    """
    known = {declared.name: declared for declared in declared_parameters(kind)}
    values: dict[str, Any] = {}
    for name, value in given.items():
        if name not in known:
            raise InvalidValue(name, value)
        values[name] = _read(known[name], value)
        try:
            _check(known[name], values[name])
        except InvalidValue as error:
            raise InvalidValue(name, value) from error
    return kind(**values)


def _read(declared: Declared, value: object) -> object:
    if isinstance(value, str) and declared.kind is not str:
        try:
            return _WORDS[value] if declared.kind is bool else declared.kind(value)
        except (ValueError, KeyError) as error:
            raise InvalidValue(declared.name, value) from error
    if declared.kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    return value


def _check(declared: Declared, value: object) -> None:
    _, least, most, choices = declared.parameter
    is_kind = type(value) is declared.kind or (declared.kind is float and type(value) is int)
    if not is_kind or (choices and value not in choices):
        raise InvalidValue(declared.name, value)
    if isinstance(value, int | float) and (
        not isfinite(value) or (least is not None and value < least) or (most is not None and value > most)
    ):
        raise InvalidValue(declared.name, value)
