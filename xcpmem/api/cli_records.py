"""The objects that one command looks at: their records, and the values of their fields as text.

Everything comes from XenAPI calls, so that a command sees exactly what any other client may see. Records
are fetched when a field first needs them and kept as long as the command runs.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Final, Protocol

from xcpmem.api.cli_fields import (
    INVALID_REFERENCE,
    NOT_IN_DATABASE,
    RECORD_CLASSES,
    Access,
    Field,
    Form,
)
from xcpmem.api.values import format_datetime
from xcpmem.errors import CommandError, HandleInvalid, MethodUnknown, XcpmemError
from xcpmem.refs import NULL_REF

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from xcpmem.api.cli_fields import RecordClass
    from xcpmem.api.values import Value

_WITHIN: Final = {
    ("VM", "metrics"): "VM_metrics",
    ("VM", "guest_metrics"): "VM_guest_metrics",
    ("host", "metrics"): "host_metrics",
}
_TRISTATE: Final = {"yes": "true", "no": "false"}
_SHAPES: Final[Mapping[Form, Callable[[str], str]]] = {
    Form.LOWER: str.lower,
    Form.DASHES: lambda text: text.replace("_", "-"),
    Form.SENTENCE: lambda text: text.replace("coredump", "core dump").replace("_", " ").capitalize(),
    Form.QUOTED: lambda text: f"'{text}'",
    Form.TRISTATE: lambda text: _TRISTATE.get(text, text),
}
_REF_START: Final = "OpaqueRef:"


class Call(Protocol):
    """A XenAPI call in the command's session."""

    async def __call__(self, method: str, *params: Value) -> object:
        """Call ``method`` with typed parameters, the session not among them."""


@dataclass(frozen=True, slots=True)
class Item:
    """An object that a command looks at.

    Args:
        kind: its class.
        ref: its reference.
        record: its XenAPI record.
    """

    kind: RecordClass
    ref: str
    record: Mapping[str, object]

    @property
    def uuid(self) -> str:
        """The object's uuid."""
        return str(self.record["uuid"])


class Records:
    """Fetches records and writes their fields as text.

    Args:
        call: makes the XenAPI calls.
    """

    def __init__(self, call: Call) -> None:
        self._call = call
        self._tables: dict[str, Mapping[str, Mapping[str, object]]] = {}
        self._single: dict[str, Mapping[str, object] | None] = {}
        self._is_listing = False

    async def every(self, kind: RecordClass) -> list[Item]:
        """Give all objects of a class, in the server's order."""
        self._is_listing = True
        return [Item(kind, ref, record) for ref, record in (await self._table(kind.name)).items()]

    async def one(self, kind: RecordClass, uuid: str) -> Item:
        """Give the object with a uuid.

        Raises:
            UuidInvalid: there is none.
        """
        ref = str(await self._call(f"{kind.name}.get_by_uuid", uuid))
        return Item(kind, ref, _mapping(await self._call(f"{kind.name}.get_record", ref)))

    async def text(self, item: Item, field: Field) -> str:
        """Write a field's value as one text.

        Args:
            item: whose field.
            field: one of its class; computed now if it is an expensive one.

        Returns:
            Sets joined by ``; `` (tags and the like by ``, ``), maps as ``k: v; k2: v2``, floats with three
            digits, times as on the wire, references as uuids.
        """
        try:
            value = await self._value(item, field)
        except HandleInvalid:
            return INVALID_REFERENCE
        if value is None:
            return field.absent
        if isinstance(value, Mapping):
            return "; ".join(f"{key}: {entry}" for key, entry in value.items())
        if isinstance(value, list):
            return (", " if field.form is Form.COMMAS else "; ").join(value)
        return str(value)

    async def members(self, item: Item, field: Field) -> list[str]:
        """Give the members of a set as texts, none where there is no record to look into."""
        value = await self._value(item, field)
        return value if isinstance(value, list) else []

    async def entries(self, item: Item, field: Field) -> Mapping[str, str]:
        """Give a map as texts, empty where there is no record to look into."""
        value = await self._value(item, field)
        return value if isinstance(value, Mapping) else {}

    async def name_of(self, ref: str) -> str:
        """Give what people know an object by.

        Args:
            ref: any text.

        Returns:
            ``uuid (name-label)``, or the text itself if it is no reference to a living object.
        """
        if not ref.startswith(_REF_START):
            return ref
        for kind in RECORD_CLASSES.values():
            try:
                record = (await self._table(kind.name)).get(ref)
            except XcpmemError:
                # Without a session an error still has to be told; the bare reference will have to do.
                return ref
            if record is not None:
                return f"{record['uuid']} ({record['name_label']})"
        return ref

    async def _value(self, item: Item, field: Field) -> str | list[str] | Mapping[str, str] | None:
        """Give a field's value with everything in it as text; None if there is no record to look into."""
        value: object
        if field.call:
            try:
                value = await self._call(field.call, item.ref)
            except MethodUnknown:
                return None
        else:
            record = await self._within(item, field.within) if field.within else item.record
            if record is None:
                return None
            value = record.get(field.path, _empty(field))
        if isinstance(value, Mapping):
            entries = {str(key): await self._scalar(entry, field) for key, entry in value.items()}
            return list(entries.values()) if field.form is Form.OPERATIONS else entries
        if isinstance(value, Collection) and not isinstance(value, str):
            return [await self._scalar(entry, field) for entry in value]
        if field.form is Form.LIVE and item.record.get("power_state") not in {"Running", "Paused"}:
            return "0"
        return await self._scalar(value, field)

    async def _scalar(self, value: object, field: Field) -> str:
        if field.refers_to:
            return await self._uuid_of(field.refers_to, str(value))
        text = format_scalar(value)
        shape = _SHAPES.get(field.form)
        return shape(text) if shape else text

    async def _uuid_of(self, class_name: str, ref: str) -> str:
        if ref == NULL_REF:
            return NOT_IN_DATABASE
        record = (await self._table(class_name)).get(ref)
        return NOT_IN_DATABASE if record is None else str(record["uuid"])

    async def _within(self, item: Item, reference: str) -> Mapping[str, object] | None:
        ref = str(item.record.get(reference, NULL_REF))
        if ref == NULL_REF:
            return None
        class_name = _WITHIN[item.kind.name, reference]
        if self._is_listing:
            return (await self._table(class_name)).get(ref)
        if ref not in self._single:
            try:
                self._single[ref] = _mapping(await self._call(f"{class_name}.get_record", ref))
            except HandleInvalid:
                self._single[ref] = None
        return self._single[ref]

    async def _table(self, class_name: str) -> Mapping[str, Mapping[str, object]]:
        if class_name not in self._tables:
            try:
                records = _mapping(await self._call(f"{class_name}.get_all_records"))
            except MethodUnknown:
                records = {}
            self._tables[class_name] = {ref: _mapping(record) for ref, record in records.items()}
        return self._tables[class_name]


def _mapping(value: object) -> Mapping[str, object]:
    if not isinstance(value, Mapping):
        raise TypeError(f"a record or map of records, not {type(value).__name__}")
    return value


def _empty(field: Field) -> object:
    """Give what a field reads that the server's record does not have."""
    if field.is_map:
        return {}
    if field.is_set:
        return []
    return NULL_REF if field.refers_to else ""


def format_scalar(value: object) -> str:
    """Write a single value as `xe` does: truth in small letters, floats with three digits, times in UTC."""
    match value:
        case bool():
            return "true" if value else "false"
        case float():
            return f"{value:.3f}"
        case datetime():
            return format_datetime(value)
        case _:
            return str(value)


def find_field(kind: RecordClass, name: str) -> tuple[Field, str]:
    """Find the field that a key of a command line means.

    Args:
        kind: whose fields.
        name: a field's name; ``map:key`` or ``set:contains``; or, as old scripts have it, ``map-key``.

    Returns:
        The field, and what stands behind its name (empty for the plain name).

    Raises:
        CommandError: there is no such field, or it is neither map nor set.
    """
    field = kind.find(name)
    if field is not None:
        return field, ""
    stem, colon, key = name.partition(":")
    if colon:
        field = kind.find(stem)
        if field is None:
            raise CommandError(f"Unknown field '{name}'")
        if not (field.is_map or field.is_set):
            raise CommandError(f"Field '{stem}' is not a set or map")
        return field, key
    longest_first = sorted(kind.fields, key=lambda field: -len(field.name))
    for access in ({Access.MRO, Access.MRW}, {Access.SRO, Access.SRW}):
        for field in longest_first:
            if field.access in access and name.startswith(f"{field.name}-"):
                return field, name.removeprefix(f"{field.name}-")
    raise CommandError(f"Unknown field '{name}'")


async def keep_matching(records: Records, items: Sequence[Item], name: str, value: str) -> list[Item]:
    """Keep the items of which a field has a value.

    Args:
        records: reads the fields.
        items: all of one class.
        name: as for `find_field`.
        value: what the field, the map's key or a member of the set must be.

    Raises:
        CommandError: there is no such field; with no items at all that goes unnoticed, as with `xe`.
    """
    if not items:
        return []
    field, key = find_field(items[0].kind, name)
    if key and field.is_set and key != "contains":
        raise CommandError("Invalid syntax for set filtering (should be set-param:contains=key)")
    kept = []
    for item in items:
        if key and field.is_set:
            matches = value in await records.members(item, field)
        elif key:
            matches = (await records.entries(item, field)).get(key) == value
        else:
            matches = await records.text(item, field) == value
        if matches:
            kept.append(item)
    return kept
