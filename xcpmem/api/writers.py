"""Messages that write a field which is the clients' own: one handler for all of them.

The datamodel says which fields these are; what an edit means follows from the message's kind, where it is
kept from the class.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from xcpmem.api.datamodel import Kind
from xcpmem.errors import InvalidValue, MapDuplicateKey

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from xcpmem.annotations import Edit
    from xcpmem.api.datamodel import Field, Message
    from xcpmem.api.dispatch import Caller, Handler
    from xcpmem.api.records import Records
    from xcpmem.service import Service

_RESTART_PRIORITIES: Final = frozenset({"", "best-effort", "restart"})

WRITING = frozenset(
    {Kind.SET_FIELD, Kind.ADD_KEY, Kind.REMOVE_KEY, Kind.ADD_MEMBER, Kind.REMOVE_MEMBER},
)
"""The kinds of message that are served here."""


class FieldWriters:
    """Makes the handlers.

    Args:
        service: keeps what is written.
        records: know the references.
    """

    def __init__(self, service: Service, records: Records) -> None:
        self._service = service
        self._records = records
        self._keepers: Mapping[str, Callable[[str, str, Edit], Awaitable[None]]] = {
            "VM": self._edit_vm,
            "host": self._edit_host,
            "pool": self._edit_pool,
        }

    def handler(self, message: Message) -> Handler:
        """Make the handler of a message that writes a field."""
        keep, field = self._keepers[message.class_name], message.field
        if field is None:
            raise ValueError(f"{message.wire_name} writes no field")

        async def handle(_: Caller, ref: str, *args: Any) -> None:
            self._records.record(message.class_name, ref)
            await keep(ref, field.name, _make_edit(message, field, ref, args))

        return handle

    async def _edit_vm(self, ref: str, name: str, edit: Edit) -> None:
        await self._service.labels.edit(self._records.vm_uuid(ref), name, edit)

    async def _edit_host(self, _: str, name: str, edit: Edit) -> None:
        await self._service.edit_host(name, edit)

    async def _edit_pool(self, _: str, name: str, edit: Edit) -> None:
        await self._service.edit_pool(name, edit)


def _make_edit(message: Message, field: Field, ref: str, args: tuple[Any, ...]) -> Edit:
    """Say what becomes of a field's value; one that was never written counts as the default."""

    def edit(present: Any) -> Any:
        if present is None:
            present = field.default
        match message.kind:
            case Kind.ADD_KEY:
                key, value = args
                if key in present:
                    raise MapDuplicateKey(message.class_name, field.name, ref, key)
                return {**present, key: value}
            case Kind.REMOVE_KEY:
                return {key: value for key, value in present.items() if key != args[0]}
            case Kind.ADD_MEMBER:
                return (*present, *(value for value in args if value not in present))
            case Kind.REMOVE_MEMBER:
                return tuple(value for value in present if value not in args)
            case _:
                (value,) = args
                _check(field.name, value)
                return tuple(dict.fromkeys(value)) if isinstance(value, tuple) else value

    return edit


def _check(name: str, value: Any) -> None:
    """Refuse what xapi refuses of a field's values, beside their type. Raises InvalidValue."""
    match name:
        case "order" | "start_delay" | "shutdown_delay":
            is_right = value >= 0
        case "ha_restart_priority":
            is_right = value in _RESTART_PRIORITIES
        case _:
            return
    if not is_right:
        raise InvalidValue(name, value)
