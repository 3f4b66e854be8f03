"""Scenarios: a host, its guests and a script, by name or from a TOML file, every key checked.

A key means the same wherever it stands, so each field has one reader. What is wrong is said as a
ConfigError with file, key and why. `specs` and `script` have the values.
"""

from __future__ import annotations

import tomllib
from dataclasses import MISSING, Field, dataclass, field, fields, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar
from uuid import UUID, uuid5

from xcpmem.errors import ConfigError
from xcpmem.fleets import named_host
from xcpmem.script import CALLS, Call, ScriptCall, SetBalloon, SetPolicy, Start
from xcpmem.specs import (
    FOLLOWS,
    AgentKind,
    AgentSpec,
    BalloonSpec,
    DomainType,
    GuestSpec,
    HostSpec,
    LoadPoint,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from enum import StrEnum

_SIZE_MOST_KIB: Final = 2**50
_SECONDS_MOST: Final = 1e8
_COUNT_MOST: Final = 10000
_FILE_BYTES_MOST: Final = 64 * 2**20

_UUIDS: Final = UUID("0f4b1a56-9d7c-4e0e-8a6e-2f6d5f0f8d11")

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One host, its guests, and what happens to them.

    Args:
        name: for people.
        seed: uuids are made from it.
        tick_s: step of the simulated guests, seconds.
        deadline_s: end of the run of `simulate`, seconds; what the script has later is not acted out there.
        policy: the policy's name.
        host: the machine; its total is filled in if it follows.
        guests: by rising domid.
        script: in the order of the file; calls at the same time are made together.
    """

    name: str = "unnamed"
    seed: int = 1
    tick_s: float = 0.1
    deadline_s: float = 120.0
    policy: str = "proportional"
    host: HostSpec = field(default_factory=HostSpec)
    guests: tuple[GuestSpec, ...] = ()
    script: tuple[ScriptCall, ...] = ()

    def __post_init__(self) -> None:
        if self.tick_s <= 0:
            raise ConfigError("", "tick_s", "must be more than 0")
        object.__setattr__(self, "guests", tuple(sorted(self.guests, key=lambda guest: guest.domid)))
        for earlier, later in pairwise(self.guests):
            if earlier.domid == later.domid:
                raise ConfigError("", "domid", f"{later.domid} is there twice")
        uuids = [self.uuid_of(guest) for guest in self.guests]
        if len(set(uuids)) < len(uuids):
            raise ConfigError("", "uuid", "is there twice")
        needed_kib = self.host.free_kib + sum(guest.actual_kib for guest in self.guests)
        if self.host.total_kib == FOLLOWS:
            object.__setattr__(self, "host", replace(self.host, total_kib=needed_kib))
        elif self.host.total_kib < needed_kib:
            raise ConfigError(
                "", "host.total_kib", f"{self.host.total_kib} is below free + sum of actual {needed_kib}"
            )

    @property
    def others_kib(self) -> int:
        """What neither is free nor belongs to a guest: domain 0, if it is none of them, and Xen, KiB."""
        return self.host.total_kib - self.host.free_kib - sum(guest.actual_kib for guest in self.guests)

    @property
    def has_domain_zero(self) -> bool:
        """Whether domain 0 is one of the guests."""
        return any(guest.domid == 0 for guest in self.guests)

    @property
    def boot_free_kib(self) -> int:
        """What was free before any guest was there, domain 0's own included, KiB."""
        return self.host.total_kib - (self.others_kib if self.has_domain_zero else 0)

    def uuid_of(self, guest: GuestSpec) -> str:
        """Return the uuid of a guest's VM: its own, or one made from the seed and the domid."""
        return guest.uuid or self.make_uuid(f"domain/{guest.domid}")

    def make_uuid(self, subject: str) -> str:
        """Make a uuid that depends on nothing but the seed and the text."""
        return str(uuid5(_UUIDS, f"{self.seed}/{subject}"))


def load_scenario(name_or_path: str) -> Scenario:
    """Find a scenario.

    Args:
        name_or_path: ``default``, ``quiet``, ``fleet:N``, or the path of a TOML file.

    Raises:
        ConfigError: no such file, or something in it is wrong.
    """
    named = named_host(name_or_path)
    if named is not None:
        return Scenario(name=name_or_path, host=named[0], guests=named[1])
    path = Path(name_or_path)
    try:
        with path.open("rb") as file:
            content = file.read(_FILE_BYTES_MOST + 1)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ConfigError(name_or_path, "", why) from error
    if len(content) > _FILE_BYTES_MOST:
        raise ConfigError(name_or_path, "", "is too big for a scenario")
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise ConfigError(name_or_path, "", "is not UTF-8 text") from error
    return parse_scenario(text, where=name_or_path, name=path.stem)


def parse_scenario(text: str, *, where: str, name: str) -> Scenario:
    """Read a scenario from TOML text.

    Args:
        text: the file's content.
        where: what complaints call the file.
        name: the scenario's name if the text does not give one.

    Raises:
        ConfigError: something in it is wrong.
    """
    try:
        table = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(where, "", f"is not TOML: {error}") from error
    return read_scenario({"name": name} | table, where=where)


def read_scenario(table: object, *, where: str) -> Scenario:
    """Read a scenario from what stands in its file, or came over a wire.

    Args:
        table: with the keys of a scenario file.
        where: what complaints call its source.

    Raises:
        ConfigError: something in it is wrong.
    """
    try:
        return _read_table(Scenario, table, "")
    except ConfigError as error:
        raise ConfigError(where, error.key, error.why) from error


def _read_table(cls: type[_T], table: object, place: str) -> _T:
    """Make a value of a class from a table that has its fields as keys."""
    if not isinstance(table, dict):
        raise ConfigError("", place, "must be a table")
    known = {_KEYS.get(each.name, each.name): each for each in _fields(cls) if each.init}
    for key in table:
        if key not in known:
            raise ConfigError("", _join(place, key), "is not a key here")
    values = {}
    for key, each in known.items():
        if key in table:
            values[each.name] = _READERS[each.name](table[key], _join(place, key))
        elif each.default is MISSING and each.default_factory is MISSING:
            raise ConfigError("", _join(place, key), "is missing")
    try:
        return cls(**values)
    except ConfigError as error:
        raise ConfigError("", _join(place, error.key), error.why) from error


def _fields(cls: type) -> tuple[Field[Any], ...]:
    return fields(cls)


def _join(place: str, key: str) -> str:
    return f"{place}.{key}" if place and key else place or key


def _whole(least: int, most: int) -> Callable[[object, str], int]:
    def read(value: object, place: str) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise ConfigError("", place, f"must be a whole number from {least} to {most}")
        return value

    return read


def _number(most: float) -> Callable[[object, str], float]:
    def read(value: object, place: str) -> float:
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= most:
            raise ConfigError("", place, f"must be a number from 0 to {most:g}")
        return float(value)

    return read


def _read_flag(value: object, place: str) -> bool:
    if not isinstance(value, bool):
        raise ConfigError("", place, "must be true or false")
    return value


def _read_text(value: object, place: str) -> str:
    if not isinstance(value, str) or not value:
        raise ConfigError("", place, "must be text, not empty")
    return value


def _read_uuid(value: object, place: str) -> str:
    try:
        uuid = str(UUID(_read_text(value, place)))
    except ValueError as error:
        raise ConfigError("", place, "must be a uuid") from error
    if uuid != value:
        raise ConfigError("", place, f"must be spelled {uuid}")
    return uuid


def _word(words: type[StrEnum]) -> Callable[[object, str], StrEnum]:
    def read(value: object, place: str) -> StrEnum:
        if not isinstance(value, str) or value not in list(words):
            raise ConfigError("", place, f"must be one of {', '.join(words)}")
        return words(value)

    return read


def _rows(value: object, place: str) -> Iterator[tuple[object, str]]:
    if not isinstance(value, list):
        raise ConfigError("", place, "must be a list")
    for number, row in enumerate(value):
        yield row, f"{place}[{number}]"


def _read_load(value: object, place: str) -> tuple[LoadPoint, ...]:
    points = []
    for row, where in _rows(value, place):
        match row:
            case [at_s, wanted_kib, *more] if len(more) <= 2:  # noqa: PLR2004  (cache and cold)
                sizes_kib = [_read_size(size_kib, where) for size_kib in (wanted_kib, *more)]
                points.append(LoadPoint(_read_time(at_s, where), *sizes_kib))
            case _:
                raise ConfigError("", where, "must be [time, KiB], or [time, KiB, cache KiB, cold KiB]")
    return tuple(points)


def _read_guests(value: object, place: str) -> tuple[GuestSpec, ...]:
    return tuple(_read_table(GuestSpec, row, where) for row, where in _rows(value, place))


def _read_script(value: object, place: str) -> tuple[ScriptCall, ...]:
    return tuple(_read_line(row, where) for row, where in _rows(value, place))


def _read_line(row: object, place: str) -> ScriptCall:
    if not isinstance(row, dict):
        raise ConfigError("", place, "must be a table")
    for key in row:
        if key not in {"at_s", "call", "args"}:
            raise ConfigError("", _join(place, key), "is not a key here")
    for key in ("at_s", "call"):
        if key not in row:
            raise ConfigError("", _join(place, key), "is missing")
    at_s = _read_time(row["at_s"], _join(place, "at_s"))
    call = row["call"]
    if not isinstance(call, str) or call not in CALLS:
        raise ConfigError("", _join(place, "call"), f"must be one of {', '.join(CALLS)}")
    return ScriptCall(at_s, _read_args(CALLS[call], row.get("args", {}), _join(place, "args")))


def _read_args(cls: type[Call], args: object, place: str) -> Call:
    if not isinstance(args, dict):
        raise ConfigError("", place, "must be a table")
    if cls is SetPolicy:
        parameters = {key: value for key, value in args.items() if key != "name"}
        return SetPolicy(name=_read_text(args.get("name"), _join(place, "name")), parameters=parameters)
    if cls is SetBalloon:
        changes = {key: value for key, value in args.items() if key != "domid"}
        balloon = _read_table(BalloonSpec, changes, place)
        return SetBalloon(
            domid=_READERS["domid"](args.get("domid"), _join(place, "domid")),
            changes={key: getattr(balloon, key) for key in changes},
        )
    if cls is Start and isinstance(args.get("guest"), dict) and "actual_kib" in args["guest"]:
        raise ConfigError("", f"{place}.guest.actual_kib", "is decided by what is granted")
    return _read_table(cls, args, place)


_KEYS: Final = {"guests": "guest", "as_name": "as"}
"""Keys that are spelled differently from the fields."""

_read_size: Final = _whole(0, _SIZE_MOST_KIB)
_read_time: Final = _number(_SECONDS_MOST)

_READERS: Final[Mapping[str, Callable[[object, str], Any]]] = {
    "name": _read_text,
    "seed": _whole(-(2**63), 2**63 - 1),
    "tick_s": _number(_SECONDS_MOST),
    "deadline_s": _read_time,
    "policy": _read_text,
    "host": lambda value, place: _read_table(HostSpec, value, place),
    "guests": _read_guests,
    "guest": lambda value, place: _read_table(GuestSpec, value, place),
    "script": _read_script,
    "total_kib": _read_size,
    "free_kib": _read_size,
    "slush_kib": _read_size,
    "scrub_kib_s": _number(_SIZE_MOST_KIB),
    "domid": _whole(0, 2**31 - 1),
    "dynamic_min_kib": _read_size,
    "dynamic_max_kib": _read_size,
    "static_min_kib": _read_size,
    "static_max_kib": _read_size,
    "target_kib": _read_size,
    "actual_kib": _read_size,
    "weight": _whole(1, _COUNT_MOST),
    "balloon": lambda value, place: _read_table(BalloonSpec, value, place),
    "load": _read_load,
    "agent": lambda value, place: _read_table(AgentSpec, value, place),
    "uuid": _read_uuid,
    "name_label": _read_text,
    "vcpus": _whole(1, _COUNT_MOST),
    "domain_type": _word(DomainType),
    "rate_kib_s": _number(_SIZE_MOST_KIB),
    "delay_s": _read_time,
    "floor_kib": _read_size,
    "ceiling_kib": _read_size,
    "stuck": _read_flag,
    "period_s": _read_time,
    "inaccuracy_kib": _read_size,
    "feature": _read_flag,
    "kind": _word(AgentKind),
    "size_kib": _read_size,
    "min_kib": _read_size,
    "max_kib": _read_size,
    "as_name": _read_text,
    "reservation": _read_text,
    "down_s": _read_time,
}
