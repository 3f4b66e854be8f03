"""Commands that show and set the fields of records, the same for each class of objects."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from xcpmem.api.cli_fields import EXPENSIVE, Access, Field, Input
from xcpmem.api.cli_frames import Error
from xcpmem.api.cli_records import find_field, keep_matching
from xcpmem.api.cli_run import STANDARD, Failed
from xcpmem.api.cli_words import parse_size
from xcpmem.api.values import parse_double, parse_int64
from xcpmem.errors import CommandError
from xcpmem.refs import NULL_REF

if TYPE_CHECKING:
    from xcpmem.api.cli_fields import RecordClass
    from xcpmem.api.cli_records import Item
    from xcpmem.api.cli_run import Run
    from xcpmem.api.values import Value


async def list_records(run: Run, kind: RecordClass) -> None:
    """Print the chosen columns of the objects that the filters leave.

    Raises:
        CommandError: a filter names no field.
    """
    items = await run.records.every(kind)
    everything = items
    skipped = {"params", *STANDARD}
    for name, value in (*kind.filters, *(pair for pair in run.words.params if pair[0] not in skipped)):
        items = await keep_matching(run.records, items, name, value)
    if run.words.flag("all"):
        items = everything
    wanted = run.words.get("params").split(",") if run.words.has("params") else kind.columns
    fields = [field for field in kind.fields if wanted == ["all"] or field.name in wanted]
    fields = [field for field in fields if not field.is_hidden]
    if run.printer.is_minimal:
        fields = fields[:1]
    rows = []
    for item in items:
        rows.append(
            [
                (field.label, EXPENSIVE if field.is_expensive else await run.records.text(item, field))
                for field in fields
            ],
        )
        # A thousand records are a while of pure computing: others get their turn in between.
        await asyncio.sleep(0)
    await run.printer.table(rows)


async def list_params(run: Run, kind: RecordClass) -> None:
    """Print every field of one object, expensive ones computed.

    Raises:
        UuidInvalid: there is no such object.
    """
    item = await run.records.one(kind, run.words.require("uuid"))
    fields = [field for field in kind.fields if not field.is_hidden]
    await run.printer.table([[(field.label, await run.records.text(item, field)) for field in fields]])


async def get_param(run: Run, kind: RecordClass) -> None:
    """Print one field of one object, or one key of a map.

    Raises:
        UuidInvalid: there is no such object.
        CommandError: the map has no such key.
        Failed: there is no such field.
    """
    item = await run.records.one(kind, run.words.require("uuid"))
    name = run.words.require("param-name")
    field = kind.find(name)
    if field is None:
        await run.printer.send(Error("Missing parameter", (name,)))
        raise Failed
    if field.is_map and run.words.has("param-key"):
        key = run.words.get("param-key")
        entries = await run.records.entries(item, field)
        if key not in entries:
            raise CommandError(f"Key {key} not found in map")
        await run.printer.values([entries[key]])
        return
    await run.printer.values([await run.records.text(item, field)])


async def set_params(run: Run, kind: RecordClass) -> None:
    """Set fields of one object in the order given, each by a call of its own.

    Raises:
        UuidInvalid: there is no such object.
        CommandError: a field is unknown or read-only, or its value cannot be read; the fields before it
            are set by then.
    """
    item = await run.records.one(kind, run.words.require("uuid"))
    skipped = {"uuid", *STANDARD}
    for name, value in run.words.params:
        if name not in skipped:
            field, key = find_field(kind, name)
            await (_set_key(run, item, field, key, value) if key else _set_field(run, item, field, value))


async def add_param(run: Run, kind: RecordClass) -> None:
    """Add keys to a map of one object, or a member to a set.

    Raises:
        UuidInvalid: there is no such object.
        CommandError: the field is unknown, or nothing can be added to it.
    """
    item = await run.records.one(kind, run.words.require("uuid"))
    field, _ = find_field(kind, run.words.require("param-name"))
    if field.access is Access.SRW:
        await run.call(f"{kind.name}.add_{field.path}", item.ref, run.words.require("param-key"))
    elif field.access is Access.MRW:
        for key, value in run.words.params:
            if key not in {"uuid", "param-name", "param-key", *STANDARD}:
                await run.call(f"{kind.name}.add_to_{field.path}", item.ref, key, value)
    else:
        raise CommandError("Cannot add parameters to this field")


async def remove_param(run: Run, kind: RecordClass) -> None:
    """Remove a key from a map of one object, or a member from a set.

    Raises:
        UuidInvalid: there is no such object.
        CommandError: the field is unknown, or nothing can be removed from it.
    """
    item = await run.records.one(kind, run.words.require("uuid"))
    field, _ = find_field(kind, run.words.require("param-name"))
    key = run.words.require("param-key")
    if field.access is Access.SRW:
        await run.call(f"{kind.name}.remove_{field.path}", item.ref, key)
    elif field.access is Access.MRW:
        await run.call(f"{kind.name}.remove_from_{field.path}", item.ref, key)
    else:
        raise CommandError("Cannot remove parameters from this field")


async def clear_param(run: Run, kind: RecordClass) -> None:
    """Empty a map or a set of one object.

    Raises:
        UuidInvalid: there is no such object.
        CommandError: the field is unknown, or cannot be emptied.
    """
    item = await run.records.one(kind, run.words.require("uuid"))
    field, _ = find_field(kind, run.words.require("param-name"))
    empty: dict[Access, Value] = {Access.SRW: [], Access.MRW: {}}
    if field.access not in empty:
        raise CommandError("Cannot clear this field: it is neither a map nor a set that can be changed")
    await run.call(f"{kind.name}.set_{field.path}", item.ref, empty[field.access])


async def _set_field(run: Run, item: Item, field: Field, text: str) -> None:
    if field.access in {Access.MRW, Access.SRW}:
        raise CommandError(f"Field '{field.name}' is a map or set. use the 'name:key=value' syntax.")
    if field.access is not Access.RW:
        raise CommandError(f"Field '{field.name}' is read-only.")
    value: Value = text
    if field.reads is Input.UUID:
        value = str(await run.call(f"{field.refers_to}.get_by_uuid", text)) if text else NULL_REF
    elif field.reads is not Input.TEXT:
        value = _read(field, text)
    await run.call(f"{item.kind.name}.set_{field.path}", item.ref, value)


def _read(field: Field, text: str) -> Value:
    failed = f"Failed to parse parameter '{field.name}': expecting"
    match field.reads:
        case Input.SIZE:
            return parse_size(field.name, text)
        case Input.WORD:
            return text.lower().replace("-", "_")
        case Input.BOOL if text in {"true", "false"}:
            return text == "true"
        case Input.BOOL:
            raise CommandError(f"{failed} a boolean (true or false)")
    try:
        return parse_int64(text) if field.reads is Input.INT else parse_double(text)
    except ValueError as error:
        if field.reads is Input.INT:
            raise CommandError(f"{failed} an integer") from error
        raise CommandError(f"Parameter {field.name} must be a floating-point number") from error


async def _set_key(run: Run, item: Item, field: Field, key: str, value: str) -> None:
    if field.is_set:
        raise CommandError("Cannot param-set on set fields")
    if field.access is not Access.MRW:
        raise CommandError(f"Map field '{field.name}' is read-only.")
    if key in await run.records.entries(item, field):
        await run.call(f"{item.kind.name}.remove_from_{field.path}", item.ref, key)
    await run.call(f"{item.kind.name}.add_to_{field.path}", item.ref, key, value)
