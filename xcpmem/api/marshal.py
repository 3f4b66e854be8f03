"""XenAPI's types: plain values from the wire to typed arguments, and a check of what goes out.

Coercions and the wording of complaints are those of xapi's generated code over rpc-light: an integer may
come as a decimal string (Python's XML-RPC cannot send more than 31 bits otherwise), a bool only as a
bool. What goes out needs no conversion: the codecs write each Python type as XenAPI wants it, so it is
enough that a record holds the right types.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime
from functools import cache
from typing import TYPE_CHECKING, Final

from xcpmem.api.datamodel import load_datamodel
from xcpmem.api.typenames import Enum, MapOf, RecordOf, Ref, SetOf, Simple, Type
from xcpmem.api.values import (
    INT64_MAX,
    INT64_MIN,
    DateTime,
    Value,
    parse_datetime,
    parse_double,
    parse_int64,
)
from xcpmem.errors import ArgumentType, FieldType, InvalidValue

if TYPE_CHECKING:
    from collections.abc import Callable

_LONGEST_QUOTE: Final = 200


def unmarshal(param_type: Type, value: Value) -> object:
    """Turn a parameter as it came into what its type says.

    Args:
        param_type: from the datamodel.
        value: as a codec decoded it.

    Returns:
        int (of 64 bits), float (finite), bool, str (also for references and enumerations), datetime in UTC,
        tuple for a set, dict for a map; for a record a dict of what can be given when an object is made.

    Raises:
        ArgumentType: another type, no number where a number is written as text, no finite float, no word of
            the enumeration.
        FieldType: the same in a field of a record.
    """
    match param_type:
        case Simple(name):
            return _READERS[name](value)
        case Ref():
            return _read_string(value)
        case Enum(name):
            return _read_enum(name, value)
        case SetOf(of):
            return tuple(unmarshal(of, item) for item in _expect_list(value))
        case MapOf(key, of):
            return {unmarshal(key, name): unmarshal(of, item) for name, item in _expect_dict(value).items()}
        case RecordOf(of) if of in load_datamodel().classes:
            return _read_record(of, _expect_dict(value))
        case _:
            raise ArgumentType(f'Failure("No {param_type} can be sent")')


def _read_record(class_name: str, given: Mapping[str, Value]) -> dict[str, object]:
    """Read the fields that an object can be made with; all others, known or not, do not count."""
    found: dict[str, object] = {}
    for name, field in load_datamodel().classes[class_name].fields.items():
        if field.is_constructed and name in given:
            try:
                found[name] = unmarshal(field.type, given[name])
            except ArgumentType as error:
                raise FieldType(name) from error
    return found


def check_strings(value: Value) -> None:
    """Refuse text that is not Unicode; JSON can smuggle lone surrogates in, XML cannot.

    Raises:
        InvalidValue: names the offending string, as xapi words it.
    """
    match value:
        case str():
            if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
                raise InvalidValue("Invalid UTF-8 string in parameter", value)
        case list():
            for item in value:
                check_strings(item)
        case dict():
            for name, item in value.items():
                check_strings(name)
                check_strings(item)


def _read_int(value: Value) -> int:
    if isinstance(value, str):
        try:
            return parse_int64(value)
        except ValueError as error:
            raise ArgumentType('Failure("Int64.of_string")') from error
    if isinstance(value, int) and not isinstance(value, bool) and INT64_MIN <= value <= INT64_MAX:
        return value
    raise _wrong("int", value)


def _read_float(value: Value) -> float:
    if isinstance(value, str):
        try:
            number = parse_double(value)
        except ValueError as error:
            raise ArgumentType('Failure("float_of_string")') from error
    elif isinstance(value, int | float) and not isinstance(value, bool):
        number = float(value) if abs(value) <= INT64_MAX else math.inf
    else:
        raise _wrong("float", value)
    if not math.isfinite(number):
        raise ArgumentType('Failure("float_of_string")')
    return number


def _read_bool(value: Value) -> bool:
    if isinstance(value, bool):
        return value
    raise _wrong("bool", value)


def _read_string(value: Value) -> str:
    if isinstance(value, str):
        return value
    raise _wrong("string", value)


def _read_datetime(value: Value) -> datetime:
    text = value.text if isinstance(value, DateTime) else value
    if not isinstance(text, str):
        raise _wrong("datetime", value)
    try:
        return parse_datetime(text)
    except ValueError as error:
        raise ArgumentType(f'Failure("Date.of_iso8601: {text[:_LONGEST_QUOTE]}")') from error


def _read_enum(name: str, value: Value) -> str:
    word = _read_string(value)
    if word not in load_datamodel().enums.get(name, ()):
        raise ArgumentType(f'Failure("{word[:_LONGEST_QUOTE]} is no {name}")')
    return word


def _expect_list(value: Value) -> list[Value]:
    if isinstance(value, list | tuple):  # the command line's calls are typed already
        return list(value)
    raise _wrong("list", value)


def _expect_dict(value: Value) -> dict[str, Value]:
    if isinstance(value, dict):
        return value
    raise _wrong("dict", value)


_READERS: Final[Mapping[str, Callable[[Value], object]]] = {
    "int": _read_int,
    "float": _read_float,
    "bool": _read_bool,
    "string": _read_string,
    "datetime": _read_datetime,
}


def _wrong(expected: str, value: Value) -> ArgumentType:
    return ArgumentType(f"Failure(\"Expected {expected}, got '{_describe(value)[:_LONGEST_QUOTE]}'\")")


def _describe(value: Value) -> str:
    """Show a value as rpc-light's ``Rpc.to_string`` does, for xapi's texts quote it."""
    match value:
        case None:
            text = "N"
        case bool():
            text = f"B({str(value).lower()})"
        case int():
            text = f"I({value})"
        case float():
            text = f"F({value:g})"
        case str():
            text = f"S({value})"
        case DateTime(moment):
            text = f"D({moment})"
        case bytes():
            text = f"B64({len(value)} bytes)"
        case list():
            text = f"[{';'.join(_describe(item) for item in value)}]"
        case dict():
            text = f"{{{';'.join(f'{name}:{_describe(item)}' for name, item in value.items())}}}"
    return text


@cache
def make_check(value_type: Type) -> Callable[[object], bool]:
    """Make the check whether a value may stand in a field, so that the codecs write it as XenAPI wants it.

    Args:
        value_type: of a field; no field is a record, a tuple or a variant.
    """
    match value_type:
        case Simple(name):
            python_type = _PYTHON_TYPES[name]
            return lambda value: type(value) is python_type
        case Ref():
            return lambda value: isinstance(value, str) and value.startswith("OpaqueRef:")
        case Enum(name):
            words = load_datamodel().enums[name]
            return lambda value: value in words
        case SetOf(of):
            fits = make_check(of)
            return lambda value: isinstance(value, tuple) and all(map(fits, value))
        case MapOf(_, of):
            fits = make_check(of)
            return lambda value: isinstance(value, Mapping) and all(map(fits, value.values()))
    return lambda _: False


_PYTHON_TYPES: Final[Mapping[str, type]] = {
    "int": int,
    "float": float,
    "bool": bool,
    "string": str,
    "datetime": datetime,
    "void": type(None),
}
