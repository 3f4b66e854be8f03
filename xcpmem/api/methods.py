"""One thin handler for each message: from references and typed arguments to the service, and back.

What xapi derives from fields is answered from the records; the rest is listed here class by class, so that
what is served can be read off a page. A message of the datamodel without a handler, or the other way
round, does not start.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from xcpmem.api.accounts import AccountMethods
from xcpmem.api.datamodel import Kind, load_datamodel
from xcpmem.api.events import EventMethods
from xcpmem.api.filters import parse_filter
from xcpmem.api.history import HistoryMethods
from xcpmem.api.lifecycle import LifecycleMethods
from xcpmem.api.policies import PolicyMethods
from xcpmem.api.registry import RegistryMethods
from xcpmem.api.roles import RoleMethods
from xcpmem.api.tasks import TaskMethods
from xcpmem.api.writers import WRITING, FieldWriters
from xcpmem.breather import Breather
from xcpmem.errors import UuidInvalid
from xcpmem.history import History
from xcpmem.refs import NULL_REF

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from xcpmem.api.datamodel import Message
    from xcpmem.api.dispatch import Caller, Handler
    from xcpmem.api.events import Events
    from xcpmem.api.records import Records
    from xcpmem.api.sessions import Sessions
    from xcpmem.api.tasks import Tasks
    from xcpmem.audit import AuditTrail
    from xcpmem.service import Service


def make_handlers(
    service: Service,
    records: Records,
    sessions: Sessions,
    tasks: Tasks,
    events: Events,
    *,
    trail: AuditTrail,
    history: History | None = None,
) -> dict[str, Handler]:
    """Make the handlers of all messages, by ``Class.message``.

    Args:
        service: carries out what changes or computes something.
        records: answer what asks for fields.
        sessions: log in and out.
        tasks: stand for work that goes on.
        events: tell what changes.
        trail: tells who changed what.
        history: tells what was decided; None: nothing is kept.
    """
    writers = FieldWriters(service, records)
    handlers: dict[str, Handler] = {
        message.wire_name: (
            writers.handler(message) if message.kind in WRITING else _make_generic(message, records)
        )
        for message in load_datamodel().messages()
        if message.kind is not Kind.CUSTOM
    }
    handlers.update(_SystemMethods().handlers())
    handlers.update(_SessionMethods(sessions).handlers())
    handlers.update(_HostMethods(service, records).handlers())
    handlers.update(_VmMethods(service, records, tasks).handlers())
    handlers.update(LifecycleMethods(service, records, tasks).handlers())
    handlers.update(RegistryMethods(service, records).handlers())
    handlers.update(RoleMethods(records, service.users.roles).handlers())
    handlers.update(TaskMethods(tasks).handlers())
    handlers.update(EventMethods(events).handlers())
    handlers.update(_MemoryMethods(service, records).handlers())
    handlers.update(HistoryMethods(history or History(None)).handlers())
    handlers.update(PolicyMethods(service.policies).handlers())
    handlers.update(AccountMethods(records, service.users, sessions, trail).handlers())
    return handlers


def _make_generic(message: Message, records: Records) -> Handler:
    """Make the handler of a message that the records can answer."""
    class_name, field = message.class_name, message.name.removeprefix("get_")
    if message.kind in {Kind.GET_WHERE, Kind.GET_RECORDS_WHERE}:
        return _make_search(message, records)
    answers: dict[Kind, Callable[..., object]] = {
        Kind.GET_ALL: lambda: records.refs(class_name),
        Kind.GET_ALL_RECORDS: lambda: records.records(class_name),
        Kind.GET_RECORD: lambda ref: records.record(class_name, ref),
        Kind.GET_BY_UUID: lambda uuid: records.find_by_uuid(class_name, uuid),
        Kind.GET_BY_NAME_LABEL: lambda label: records.find_by_name_label(class_name, label),
        Kind.GET_FIELD: lambda ref: records.record(class_name, ref)[field],
    }
    answer = answers[message.kind]

    async def handle(_: Caller, *args: object) -> object:
        return answer(*args)

    return handle


def _make_search(message: Message, records: Records) -> Handler:
    """Make the handler of a message that finds objects by an expression, which may be as long as a call."""

    async def handle(_: Caller, expression: str) -> object:
        applies, found, breather = parse_filter(expression), {}, Breather()
        for ref, record in tuple(records.records(message.class_name).items()):
            if applies(ref, record):
                found[ref] = record
            await breather.pause()
        return found if message.kind is Kind.GET_RECORDS_WHERE else tuple(found)

    return handle


class _SystemMethods:
    """What the server says of itself."""

    def __init__(self) -> None:
        self._names = tuple(message.wire_name for message in load_datamodel().messages())

    def handlers(self) -> dict[str, Handler]:
        return {"system.listMethods": self._list_methods}

    async def _list_methods(self, _: Caller) -> tuple[str, ...]:
        return self._names


class _SessionMethods:
    """Logging in and out."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    def handlers(self) -> dict[str, Handler]:
        return {
            "session.get_by_uuid": self._get_by_uuid,
            "session.login_with_password": self._login_with_password,
            "session.logout": self._logout,
        }

    async def _login_with_password(
        self,
        caller: Caller,
        uname: str,
        pwd: str,
        version: str = "",  # noqa: ARG002 - xapi ignores it too
        originator: str = "",
    ) -> str:
        session = await self._sessions.login(uname, pwd, caller.peer, originator)
        return session.ref

    async def _get_by_uuid(self, caller: Caller, uuid: str) -> str:
        """Tell callers of their own session alone: a uuid is public, a reference is all that a login is."""
        if uuid != caller.owner.uuid:
            raise UuidInvalid("session", uuid)
        return caller.owner.ref

    async def _logout(self, caller: Caller) -> None:
        await self._sessions.logout(caller.owner)


class _HostMethods:
    """What a host can be asked."""

    def __init__(self, service: Service, records: Records) -> None:
        self._service = service
        self._records = records

    def handlers(self) -> dict[str, Handler]:
        return {
            "host.compute_free_memory": self._of_host(self._service.compute_free_memory),
            "host.compute_memory_overhead": self._of_host(self._service.compute_host_memory_overhead),
            "host.get_uncooperative_resident_VMs": self._of_host(self._list_uncooperative),
        }

    def _of_host(self, compute: Callable[[], object]) -> Handler:
        async def handle(_: Caller, ref: str) -> object:
            self._records.record("host", ref)
            return compute()

        return handle

    def _list_uncooperative(self) -> tuple[str, ...]:
        return tuple(vm.ref for vm in self._service.vms().values() if vm.is_resident and vm.uncooperative)


class _VmMethods:
    """The memory of a VM, and what it costs."""

    def __init__(self, service: Service, records: Records, tasks: Tasks) -> None:
        self._service = service
        self._records = records
        self._tasks = tasks

    def handlers(self) -> dict[str, Handler]:
        service = self._service
        return {
            "VM.set_memory_limits": self._set_memory_limits,
            "VM.set_memory": self._on_vm(service.set_memory),
            "VM.set_memory_static_range": self._on_vm(service.set_memory_static_range),
            "VM.set_memory_static_min": self._on_vm(service.set_memory_static_min),
            "VM.set_memory_static_max": self._on_vm(service.set_memory_static_max),
            "VM.set_memory_dynamic_range": self._on_vm(service.set_memory_dynamic_range),
            "VM.set_memory_dynamic_min": self._on_vm(service.set_memory_dynamic_min),
            "VM.set_memory_dynamic_max": self._on_vm(service.set_memory_dynamic_max),
            "VM.set_memory_target_live": self._on_vm(service.set_memory_target_live),
            "VM.wait_memory_target_live": self._wait_memory_target_live,
            "VM.get_cooperative": self._get_cooperative,
            "VM.set_HVM_shadow_multiplier": self._on_vm(service.set_HVM_shadow_multiplier),
            "VM.set_shadow_multiplier_live": self._on_vm(service.set_shadow_multiplier_live),
            "VM.set_VCPUs_max": self._on_vm(service.set_VCPUs_max),
            "VM.compute_memory_overhead": self._of_vm(service.compute_memory_overhead),
            "VM.maximise_memory": self._of_vm(service.maximise_memory),
        }

    def _on_vm(self, act: Callable[..., Awaitable[None]]) -> Handler:
        async def handle(_: Caller, ref: str, *args: object) -> None:
            await act(self._records.vm_uuid(ref), *args)

        return handle

    def _of_vm(self, compute: Callable[..., int]) -> Handler:
        async def handle(_: Caller, ref: str, *args: object) -> int:
            return compute(self._records.vm_uuid(ref), *args)

        return handle

    async def _set_memory_limits(
        self, _: Caller, ref: str, static_min: int, static_max: int, dynamic_min: int, dynamic_max: int
    ) -> None:
        await self._service.set_memory_limits(
            self._records.vm_uuid(ref),
            static_min=static_min,
            static_max=static_max,
            dynamic_min=dynamic_min,
            dynamic_max=dynamic_max,
        )

    async def _wait_memory_target_live(self, caller: Caller, ref: str) -> None:
        self._tasks.allow_cancel(caller.task)
        wait = self._service.wait_memory_target_live(self._records.vm_uuid(ref), caller.task)
        await (wait if caller.task != NULL_REF else caller.peer.presence.keep(wait))

    async def _get_cooperative(self, _: Caller, ref: str) -> bool:
        self._records.vm_uuid(ref)
        return True


class _MemoryMethods:
    """Reservations; they belong to the session's public name, for they stand where others can read them."""

    def __init__(self, service: Service, records: Records) -> None:
        self._service = service
        self._records = records

    def handlers(self) -> dict[str, Handler]:
        service = self._service
        return {
            "Memory.reserve_memory": self._reserve_memory,
            "Memory.reserve_memory_range": self._reserve_memory_range,
            "Memory.transfer_reservation_to_domain": _without_caller(service.reservations.transfer),
            "Memory.delete_reservation": _without_caller(service.reservations.delete),
            "Memory.query_reservation_of_domain": _computed(service.reservations.of_domain),
            "Memory.balance_memory": _without_caller(service.reservations.balance),
            "Memory.get_host_reserved_memory": _computed(service.get_host_reserved_memory),
            "Memory.get_host_initial_free_memory": _computed(service.get_host_initial_free_memory),
            "Memory.get_domain_zero_policy": _computed(service.get_domain_zero_policy),
            "Memory.get_diagnostics": _computed(service.get_diagnostics),
            "Memory.explain": self._explain,
            "Memory.plan": self._plan,
        }

    async def _explain(self, _: Caller, ref: str) -> str:
        return self._service.foresight.explain(self._records.vm_uuid(ref))

    async def _plan(self, _: Caller, wishes: Mapping[str, str]) -> str:
        return json.dumps(await self._service.foresight.plan(wishes), ensure_ascii=False)

    async def _reserve_memory(self, caller: Caller, size_kib: int) -> str:
        return await self._service.reservations.reserve_exactly(caller.owner.uuid, size_kib)

    async def _reserve_memory_range(self, caller: Caller, min_kib: int, max_kib: int) -> tuple[str, int]:
        return await self._service.reservations.reserve(caller.owner.uuid, min_kib, max_kib)


def _without_caller(act: Callable[..., Awaitable[None]]) -> Handler:
    async def handle(_: Caller, *args: object) -> None:
        await act(*args)

    return handle


def _computed(compute: Callable[..., object]) -> Handler:
    async def handle(_: Caller, *args: object) -> object:
        return compute(*args)

    return handle
