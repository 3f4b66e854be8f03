"""The plain values that both wires speak: what XML-RPC and JSON-RPC decode to and encode from.

The codecs know no XenAPI, `marshal` knows no bytes; they meet in these values, as rpc-light's `Rpc.t`
stands between xapi's two wires.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from operator import is_
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

INT64_MIN: Final = -(2**63)
INT64_MAX: Final = 2**63 - 1
UINT64_MAX: Final = 2**64 - 1
MAX_DEPTH: Final = 64
NAMES_KEPT: Final = 8192
"""Each wire keeps the encoded forms of so many names of members: fields, and references of a class."""
LONGEST_NAME_KEPT: Final = 100
"""... which are no longer than this; clients' own keys may be as long as a call."""

PAGE_RECORDS: Final = 32
"""So many records of a class are joined anew when one of them has changed."""

_INT64 = re.compile(r"([+-]?)(?:0([xXoObBuU]))?([0-9a-fA-F][0-9a-fA-F_]*)", re.ASCII)
_BASES: Final = {"x": 16, "o": 8, "b": 2, "u": 10}
_DOUBLE = re.compile(
    r"[+-]?(?:(?:[0-9][0-9_]*\.?[0-9_]*|\.[0-9][0-9_]*)(?:[eE][+-]?[0-9][0-9_]*)?|nan|inf|infinity)",
    re.ASCII | re.IGNORECASE,
)


def keeping_short(write: Callable[[str], bytes]) -> Callable[[str], bytes]:
    """Have what a function writes of names kept, but for those longer than `LONGEST_NAME_KEPT`."""
    kept = lru_cache(NAMES_KEPT)(write)
    return lambda name: kept(name) if len(name) <= LONGEST_NAME_KEPT else write(name)


@dataclass(frozen=True, slots=True)
class DateTime:
    """A ``dateTime.iso8601`` as it came, not yet understood."""

    text: str


class I4(int):
    """An integer that XML-RPC writes as ``<i4>``, where XenAPI's int is text: ``valid_ref_counts`` alone."""

    __slots__ = ()


class Nil:
    """Unit as squeezed's XML-RPC has it, ``<nil/>``, where XenAPI's void is an empty value."""

    __slots__ = ()


NIL: Final = Nil()

Value = None | bool | int | float | str | bytes | DateTime | list["Value"] | dict[str, "Value"]


@dataclass(frozen=True, slots=True, eq=False)
class Wire:
    """How a codec writes a structure, member by member, so that parts that are known already can be reused.

    Args:
        name: writes a member up to its value.
        value: writes a value.
        end: stands after a member's value.
        opening: stands before the first member.
        mark: stands between two.
        closing: stands after the last one.
    """

    name: Callable[[str], bytes]
    value: Callable[[object], bytes]
    end: bytes
    opening: bytes
    mark: bytes
    closing: bytes

    def member(self, name: str, value: object) -> bytes:
        """Write one name and value."""
        return self.name(name) + self.value(value) + self.end

    def struct(self, members: Iterable[bytes]) -> bytes:
        """Join all members."""
        return self.opening + self.mark.join(members) + self.closing


class Record(Mapping[str, object]):
    """One object's fields, whose encoded form is made once per wire and then kept.

    Args:
        fields: by name, type-correct and never changed afterwards; a changed object gets a new record.
        blank: a record with the same fields, most of them equal: their bytes are taken from it.
    """

    __slots__ = ("_blank", "_fields", "_forms", "_members")

    def __init__(self, fields: Mapping[str, object], blank: Record | None = None) -> None:
        self._fields = fields
        self._blank = blank
        self._members: dict[Wire, list[bytes]] = {}
        self._forms: dict[Wire, bytes] = {}

    def __getitem__(self, name: str) -> object:
        return self._fields[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)

    def __repr__(self) -> str:
        return f"Record({dict(self._fields)!r})"

    def encoded(self, wire: Wire) -> bytes:
        """Give the record's bytes on a wire, encoding at the first call only."""
        form = self._forms.get(wire)
        if form is None:
            form = self._forms[wire] = wire.struct(self._encode_members(wire))
        return form

    def parts(self, wire: Wire) -> tuple[bytes, ...]:
        """Give the same in parts that need not be copied to be sent."""
        return (self.encoded(wire),)

    def _encode_members(self, wire: Wire) -> list[bytes]:
        if self._blank is None:
            members = self._members.get(wire)
            if members is None:
                members = [wire.member(name, value) for name, value in self._fields.items()]
                self._members[wire] = members
            return members
        known = zip(self._blank._fields.values(), self._blank._encode_members(wire), strict=True)  # noqa: SLF001 - of its own class
        return [
            member if value == blank else wire.member(name, value)
            for (name, value), (blank, member) in zip(self._fields.items(), known, strict=True)
        ]


class RecordMap(Record):
    """All records of a class by reference, whose bytes are kept page by page.

    Args:
        records: by reference.
        before: the same class as it was; what is still the same of it is kept.
    """

    __slots__ = ("pages",)

    def __init__(self, records: Mapping[str, Record], before: RecordMap | None = None) -> None:
        super().__init__(records)
        refs, values = tuple(records), tuple(records.values())
        known = iter(before.pages if before is not None else ())
        self.pages: tuple[_Page, ...] = tuple(
            _Page(
                refs[start : start + PAGE_RECORDS], values[start : start + PAGE_RECORDS], start == 0
            ).or_same(next(known, None))
            for start in range(0, len(refs), PAGE_RECORDS)
        )

    def is_still(self, before: RecordMap) -> bool:
        """Tell whether nothing has changed, come or gone."""
        return self.pages == before.pages

    def parts(self, wire: Wire) -> tuple[bytes, ...]:
        """Give the mapping's bytes on a wire in parts, joining only those pages that are new."""
        if not self.pages:
            return (wire.struct(()),)
        return (*(page.encoded(wire) for page in self.pages), wire.closing)

    def encoded(self, wire: Wire) -> bytes:
        """Give the mapping's bytes on a wire."""
        return b"".join(self.parts(wire))


class _Page:
    """Some records that follow each other.

    Args:
        refs: of the records.
        records: in the same order; each has the same reference for ever.
        is_first: whether no page comes before.
    """

    __slots__ = ("_forms", "_is_first", "_refs", "records")

    def __init__(self, refs: Sequence[str], records: Sequence[Record], is_first: bool) -> None:
        self._refs = refs
        self.records = records
        self._is_first = is_first
        self._forms: dict[Wire, bytes] = {}

    def or_same(self, before: _Page | None) -> _Page:
        """Give the page that was in this place before if it holds the very same records, else this one."""
        if before is None or len(before.records) != len(self.records):
            return self
        return before if all(map(is_, self.records, before.records)) else self

    def encoded(self, wire: Wire) -> bytes:
        """Give the page's bytes on a wire with what stands before it, joining at the first call only."""
        form = self._forms.get(wire)
        if form is None:
            before = wire.opening if self._is_first else wire.mark
            pieces: list[bytes] = []
            for ref, record in zip(self._refs, self.records, strict=True):
                pieces += (before, wire.name(ref), record.encoded(wire), wire.end)
                before = wire.mark
            form = self._forms[wire] = b"".join(pieces)
        return form


def parse_int64(text: str) -> int:
    """Read an integer as OCaml's ``Int64.of_string`` does, which xapi uses on both wires.

    Args:
        text: a sign, then ``0x``, ``0o``, ``0b`` or ``0u`` or nothing, then digits with ``_`` between them;
            no blanks.

    Returns:
        A value of 64 bits; digits in another base than ten, or after ``0u``, wrap around to negative.

    Raises:
        ValueError: the text is no such number or does not fit.
    """
    match = _INT64.fullmatch(text)
    if match is None:
        raise ValueError(text)
    sign, prefix, digits = match[1], match[2], match[3].replace("_", "")
    number = int(digits, _BASES[prefix.lower()] if prefix else 10)
    if number > (UINT64_MAX if prefix else INT64_MAX + (sign == "-")):
        raise ValueError(text)
    signed = -number if sign == "-" else number
    return (signed - INT64_MIN) % (UINT64_MAX + 1) + INT64_MIN


def parse_double(text: str) -> float:
    """Read a float as OCaml's ``float_of_string`` does (decimal forms only).

    Raises:
        ValueError: the text is no such number.
    """
    if _DOUBLE.fullmatch(text) is None:
        raise ValueError(text)
    return float(text.replace("_", ""))


def parse_datetime(text: str) -> datetime:
    """Read a XenAPI datetime, with or without dashes, colons and zone.

    Returns:
        The moment in UTC; a text without a zone is taken as UTC, as xapi does.

    Raises:
        ValueError: the text is no date and time.
    """
    moment = datetime.fromisoformat(text)
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def format_datetime(moment: datetime) -> str:
    """Write a datetime as xapi does: ``20240101T13:20:11Z``, the only form that all SDKs read.

    Args:
        moment: aware; fractions of seconds are dropped.
    """
    utc = moment.astimezone(UTC)
    return f"{utc.year:04d}{utc:%m%dT%H:%M:%S}Z"
