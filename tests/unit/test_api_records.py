"""Records: complete, of the right types, found by every name, and made only when something changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from tests.apistack import GIB, NETWORK, PASSWORD, OneUser, no_delay
from xcpmem.api import codec, jsonrpc
from xcpmem.api.datamodel import load_datamodel
from xcpmem.api.fields import complete
from xcpmem.api.marshal import make_check
from xcpmem.api.records import Records
from xcpmem.api.sessions import SessionClock, Sessions
from xcpmem.api.tasks import Tasks
from xcpmem.api.typenames import EPOCH
from xcpmem.api.values import PAGE_RECORDS, Record, RecordMap, Wire
from xcpmem.errors import HandleInvalid, UuidInvalid
from xcpmem.refs import NULL_REF, opaque_ref
from xcpmem.vm import HostFacts, Vm

if TYPE_CHECKING:
    from collections.abc import Hashable

DOM0, RUNNING, PAUSED, HALTED = (f"00000000-0000-4000-8000-00000000000{digit}" for digit in "0123")
HOST = "11111111-0000-4000-8000-000000000000"
POOL = "22222222-0000-4000-8000-000000000000"
NOW = datetime(2024, 1, 1, 12, 0, 0, tzinfo=UTC)
LISTED = ["pool", "host", "host_metrics", "VM", "VM_metrics", "VM_guest_metrics"]


FACTS = HostFacts(
    uuid=HOST,
    name_label="laptop",
    hostname="laptop.test",
    address="192.0.2.7",
    cpu_count=8,
    memory_total=16 * GIB,
    memory_free=5 * GIB,
    memory_overhead=GIB,
)


def a_vm(uuid: str, name_label: str, **changes: object) -> Vm:
    vm = Vm(
        uuid=uuid,
        name_label=name_label,
        memory_static_min=GIB,
        memory_static_max=8 * GIB,
        memory_dynamic_min=2 * GIB,
        memory_dynamic_max=4 * GIB,
        memory_target=3 * GIB,
        VCPUs_max=4,
        VCPUs_at_startup=2,
        domain_type="pvh",
    )
    return replace(vm, **changes)  # type: ignore[arg-type]


def some_vms() -> dict[str, Vm]:
    vms = [
        a_vm(
            DOM0, "Control domain", domid=0, power_state="Running", is_control_domain=True, domain_type="pv"
        ),
        a_vm(RUNNING, "web", domid=1, power_state="Running", memory_actual=3 * GIB, start_time_s=1.5e9),
        a_vm(
            PAUSED, "web", domid=2, power_state="Paused", platform={"nested-virt": "true"}, domain_type="hvm"
        ),
        a_vm(HALTED, "<&>", blocked_operations={"changing_static_range": "WHY"}, other_config={"a": "b"}),
    ]
    return {vm.uuid: vm for vm in vms}


@dataclass
class Fixed:
    """An inventory that stands still until a test changes it."""

    all_vms: dict[str, Vm] = field(default_factory=some_vms)
    facts: HostFacts = FACTS
    pool_uuid: str = POOL
    pool_annotations: Mapping[str, Any] = field(default_factory=dict)

    def vms(self) -> Mapping[str, Vm]:
        return self.all_vms

    def rename(self, uuid: str, name_label: str) -> None:
        vm = self.all_vms[uuid]
        self.all_vms[uuid] = replace(vm, name_label=name_label, version=vm.version + 1)

    def host(self) -> HostFacts:
        return self.facts

    @property
    def version(self) -> Hashable:
        return tuple((uuid, vm.version) for uuid, vm in self.all_vms.items())


async def release(_: str) -> None:
    """Nothing is owned here."""


@pytest.fixture
async def sessions() -> Sessions:
    return Sessions(OneUser(), release, clock=SessionClock(sleep=no_delay))


@pytest.fixture
def inventory() -> Fixed:
    return Fixed()


@pytest.fixture
def records(inventory: Fixed, sessions: Sessions) -> Records:
    return Records(inventory, sessions, Tasks(HOST), lambda: NOW)


def only(records: Records, class_name: str) -> Record:
    (record,) = records.records(class_name).values()
    return record


def vm_record(records: Records, uuid: str, class_name: str = "VM") -> Record:
    record = records.record("VM", opaque_ref("VM", uuid))
    field_name = {"VM_metrics": "metrics", "VM_guest_metrics": "guest_metrics"}.get(class_name)
    return records.record(class_name, str(record[field_name])) if field_name else record


@pytest.mark.parametrize("class_name", LISTED)
def test_records_have_all_fields_in_order_and_of_their_types(records: Records, class_name: str) -> None:
    declared = load_datamodel().classes[class_name].fields
    found = records.records(class_name)
    assert found
    for record in found.values():
        assert list(record) == list(declared)
        wrong = {n: v for n, v in record.items() if not make_check(declared[n].type)(v)}
        assert wrong == {}


@pytest.mark.parametrize("class_name", LISTED)
def test_references_lead_to_records_and_uuids_lead_back(records: Records, class_name: str) -> None:
    found = records.records(class_name)
    assert list(found) == list(records.refs(class_name))
    for ref, record in found.items():
        assert records.record(class_name, ref) is record
        assert records.find_by_uuid(class_name, str(record["uuid"])) == ref


@pytest.mark.parametrize("class_name", [*LISTED, "session"])
@pytest.mark.parametrize("wrong", ["", NULL_REF, "OpaqueRef:11111111-1111-4111-8111-111111111111", "web"])
def test_what_names_nothing_is_refused(records: Records, class_name: str, wrong: str) -> None:
    with pytest.raises(HandleInvalid) as no_ref:
        records.record(class_name, wrong)
    assert no_ref.value.params == (class_name, wrong)
    with pytest.raises(UuidInvalid) as no_uuid:
        records.find_by_uuid(class_name, wrong)
    assert no_uuid.value.params == (class_name, wrong)


def test_reference_of_another_class_is_refused(records: Records) -> None:
    (host,) = records.refs("host")
    with pytest.raises(HandleInvalid):
        records.record("VM", host)
    with pytest.raises(HandleInvalid):
        records.record("host", opaque_ref("VM", RUNNING))
    with pytest.raises(HandleInvalid):
        records.vm_uuid(str(vm_record(records, RUNNING)["metrics"]))


def test_name_labels_are_no_key(records: Records) -> None:
    assert set(records.find_by_name_label("VM", "web")) == {
        opaque_ref("VM", RUNNING),
        opaque_ref("VM", PAUSED),
    }
    assert records.find_by_name_label("VM", "nobody") == ()
    assert records.find_by_name_label("host", "laptop") == records.refs("host")


def test_vm_record_says_what_is_known(records: Records) -> None:
    record = vm_record(records, RUNNING)
    (host,) = records.refs("host")
    expected = {
        "uuid": RUNNING,
        "name_label": "web",
        "power_state": "Running",
        "resident_on": host,
        "domid": 1,
        "memory_static_min": GIB,
        "memory_static_max": 8 * GIB,
        "memory_dynamic_min": 2 * GIB,
        "memory_dynamic_max": 4 * GIB,
        "memory_target": 3 * GIB,
        "HVM_shadow_multiplier": 1.0,
        "VCPUs_max": 4,
        "VCPUs_at_startup": 2,
        "domain_type": "pvh",
        "is_control_domain": False,
        "suspend_VDI": NULL_REF,
        "snapshot_time": EPOCH,
        "VBDs": (),
        "actions_after_shutdown": "destroy",
        "actions_after_crash": "restart",
    }
    assert {name: record[name] for name in expected} == expected


def test_halted_vm_is_nowhere_and_has_nobody_to_report(records: Records) -> None:
    record = vm_record(records, HALTED)
    assert (record["resident_on"], record["domid"], record["guest_metrics"]) == (NULL_REF, -1, NULL_REF)
    metrics = vm_record(records, HALTED, "VM_metrics")
    assert (metrics["memory_actual"], metrics["VCPUs_number"]) == (0, 0)
    assert (metrics["current_domain_type"], metrics["start_time"]) == ("unspecified", EPOCH)


def test_metrics_say_what_is_measured(records: Records) -> None:
    metrics = vm_record(records, RUNNING, "VM_metrics")
    assert (metrics["memory_actual"], metrics["VCPUs_number"], metrics["hvm"]) == (3 * GIB, 2, False)
    assert metrics["start_time"] == datetime.fromtimestamp(1.5e9, UTC)
    assert (metrics["current_domain_type"], metrics["last_updated"]) == ("pvh", NOW)
    nested = vm_record(records, PAUSED, "VM_metrics")
    assert (nested["nested_virt"], nested["hvm"]) == (True, True)


def test_guests_report_through_records_of_their_own_and_domain_zero_is_none(records: Records) -> None:
    guests = [vm_record(records, uuid, "VM_guest_metrics")["memory"] for uuid in (RUNNING, PAUSED)]
    assert guests == [{}, {}]
    assert len(records.refs("VM_guest_metrics")) == 2
    assert vm_record(records, DOM0)["guest_metrics"] == NULL_REF


def test_allowed_operations_are_those_that_would_pass(records: Records) -> None:
    allowed = {
        uuid: vm_record(records, uuid)["allowed_operations"] for uuid in (DOM0, RUNNING, PAUSED, HALTED)
    }
    assert allowed == {
        DOM0: ("changing_dynamic_range", "changing_static_range"),
        RUNNING: (
            *("pause", "clean_shutdown", "clean_reboot", "hard_shutdown", "hard_reboot", "shutdown"),
            *("suspend", "pool_migrate", "changing_dynamic_range"),
        ),
        PAUSED: ("unpause", "hard_shutdown", "hard_reboot", "shutdown"),
        HALTED: (
            *("start", "start_on", "copy", "clone", "destroy", "make_into_template"),
            *("changing_dynamic_range", "changing_shadow_memory"),
        ),
    }


def test_host_and_pool_say_what_clients_need_to_connect(records: Records) -> None:
    host, metrics, pool = only(records, "host"), only(records, "host_metrics"), only(records, "pool")
    assert (host["API_version_major"], host["API_version_minor"]) == (2, 21)
    assert host["API_version_vendor"] == "XenSource"
    assert {"xapi", "product_brand", "product_version", "xen"} <= set(cast_map(host["software_version"]))
    assert host["control_domain"] == opaque_ref("VM", DOM0)
    assert host["resident_VMs"] == tuple(opaque_ref("VM", uuid) for uuid in (DOM0, RUNNING, PAUSED))
    assert (host["metrics"],) == records.refs("host_metrics")
    assert cast_map(host["cpu_info"])["cpu_count"] == "8"
    assert (metrics["memory_total"], metrics["memory_free"], metrics["live"]) == (16 * GIB, 5 * GIB, True)
    assert (pool["master"],) == records.refs("host")
    assert cast_map(pool["restrictions"])["restrict_dmc"] == "false"
    assert pool["default_SR"] == NULL_REF


def cast_map(value: object) -> Mapping[str, str]:
    assert isinstance(value, Mapping)
    return value


def test_record_is_made_anew_when_its_object_has_changed_and_only_then(
    records: Records, inventory: Fixed
) -> None:
    first = {uuid: vm_record(records, uuid) for uuid in (RUNNING, PAUSED)}
    assert vm_record(records, RUNNING) is first[RUNNING]
    inventory.all_vms[RUNNING] = replace(inventory.all_vms[RUNNING], memory_target=GIB * 2, version=1)
    assert vm_record(records, RUNNING)["memory_target"] == 2 * GIB
    assert vm_record(records, PAUSED) is first[PAUSED]


def test_record_outlives_a_new_version_that_changes_nothing_in_it(records: Records, inventory: Fixed) -> None:
    before, metrics = vm_record(records, RUNNING), vm_record(records, RUNNING, "VM_metrics")
    inventory.all_vms[RUNNING] = replace(inventory.all_vms[RUNNING], memory_actual=GIB, version=1)
    assert vm_record(records, RUNNING) is before
    assert vm_record(records, RUNNING, "VM_metrics") is not metrics


def test_measured_record_is_dated_by_its_last_change(inventory: Fixed, sessions: Sessions) -> None:
    moments = iter(NOW + timedelta(seconds=second) for second in range(1000))
    records = Records(inventory, sessions, Tasks(HOST), moments.__next__)
    for class_name in ("VM_metrics", "VM_guest_metrics"):
        before = vm_record(records, RUNNING, class_name)
        inventory.all_vms[RUNNING] = replace(
            inventory.all_vms[RUNNING],
            name_label="new",
            version=inventory.all_vms[RUNNING].version + 1,
        )
        assert vm_record(records, RUNNING, class_name) is before
    before = only(records, "host_metrics")
    inventory.facts = replace(FACTS, version=1)
    assert only(records, "host_metrics") is before
    inventory.facts = replace(FACTS, memory_free=GIB, version=2)
    after = only(records, "host_metrics")
    assert (after["memory_free"], after["last_updated"] > before["last_updated"]) == (GIB, True)  # type: ignore[operator]


def test_host_follows_the_vms_that_come_and_go(records: Records, inventory: Fixed) -> None:
    before = only(records, "host")
    assert only(records, "host") is before
    del inventory.all_vms[RUNNING]
    assert opaque_ref("VM", RUNNING) not in only(records, "host")["resident_VMs"]  # type: ignore[operator]


def test_pool_follows_its_other_config(records: Records, inventory: Fixed) -> None:
    assert only(records, "pool") is only(records, "pool")
    inventory.pool_annotations = {"other_config": {"xo:barrier": "1"}}
    assert only(records, "pool")["other_config"] == {"xo:barrier": "1"}


def test_nothing_is_kept_of_a_vm_that_is_gone(records: Records, inventory: Fixed) -> None:
    for class_name in LISTED:
        records.records(class_name)
    gone = inventory.all_vms.pop(RUNNING)
    with pytest.raises(HandleInvalid):
        records.record("VM", gone.ref)
    with pytest.raises(UuidInvalid):
        records.find_by_uuid("VM", gone.uuid)
    records.refs("VM")
    assert [name for name, made in records._made.items() if gone.uuid in made] == []
    assert gone.uuid not in records._uuids.values()
    inventory.all_vms[RUNNING] = gone
    assert records.vm_uuid(gone.ref) == RUNNING


def test_vm_that_comes_back_is_shown_as_it_is_now(records: Records, inventory: Fixed) -> None:
    before = [list(records.records(class_name)) for class_name in LISTED]
    gone = inventory.all_vms.pop(HALTED)
    records.refs("VM")
    inventory.all_vms[HALTED] = replace(gone, name_label="back", version=gone.version + 1)
    assert [list(records.records(class_name)) for class_name in LISTED] == before
    assert records.records("VM")[gone.ref]["name_label"] == "back"


def test_guest_metrics_come_and_go_with_the_domain(records: Records, inventory: Fixed) -> None:
    def reported() -> set[str]:
        return {str(record["uuid"]) for record in records.records("VM_guest_metrics").values()}

    before, vm = reported(), inventory.all_vms[RUNNING]
    inventory.all_vms[RUNNING] = replace(vm, domid=-1, power_state="Halted", version=1)
    assert len(reported()) == len(before) - 1
    inventory.all_vms[RUNNING] = replace(vm, version=2)
    assert reported() == before


def test_references_are_the_same_after_a_restart(inventory: Fixed, sessions: Sessions) -> None:
    first, second = (Records(inventory, sessions, Tasks(HOST)) for _ in range(2))
    assert [first.refs(name) for name in LISTED] == [second.refs(name) for name in LISTED]


def test_encoded_forms_are_kept_until_the_record_changes(records: Records, inventory: Fixed) -> None:
    for wire in (codec.encode_value, jsonrpc.encode_value):
        before = wire(records.records("VM"))
        assert wire(records.records("VM")) == before
        changed = replace(inventory.all_vms[HALTED], name_label=f"new {len(before)}", version=len(before))
        inventory.all_vms[HALTED] = changed
        assert changed.name_label.encode() in wire(records.records("VM"))


async def test_session_has_a_record_for_whoever_has_its_reference(
    records: Records, sessions: Sessions
) -> None:
    session = await sessions.login("root", PASSWORD, NETWORK, "xo")
    record = records.record("session", session.ref)
    declared = load_datamodel().classes["session"].fields
    assert [name for name, value in record.items() if not make_check(declared[name].type)(value)] == []
    expected = {
        "uuid": session.uuid,
        "this_host": records.refs("host")[0],
        "this_user": NULL_REF,
        "is_local_superuser": True,
        "rbac_permissions": (),
        "subject": NULL_REF,
        "auth_user_sid": "",
        "originator": "xo",
        "pool": False,
    }
    assert {name: record[name] for name in expected} == expected
    with pytest.raises(UuidInvalid):
        records.find_by_uuid("session", session.uuid)
    reader = await sessions.login("reader", PASSWORD, NETWORK)
    assert records.record("session", reader.ref)["is_local_superuser"] is False
    await sessions.close()


@pytest.mark.parametrize(
    "known", [{"uuid": 5}, {"no_such_field": "x"}, {"memory_target": 1.0}, {"tags": ["a"]}]
)
def test_field_of_the_wrong_type_is_never_sent(known: dict[str, object]) -> None:
    with pytest.raises(TypeError, match=r"VM\."):
        complete("VM", known)


def test_records_of_a_class_are_joined_once_and_kept_until_one_changes(
    records: Records, inventory: Fixed
) -> None:
    for class_name in LISTED:
        assert records.records(class_name) is records.records(class_name)
    for encode in (codec.encode_value, jsonrpc.encode_value):
        before = records.records("VM")
        assert encode(before) == encode(dict(before))
        vm = inventory.all_vms[RUNNING]
        inventory.all_vms[RUNNING] = replace(vm, name_label="changed", version=vm.version + 1)
        after = records.records("VM")
        assert b"changed" in encode(after)
        assert after.keys() == before.keys()
        inventory.all_vms[RUNNING] = vm
    inventory.all_vms.pop(HALTED)
    assert len(records.records("VM")) == len(before) - 1


class Asked(Fixed):
    """Counts how often all VMs are gone through."""

    times = 0

    def vms(self) -> Mapping[str, Vm]:
        self.times += 1
        return super().vms()


def test_no_vm_is_asked_while_nothing_has_changed(sessions: Sessions) -> None:
    inventory = Asked()
    records = Records(inventory, sessions, Tasks(HOST), lambda: NOW)
    before, asked = records.records("VM"), inventory.times
    assert records.records("VM") is before
    assert inventory.times == asked


def a_fleet() -> tuple[Fixed, list[str]]:
    """Have a hundred VMs."""
    uuids = [f"00000000-0000-4000-8000-{number:012d}" for number in range(100)]
    return Fixed({uuid: a_vm(uuid, f"vm {uuid}") for uuid in uuids}), uuids


def test_only_the_page_of_a_vm_that_changed_is_joined_again(sessions: Sessions) -> None:
    inventory, uuids = a_fleet()
    records = Records(inventory, sessions, Tasks(HOST), lambda: NOW)
    request = jsonrpc.Request("VM.get_all_records", (), 1, is_version_2=True)

    for parts_of in (codec.success_parts, partial(jsonrpc.success_parts, request)):
        before = parts_of(records.records("VM"))
        inventory.rename(uuids[PAGE_RECORDS], f"renamed for {parts_of}")
        after = parts_of(records.records("VM"))
        new = [part for part, known in zip(after, before, strict=True) if part is not known]
        assert [part.count(b"renamed for") for part in new if len(part) > PAGE_RECORDS] == [1]
        new_bytes, all_bytes = (sum(map(len, parts)) for parts in (new, after))
        assert new_bytes * len(uuids) <= all_bytes * (PAGE_RECORDS + 1), "more bytes than a page has"
        gone = inventory.all_vms.pop(uuids.pop())
        fewer = parts_of(records.records("VM"))
        assert fewer[1:4] == after[1:4]
        assert not any(gone.ref.encode() in part for part in fewer)
        assert b"".join(fewer) == b"".join(parts_of(dict(records.records("VM"))))


def test_class_without_objects_is_an_empty_mapping() -> None:
    for encode in (codec.encode_value, jsonrpc.encode_value):
        assert encode(RecordMap({})) == encode({})


def test_only_the_fields_of_the_vms_that_changed_are_encoded(sessions: Sessions) -> None:
    written: list[object] = []

    def write_value(value: object) -> bytes:
        written.append(value)
        return b"x"

    wire = Wire(str.encode, write_value, end=b"", opening=b"", mark=b"", closing=b"")
    inventory, uuids = a_fleet()
    records = Records(inventory, sessions, Tasks(HOST), lambda: NOW)

    def encode() -> int:
        written.clear()
        gathered = records.records("VM")
        assert isinstance(gathered, Record)
        gathered.encoded(wire)
        return len(written)

    at_first = encode()
    assert encode() == 0
    inventory.rename(uuids[7], "other")
    fields_of_one = (at_first - len(load_datamodel().classes["VM"].fields)) / len(uuids)
    assert encode() == fields_of_one
