"""Every object that XenAPI shows, found by reference, uuid or name, as a full record.

A record is made anew only when its object has changed, and keeps its encoded forms, so that
``VM.get_all_records`` of a thousand VMs consists of bytes that exist already, joined by the page; only pages
in which something has changed since the last call are joined again.
"""

from __future__ import annotations

from collections import defaultdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol, cast

from xcpmem.api import fields
from xcpmem.api.roles import ROLE, SUBJECT, Subjects, role_records
from xcpmem.api.values import Record, RecordMap
from xcpmem.errors import HandleInvalid, UuidInvalid
from xcpmem.refs import opaque_ref

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping

    from xcpmem.api.sessions import Sessions
    from xcpmem.api.tasks import Tasks
    from xcpmem.users import User
    from xcpmem.vm import HostFacts, Vm

_OF_VMS: Final = ("VM", "VM_metrics", "VM_guest_metrics")
_DATED: Final = frozenset({"VM_metrics", "VM_guest_metrics", "host_metrics"})
_MOMENT: Final = "last_updated"


class Inventory(Protocol):
    """What records are made of; the service."""

    def vms(self) -> Mapping[str, Vm]:
        """All VMs by uuid, the control domain included."""

    def host(self) -> HostFacts:
        """The one host."""

    @property
    def version(self) -> Hashable:
        """Another one after each change of a VM, and after each VM that comes or goes."""

    @property
    def pool_uuid(self) -> str:
        """The one pool."""

    @property
    def pool_annotations(self) -> Mapping[str, Any]:
        """What clients wrote on it, by field; a new map after each change."""


class _Same:
    """A version by identity, of what is replaced and never changed; it keeps the thing, so ids stay apart."""

    def __init__(self, thing: object) -> None:
        self._thing = thing

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and other._thing is self._thing

    def __hash__(self) -> int:
        return id(self._thing)


class _Gathered(NamedTuple):
    """All records of a class, and what they were made of."""

    version: Hashable
    vms: tuple[Vm, ...]
    found: dict[str, Record]
    records: RecordMap


class _Made(NamedTuple):
    """A record, the version of the object it was made for, and what was known then."""

    version: Hashable
    known: fields.Fields
    record: Record


def _has(class_name: str, vm: Vm) -> bool:
    """Tell whether a VM has an object of one of the classes that are made of VMs."""
    return class_name != "VM_guest_metrics" or fields.has_guest_metrics(vm)


def _has_the_same_objects(vm: Vm, before: Vm) -> bool:
    return vm.uuid == before.uuid and fields.has_guest_metrics(vm) == fields.has_guest_metrics(before)


class Records:
    """The records of all objects.

    Args:
        inventory: the VMs, the host and the pool.
        sessions: the open sessions; whoever has a session's reference may see its record.
        tasks: keep their records themselves.
        now: the time of day, for ``last_updated``.
        users: all of them by name; by default there are none but root.
    """

    def __init__(
        self,
        inventory: Inventory,
        sessions: Sessions,
        tasks: Tasks,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        *,
        users: Callable[[], Mapping[str, User]] = dict,
    ) -> None:
        self._shelves: Mapping[str, Callable[[], RecordMap]] = {
            ROLE: role_records,
            SUBJECT: Subjects(users).records,
        }
        self._inventory = inventory
        self._sessions = sessions
        self._tasks = tasks
        self._now = now
        self._refs: dict[str, dict[str, str]] = {}  # of the classes made of VMs, by VM uuid and class
        self._uuids: dict[tuple[str, str], str] = {}  # the same the other way round
        self._made: defaultdict[str, dict[str, _Made]] = defaultdict(dict)  # by class and uuid
        self._gathered: dict[str, _Gathered] = {}  # by class

    def refs(self, class_name: str) -> tuple[str, ...]:
        """List the references of a class; sessions are listed to nobody."""
        if class_name in _OF_VMS:
            return tuple(self._refs[vm.uuid][class_name] for vm in self._vms_with(class_name))
        if class_name == "task":
            return self._tasks.refs()
        if class_name in self._shelves:
            return tuple(self._shelves[class_name]())
        return (self._single_ref(class_name),)

    def records(self, class_name: str) -> Mapping[str, Record]:
        """Give all records of a class by reference: the same mapping until one of them changes."""
        if class_name in self._shelves:
            return cast("Mapping[str, Record]", self._shelves[class_name]())
        version = self._inventory.version
        before = self._gathered.get(class_name)
        if before is not None and before.version == version and class_name in _OF_VMS:
            return cast("Mapping[str, Record]", before.records)
        vms = tuple(self._inventory.vms().values()) if class_name in _OF_VMS else ()
        found = self._gather(class_name, vms, before)
        records = RecordMap(found, before.records if before is not None else None)
        if before is not None and records.is_still(before.records):
            records = before.records
        self._gathered[class_name] = _Gathered(version, vms, found, records)
        return cast("Mapping[str, Record]", records)

    def _gather(self, class_name: str, vms: tuple[Vm, ...], before: _Gathered | None) -> dict[str, Record]:
        if class_name == "task":
            return {ref: self._tasks.record(ref) for ref in self._tasks.refs()}
        if class_name not in _OF_VMS:
            return {self._single_ref(class_name): self._single(class_name)}
        self._index()
        if before is not None and len(vms) == len(before.vms):
            changed = [(vm, known) for vm, known in zip(vms, before.vms, strict=True) if vm is not known]
            if all(_has_the_same_objects(vm, known) for vm, known in changed):
                return before.found | self._make(class_name, (vm for vm, _ in changed))
        return self._make(class_name, vms)

    def _make(self, class_name: str, vms: Iterable[Vm]) -> dict[str, Record]:
        """Give the records of those VMs that have an object of the class."""
        return {
            self._refs[vm.uuid][class_name]: self._of_vm(class_name, vm) for vm in vms if _has(class_name, vm)
        }

    def record(self, class_name: str, ref: str) -> Record:
        """Give one record.

        Raises:
            HandleInvalid: no living object of the class has the reference.
        """
        if class_name in _OF_VMS:
            return self._of_vm(class_name, self._find_vm(class_name, ref))
        if class_name == "task":
            return self._tasks.record(ref)
        if class_name == "session":
            session = self._sessions.peek(ref)
            if session is not None:
                return fields.complete(class_name, fields.session_fields(session, self._single_ref("host")))
        elif class_name in self._shelves:
            found = self.records(class_name).get(ref)
            if found is not None:
                return found
        elif ref == self._single_ref(class_name):
            return self._single(class_name)
        raise HandleInvalid(class_name, ref)

    def vm_uuid(self, ref: str) -> str:
        """Tell which VM a reference means.

        Raises:
            HandleInvalid: no VM has it.
        """
        return self._find_vm("VM", ref).uuid

    def find_by_uuid(self, class_name: str, uuid: str) -> str:
        """Find the reference of an object; a session's is a secret and found for nobody.

        Raises:
            UuidInvalid: no object of the class has the uuid.
        """
        if class_name == "VM" and uuid in self._inventory.vms():
            return opaque_ref(class_name, uuid)
        if class_name not in {"VM", "session"}:
            for ref, record in self.records(class_name).items():
                if record["uuid"] == uuid:
                    return ref
        raise UuidInvalid(class_name, uuid)

    def find_by_name_label(self, class_name: str, label: str) -> tuple[str, ...]:
        """Find the references of all objects of a name; none is no error."""
        return tuple(ref for ref, record in self.records(class_name).items() if record["name_label"] == label)

    def _vms_with(self, class_name: str) -> Iterator[Vm]:
        """Go through the VMs that have an object of a class."""
        self._index()
        return (vm for vm in self._inventory.vms().values() if _has(class_name, vm))

    def _find_vm(self, class_name: str, ref: str) -> Vm:
        vms = self._inventory.vms()
        if (class_name, ref) not in self._uuids:
            self._index()
        vm = vms.get(self._uuids.get((class_name, ref), ""))
        if vm is None or not _has(class_name, vm):
            raise HandleInvalid(class_name, ref)
        return vm

    def _index(self) -> None:
        """Learn the references of new VMs, forget what was kept of those that are gone."""
        vms = self._inventory.vms()
        if self._refs.keys() == vms.keys():
            return
        for uuid in self._refs.keys() - vms.keys():
            for class_name, ref in self._refs.pop(uuid).items():
                del self._uuids[class_name, ref]
                self._made[class_name].pop(uuid, None)
        for uuid in vms.keys() - self._refs.keys():
            self._refs[uuid] = {
                "VM": opaque_ref("VM", uuid),
                "VM_metrics": fields.metrics_ref("VM_metrics", uuid),
                "VM_guest_metrics": fields.metrics_ref("VM_guest_metrics", uuid),
            }
            self._uuids.update(dict.fromkeys(self._refs[uuid].items(), uuid))

    def _of_vm(self, class_name: str, vm: Vm) -> Record:
        made = self._made[class_name].get(vm.uuid)
        if made is not None and made.version == vm.version:
            return made.record
        return self._keep(class_name, vm.uuid, vm.version, lambda: self._describe(class_name, vm))

    def _describe(self, class_name: str, vm: Vm) -> fields.Fields:
        match class_name:
            case "VM":
                return fields.vm_fields(vm, self._single_ref("host"))
            case "VM_metrics":
                return fields.vm_metrics_fields(vm)
            case _:
                return fields.vm_guest_metrics_fields(vm)

    def _single_ref(self, class_name: str) -> str:
        """Give the reference of the one object of a class."""
        host = self._inventory.host()
        match class_name:
            case "host":
                return opaque_ref(class_name, host.uuid)
            case "host_metrics":
                return fields.metrics_ref(class_name, host.uuid)
            case _:
                return opaque_ref(class_name, self._inventory.pool_uuid)

    def _single(self, class_name: str) -> Record:
        """Give the record of the one object of a class."""
        host = self._inventory.host()
        match class_name:
            case "host":
                residents = tuple(vm for vm in self._inventory.vms().values() if vm.is_resident)
                version: Hashable = (host.version, tuple(vm.uuid for vm in residents))
                return self._keep(class_name, host.uuid, version, lambda: fields.host_fields(host, residents))
            case "host_metrics":
                return self._keep(
                    class_name, host.uuid, host.version, lambda: fields.host_metrics_fields(host)
                )
            case _:
                uuid, annotations = self._inventory.pool_uuid, self._inventory.pool_annotations
                master = self._single_ref("host")
                return self._keep(
                    class_name,
                    uuid,
                    _Same(annotations),
                    lambda: fields.pool_fields(uuid, master, annotations),
                )

    def _keep(
        self, class_name: str, uuid: str, version: Hashable, make: Callable[[], fields.Fields]
    ) -> Record:
        """Give the record that was made for this version of the object, or make it.

        Objects share a version, so a new one need not mean that this record says anything new.
        """
        made = self._made[class_name].get(uuid)
        if made is None or made.version != version:
            known = make()
            if made is not None and made.known == known:
                record = made.record
            else:
                moment = {_MOMENT: self._now()} if class_name in _DATED else {}
                record = fields.complete(class_name, known | moment)
            made = self._made[class_name][uuid] = _Made(version, known, record)
        return made.record
