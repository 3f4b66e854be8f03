"""The engine's inputs as plain data for JSON, and back again with every value checked.

What has its default is left out, so that a thousand resting domains stay small. What comes back may have
been edited by hand: a value of the wrong type or out of its range is refused by the name of its field.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, Field, fields
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, TypeVar

from xcpmem.engine.model import (
    DomainState,
    DynamicRange,
    HostState,
    Lifecycle,
    MemoryRequest,
    Reservation,
    Wishes,
)
from xcpmem.engine.sample import Sample
from xcpmem.errors import InvalidValue

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    _T = TypeVar("_T")

_SCALARS: Final[Mapping[str, tuple[type, ...]]] = {
    "int": (int,),
    "float": (int, float),
    "str": (str,),
    "bool": (bool,),
    "None": (type(None),),
}


def to_plain(value: object) -> Any:
    """Write a value of the engine's model as plain data."""
    defaults = _DEFAULTS.get(type(value).__name__)
    if defaults is not None:
        return {
            name: to_plain(given)
            for name, default in defaults.items()
            if (given := getattr(value, name)) != default
        }
    if isinstance(value, StrEnum):
        return value.value
    if isinstance(value, Mapping):
        return {key: to_plain(part) for key, part in value.items()}
    if isinstance(value, frozenset):
        return sorted(value)
    if isinstance(value, tuple):
        return [to_plain(part) for part in value]
    return value


def host_of(plain: object, field: str = "host") -> HostState:
    """Read a host. Raises InvalidValue with the path of the field that is wrong, and its value."""
    return _read(HostState, plain, field)


def wishes_of(plain: object, field: str = "wishes") -> Wishes:
    """Read wishes. Raises as `host_of`."""
    return _read(Wishes, plain, field)


def _each(cls: type[_T]) -> Callable[[object, str], tuple[_T, ...]]:
    def read(plain: object, field: str) -> tuple[_T, ...]:
        if not isinstance(plain, list):
            raise InvalidValue(field, plain)
        return tuple(_read(cls, part, f"{field}[{at}]") for at, part in enumerate(plain))

    return read


def _one(cls: type[_T]) -> Callable[[object, str], _T]:
    return lambda plain, field: _read(cls, plain, field)


def _ranges(plain: object, field: str) -> Mapping[str, DynamicRange]:
    if not isinstance(plain, dict):
        raise InvalidValue(field, plain)
    return {uuid: _read(DynamicRange, part, f"{field}.{uuid}") for uuid, part in plain.items()}


def _domids(plain: object, field: str) -> frozenset[int]:
    if not isinstance(plain, list) or not all(type(domid) is int for domid in plain):
        raise InvalidValue(field, plain)
    return frozenset(plain)


def _lifecycle(plain: object, field: str) -> Lifecycle:
    if plain not in set(Lifecycle):
        raise InvalidValue(field, plain)
    return Lifecycle(str(plain))


_PARTS: Final[Mapping[tuple[type, str], Callable[[object, str], object]]] = {
    (HostState, "domains"): _each(DomainState),
    (HostState, "reservations"): _each(Reservation),
    (DomainState, "dynamic_range"): _one(DynamicRange),
    (DomainState, "lifecycle"): _lifecycle,
    (DomainState, "sample"): _one(Sample),
    (Wishes, "ranges"): _ranges,
    (Wishes, "requests"): _each(MemoryRequest),
    (Wishes, "left_alone"): _domids,
}
"""How to read what is no scalar."""


def _read(cls: type[_T], plain: object, field: str) -> _T:
    if not isinstance(plain, dict):
        raise InvalidValue(field, plain)
    kinds = _KINDS[cls.__name__]
    given: dict[str, object] = {}
    for name, value in plain.items():
        where = f"{field}.{name}"
        if name not in kinds:
            raise InvalidValue(where, value)
        part = _PARTS.get((cls, name))
        given[name] = part(value, where) if part else _scalar(kinds[name], value, where)
    missing = [name for name in kinds if name not in given and _DEFAULTS[cls.__name__][name] is MISSING]
    if missing:
        raise InvalidValue(f"{field}.{missing[0]}", "")
    try:
        return cls(**given)
    except InvalidValue as error:
        name, value = error.params
        raise InvalidValue(f"{field}.{name}", value) from error


def _scalar(kind: str, value: object, field: str) -> object:
    allowed: Iterable[type] = (each for name in kind.split(" | ") for each in _SCALARS[name])
    if type(value) not in allowed:
        raise InvalidValue(field, value)
    return value


def _default_of(model: Field[Any]) -> object:
    return model.default if model.default_factory is MISSING else model.default_factory()


_MODELS: Final = (HostState, DomainState, DynamicRange, Sample, Reservation, Wishes, MemoryRequest)
_KINDS: Final[Mapping[str, Mapping[str, str]]] = {
    model.__name__: {each.name: str(each.type) for each in fields(model)} for model in _MODELS
}
_DEFAULTS: Final[Mapping[str, Mapping[str, object]]] = {
    model.__name__: {each.name: _default_of(each) for each in fields(model)} for model in _MODELS
}
