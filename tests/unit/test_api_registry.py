"""Records of VMs are made, copied, renamed, tagged and destroyed; nothing invalid is ever stored."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.apistack import GIB, HALTED, Stack, running_stack
from tests.unit.test_api_methods import NOBODY, Client
from xcpmem.api.datamodel import load_datamodel
from xcpmem.refs import NULL_REF, opaque_ref
from xcpmem.units import mib_to_bytes

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

VM = opaque_ref("VM", HALTED)
MIB = mib_to_bytes(1)


@pytest.fixture
async def stack(tmp_path: Path) -> AsyncIterator[Stack]:
    async with running_stack(tmp_path) as stack:
        yield stack


@pytest.fixture
async def client(stack: Stack) -> Client:
    return Client(stack, await stack.login())


def a_record(**changes: object) -> dict[str, object]:
    """What a client sends, Python's as text."""
    record: dict[str, object] = {
        "name_label": "new",
        "name_description": "by hand",
        "user_version": "1",
        "is_a_template": False,
        "memory_static_max": str(4 * GIB),
        "memory_dynamic_max": str(3 * GIB),
        "memory_dynamic_min": str(2 * GIB),
        "memory_static_min": str(1 * GIB),
        "memory_target": "0",
        "VCPUs_params": {"weight": "256"},
        "VCPUs_max": "4",
        "VCPUs_at_startup": "2",
        "actions_after_shutdown": "destroy",
        "actions_after_reboot": "restart",
        "actions_after_crash": "preserve",
        "PV_args": "quiet splash",
        "HVM_boot_policy": "BIOS order",
        "HVM_boot_params": {"order": "cd"},
        "HVM_shadow_multiplier": 2.0,
        "platform": {"acpi": "1"},
        "other_config": {"a": "b"},
        "recommendations": "<restrictions/>",
        "tags": ["x", "y"],
        "blocked_operations": {"hard_reboot": "no"},
        "affinity": NULL_REF,
    }
    return record | changes


async def test_created_vm_is_halted_and_as_it_was_given(client: Client) -> None:
    ref = await client("VM.create", a_record())
    record = dict(await client("VM.get_record", ref))
    assert len(record) == 92
    given = a_record() | {"memory_target": 0, "tags": ("x", "y"), "user_version": 1}
    for name in ("VCPUs_max", "VCPUs_at_startup", *(key for key in given if key.startswith("memory"))):
        given[name] = int(str(given[name]))
    mac_seed = record["other_config"]["mac_seed"]
    assert {name: record[name] for name in given} == given | {
        "other_config": {"mac_seed": mac_seed, "a": "b"}
    }
    assert (record["power_state"], record["domid"], record["resident_on"]) == ("Halted", -1, NULL_REF)
    assert record["domain_type"] == "hvm"
    assert record["memory_overhead"] == await client("VM.compute_memory_overhead", ref) == 75 * MIB
    assert await client("VM.get_by_uuid", record["uuid"]) == ref
    assert (await client("VM_metrics.get_record", record["metrics"]))["memory_actual"] == 0


async def test_record_of_another_vm_makes_a_halted_vm_whatever_that_one_did(client: Client) -> None:
    model = dict(await client("VM.get_record", client.ref("web1")))
    sent = {name: list(value) if isinstance(value, tuple) else value for name, value in model.items()}
    del sent["snapshot_time"]
    ref = await client("VM.create", sent | {"name_label": "twin"})
    record = await client("VM.get_record", ref)
    constructed = {
        field.name for field in load_datamodel().classes["VM"].fields.values() if field.is_constructed
    }
    same = constructed - {"name_label", "power_state", "other_config", "memory_target"}
    assert {name: record[name] for name in same} == {name: model[name] for name in same}
    assert (record["power_state"], record["uuid"] != model["uuid"]) == ("Halted", True)
    assert await client("VM.get_guest_metrics", ref) == NULL_REF


@pytest.mark.parametrize(
    ("changes", "failure"),
    [
        ({"memory_static_max": str(GIB)}, ["MEMORY_CONSTRAINT_VIOLATION_ORDER"]),
        ({"memory_static_min": "-9223372036854775808"}, ["INVALID_VALUE", "memory_static_min"]),
        ({"VCPUs_max": "0", "VCPUs_at_startup": "0"}, ["INVALID_VALUE", "VCPUs_at_startup", "0"]),
        ({"VCPUs_at_startup": "5"}, ["INVALID_VALUE", "VCPUs_at_startup", "5"]),
        ({"HVM_shadow_multiplier": 0.5}, ["INVALID_VALUE", "HVM_shadow_multiplier", "0.5"]),
        ({"memory_dynamic_max": "much"}, ["FIELD_TYPE_ERROR", "memory_dynamic_max"]),
        ({"tags": "x"}, ["FIELD_TYPE_ERROR", "tags"]),
        ({"actions_after_crash": "panic"}, ["FIELD_TYPE_ERROR", "actions_after_crash"]),
    ],
)
async def test_record_that_is_not_valid_makes_nothing(
    client: Client, changes: dict[str, object], failure: list[str]
) -> None:
    before = await client("VM.get_all")
    assert (await client.failure("VM.create", a_record(**changes)))[: len(failure)] == failure
    assert await client("VM.get_all") == before


@pytest.mark.parametrize("name", ["name_label", "memory_static_max", "memory_dynamic_min"])
async def test_record_without_what_makes_a_vm_is_refused_by_that_name(client: Client, name: str) -> None:
    record = a_record()
    del record[name]
    assert await client.failure("VM.create", record) == ["FIELD_TYPE_ERROR", name]


async def test_domain_type_is_derived_from_the_boot_policy_where_it_is_not_given(client: Client) -> None:
    for changes, domain_type, policy in [
        ({"HVM_boot_policy": ""}, "pv", ""),
        ({"HVM_boot_policy": "UEFI"}, "hvm", "UEFI"),
        ({"HVM_boot_policy": "", "domain_type": "pvh"}, "pvh", ""),
        ({"HVM_boot_policy": "", "domain_type": "unspecified"}, "pv", ""),
        ({"HVM_boot_policy": "", "domain_type": "hvm"}, "hvm", "BIOS order"),
    ]:
        record = await client("VM.get_record", await client("VM.create", a_record(**changes)))
        assert (record["domain_type"], record["HVM_boot_policy"]) == (domain_type, policy)


@pytest.mark.parametrize("call", [("clone",), ("copy", NULL_REF)])
async def test_copy_of_a_vm_is_new_where_it_must_be_and_the_same_elsewhere(
    client: Client, call: tuple[str, ...]
) -> None:
    ref = await client("VM.create", a_record(generation_id="1:2"))
    copied = await client(f"VM.{call[0]}", ref, "copy", *call[1:])
    before = dict(await client("VM.get_record", ref))
    after = dict(await client("VM.get_record", copied))
    new = {"uuid", "name_label", "metrics", "other_config", "blocked_operations", "generation_id"}
    new |= {"allowed_operations"}  # nothing is blocked any more
    assert {name for name in before if before[name] != after[name]} <= new
    assert (after["name_label"], after["blocked_operations"]) == ("copy", {})
    assert after["generation_id"] not in {"1:2", ""}
    assert after["other_config"].keys() == {"a", "mac_seed"}
    assert after["other_config"]["mac_seed"] != before["other_config"]["mac_seed"]


async def test_clients_create_no_more_vms_than_the_settings_allow(tmp_path: Path) -> None:
    async with running_stack(tmp_path) as stack:
        count = len(stack.service.vms())
    async with running_stack(tmp_path, most_vms=count + 1) as stack:
        client = Client(stack, await stack.login())
        made = await client("VM.clone", VM, "one more")
        reason = (
            f"there are {count + 1} VM records; most_vms lets clients create them up to {count + 1}: "
            "destroy some, or raise it"
        )
        refusal = ["OPERATION_NOT_ALLOWED", reason]
        assert await client.failure("VM.create", a_record()) == refusal
        assert await client.failure("VM.clone", VM, "too many") == refusal
        assert await client.failure("VM.copy", VM, "too many", NULL_REF) == refusal
        assert len(await client("VM.get_all")) == count + 1
        await client("VM.destroy", made)
        await client("VM.create", a_record())


async def test_vm_comes_of_a_template_by_clone_and_provision(client: Client) -> None:
    template = await client(
        "VM.create", a_record(is_a_template=True, other_config={"default_template": "true", "x": "y"})
    )
    assert await client.failure("VM.destroy", template) == ["VM_IS_TEMPLATE", template, "destroy"]
    assert await client.failure("VM.start", template, False, False) == ["VM_IS_TEMPLATE", template, "start"]
    ref = await client("VM.clone", template, "web9")
    notes = await client("VM.get_other_config", ref)
    assert (notes["x"], notes["base_template_name"], "default_template" in notes) == ("y", "new", False)
    assert await client("VM.get_is_a_template", ref)
    assert "provision" in await client("VM.get_allowed_operations", ref)
    await client("VM.provision", ref)
    assert not await client("VM.get_is_a_template", ref)
    assert await client.failure("VM.provision", ref) == ["ONLY_PROVISION_TEMPLATE"]
    assert "start" in await client("VM.get_allowed_operations", ref)


async def test_destroyed_vm_is_gone_with_its_metrics(client: Client, stack: Stack) -> None:
    ref = await client("VM.create", a_record())
    uuid, metrics = await client("VM.get_uuid", ref), await client("VM.get_metrics", ref)
    await client("VM.destroy", ref)
    assert await client.failure("VM.get_record", ref) == ["HANDLE_INVALID", "VM", ref]
    assert await client.failure("VM.get_by_uuid", uuid) == ["UUID_INVALID", "VM", uuid]
    assert await client.failure("VM_metrics.get_record", metrics) == ["HANDLE_INVALID", "VM_metrics", metrics]
    assert await client.failure("VM.destroy", ref) == ["HANDLE_INVALID", "VM", ref]
    assert uuid not in stack.service.vms()


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (("destroy",), "halted, suspended"),
        (("clone", "x"), "halted"),
        (("copy", "x", NULL_REF), "halted"),
        (("provision",), "halted"),
        (("set_is_a_template", True), "halted"),
        (("resume", False, False), "suspended"),
    ],
)
async def test_running_vm_is_not_to_be_had(client: Client, call: tuple[Any, ...], expected: str) -> None:
    ref = client.ref("web1")
    assert await client.failure(f"VM.{call[0]}", ref, *call[1:]) == [
        *("VM_BAD_POWER_STATE", ref, expected, "running"),
    ]


@pytest.mark.parametrize(
    ("field", "value", "wrong"),
    [
        ("order", 3, -1),
        ("start_delay", 30, -30),
        ("shutdown_delay", 0, -(2**63)),
        ("ha_restart_priority", "best-effort", "sometimes"),
        ("ha_always_run", True, None),
        ("NVRAM", {"EFI-variables": "AAAA"}, None),
    ],
)
async def test_what_means_something_elsewhere_is_kept_and_bad_values_are_refused(
    client: Client, field: str, value: Any, wrong: Any
) -> None:
    web1 = client.ref("web1")
    assert await client(f"VM.set_{field}", web1, value) is None
    if wrong is not None:
        assert await client.failure(f"VM.set_{field}", web1, wrong) == ["INVALID_VALUE", field, str(wrong)]
    assert await client(f"VM.get_{field}", web1) == value


async def test_what_there_is_no_storage_for_is_refused_after_xapis_checks(client: Client) -> None:
    web1, (host,) = client.ref("web1"), await client("host.get_all")
    assert await client.failure("VM.suspend", web1) == ["VM_NO_SUSPEND_SR", web1]
    assert await client.failure("VM.suspend", VM) == ["VM_BAD_POWER_STATE", VM, "running", "halted"]
    assert await client.failure("VM.resume_on", VM, host, False, False) == [
        *("VM_BAD_POWER_STATE", VM, "suspended", "halted"),
    ]
    assert await client.failure("VM.pool_migrate", VM, host, {}) == [
        *("VM_BAD_POWER_STATE", VM, "running", "halted"),
    ]
    assert await client.failure("VM.pool_migrate", web1, NOBODY, {}) == ["HANDLE_INVALID", "host", NOBODY]
    assert await client("VM.pool_migrate", web1, host, {"live": "true"}) is None
    assert await client("VM.get_power_state", web1) == "Running"


async def test_places_for_a_vm_are_found_by_xapis_memory_test(client: Client) -> None:
    (host,) = await client("host.get_all")
    free = await client("host.compute_free_memory", host)
    assert await client("VM.assert_can_boot_here", VM, host) is None
    assert await client("VM.get_possible_hosts", VM) == (host,)
    await client("VM.set_memory", VM, str(16 * GIB))
    needed = 16 * GIB + await client("VM.compute_memory_overhead", VM)
    assert await client.failure("VM.assert_can_boot_here", VM, host) == [
        *("HOST_NOT_ENOUGH_FREE_MEMORY", str(needed), str(free)),
    ]
    assert await client("VM.get_possible_hosts", VM) == ()
    assert await client.failure("VM.assert_can_boot_here", VM, NOBODY) == ["HANDLE_INVALID", "host", NOBODY]


async def test_operation_is_judged_without_being_done(client: Client) -> None:
    web1 = client.ref("web1")
    assert await client("VM.assert_operation_valid", web1, "hard_shutdown") is None
    assert await client.failure("VM.assert_operation_valid", web1, "start") == [
        *("VM_BAD_POWER_STATE", web1, "halted", "running"),
    ]
    assert (await client.failure("VM.assert_operation_valid", web1, "checkpoint"))[
        0
    ] == "OPERATION_NOT_ALLOWED"
    assert (await client.failure("VM.assert_operation_valid", web1, "fly"))[0] == "INTERNAL_ERROR"
    await client("VM.add_to_blocked_operations", web1, "hard_shutdown", "PRECIOUS")
    assert await client.failure("VM.assert_operation_valid", web1, "hard_shutdown") == [
        *("OPERATION_BLOCKED", web1, "PRECIOUS"),
    ]
    assert "hard_shutdown" not in await client("VM.get_allowed_operations", web1)
    assert await client("VM.update_allowed_operations", web1) is None


async def test_virtual_cpus_at_startup_stay_within_the_most(client: Client) -> None:
    words = "VCPU values must satisfy: 0 < VCPUs_at_startup ≤ VCPUs_max"
    await client("VM.set_VCPUs_at_startup", VM, 1)
    assert await client("VM.get_VCPUs_at_startup", VM) == 1
    for value in (0, 3):
        assert await client.failure("VM.set_VCPUs_at_startup", VM, value) == [
            *("INVALID_VALUE", words, str(value)),
        ]
    zero = await client("host.get_control_domain", (await client("host.get_all"))[0])
    assert await client.failure("VM.set_VCPUs_at_startup", zero, 1) == [
        *("OPERATION_NOT_ALLOWED", "set_VCPUs_at_startup is not allowed on dom0"),
    ]


async def test_domain_type_and_boot_policy_follow_each_other(client: Client) -> None:
    overhead = await client("VM.get_memory_overhead", VM)
    await client("VM.set_domain_type", VM, "pv_in_pvh")
    assert await client("VM.get_HVM_boot_policy", VM) == ""
    assert await client("VM.get_memory_overhead", VM) == await client("VM.compute_memory_overhead", VM)
    assert await client("VM.get_memory_overhead", VM) > overhead
    await client("VM.set_HVM_boot_policy", VM, "UEFI")
    assert await client("VM.get_domain_type", VM) == "hvm"
    assert await client("VM.get_HVM_boot_policy", VM) == "UEFI"
    assert await client.failure("VM.set_domain_type", VM, "unspecified") == [
        *("INVALID_VALUE", "domain_type", "unspecified"),
    ]


LABELS = [
    ("VM", "name_description", "second"),
    ("VM", "user_version", 7),
    ("VM", "recommendations", "<r/>"),
    ("VM", "tags", ("a", "b")),
    ("VM", "platform", {"nested-virt": "true"}),
    ("VM", "VCPUs_params", {"weight": "512"}),
    ("VM", "HVM_boot_params", {"order": "dcn", "firmware": "uefi"}),
    ("VM", "xenstore_data", {"vm-data/x": "1"}),
    ("VM", "PV_kernel", "/boot/vmlinuz"),
    ("VM", "PV_ramdisk", "/boot/initrd.img"),
    ("VM", "PV_args", "quiet"),
    ("VM", "PV_bootloader", "pygrub"),
    ("VM", "PV_bootloader_args", "-q"),
    ("VM", "PV_legacy_args", "old"),
    ("VM", "PCI_bus", "0/0000:00:1f.2"),
    ("VM", "actions_after_shutdown", "restart"),
    ("VM", "actions_after_softreboot", "destroy"),
    ("VM", "actions_after_reboot", "destroy"),
    ("VM", "actions_after_crash", "coredump_and_destroy"),
    ("VM", "hardware_platform_version", 2),
    ("host", "name_label", "xen1"),
    ("host", "tags", ("a",)),
    ("host", "other_config", {"k": "v"}),
    ("pool", "name_label", "the pool"),
    ("pool", "gui_config", {"k": "v"}),
]


@pytest.mark.parametrize(("class_name", "field", "value"), LABELS)
async def test_what_clients_write_is_what_they_read(
    client: Client, class_name: str, field: str, value: object
) -> None:
    ref = VM if class_name == "VM" else (await client(f"{class_name}.get_all"))[0]
    sent = list(value) if isinstance(value, tuple) else value
    assert await client(f"{class_name}.set_{field}", ref, sent) is None
    assert (await client(f"{class_name}.get_record", ref))[field] == value
    assert await client.failure(f"{class_name}.set_{field}", NOBODY, sent) == [
        *("HANDLE_INVALID", class_name, NOBODY),
    ]


def test_every_field_of_a_vm_that_can_be_set_can_be_given_when_it_is_made() -> None:
    settable = [field for field in load_datamodel().classes["VM"].fields.values() if field.setter]
    assert len(settable) > 20
    assert [field.name for field in settable if not field.is_constructed] == []


async def test_word_that_an_enumeration_lacks_changes_nothing(client: Client) -> None:
    failure = await client.failure("VM.set_actions_after_crash", VM, "explode")
    assert failure[0] == "INTERNAL_ERROR"
    assert "explode" in failure[1]
    assert await client("VM.get_actions_after_crash", VM) == "restart"


async def test_tags_are_added_once_and_removed(client: Client) -> None:
    for ref, class_name in ((VM, "VM"), ((await client("host.get_all"))[0], "host")):
        await client(f"{class_name}.set_tags", ref, ["a", "b", "a"])
        await client(f"{class_name}.add_tags", ref, "c")
        await client(f"{class_name}.add_tags", ref, "b")
        assert await client(f"{class_name}.get_tags", ref) == ("a", "b", "c")
        await client(f"{class_name}.remove_tags", ref, "b")
        await client(f"{class_name}.remove_tags", ref, "b")
        assert await client(f"{class_name}.get_tags", ref) == ("a", "c")


async def test_keys_are_added_once_and_removed(client: Client) -> None:
    await client("VM.add_to_platform", VM, "viridian", "true")
    assert await client.failure("VM.add_to_platform", VM, "viridian", "false") == [
        *("MAP_DUPLICATE_KEY", "VM", "platform", VM, "viridian"),
    ]
    await client("VM.remove_from_platform", VM, "viridian")
    await client("VM.remove_from_platform", VM, "viridian")
    assert await client("VM.get_platform", VM) == {}


async def test_records_are_found_by_an_expression(client: Client) -> None:
    running = 'field "power_state"="Running" and field "is_control_domain"="false"'
    found = await client("VM.get_all_records_where", running)
    assert {record["name_label"] for record in found.values()} == {"web1", "db1"}
    assert set(await client("VM.get_all_where", running)) == set(found)
    assert await client("host.get_all_records_where", "false") == {}
    assert list(await client("pool.get_all_records_where", "true")) == list(await client("pool.get_all"))
    assert (await client.failure("VM.get_all_records_where", "nonsense"))[0] == "INTERNAL_ERROR"


async def test_what_was_made_and_written_is_there_after_a_restart(tmp_path: Path) -> None:
    async with running_stack(tmp_path) as stack:
        client = Client(stack, await stack.login())
        kept = await client("VM.create", a_record())
        gone = await client("VM.create", a_record())
        await client("VM.destroy", gone)
        await client("host.set_name_label", (await client("host.get_all"))[0], "renamed")
        before = dict(await client("VM.get_record", kept))
    async with running_stack(tmp_path) as stack:
        client = Client(stack, await stack.login())
        assert dict(await client("VM.get_record", kept)) == before
        assert gone not in await client("VM.get_all")
        assert await client("host.get_name_label", (await client("host.get_all"))[0]) == "renamed"


async def test_running_vm_is_what_it_was_built_as_whatever_is_written_for_its_next_start(
    client: Client,
) -> None:
    web1 = client.ref("web1")
    metrics, overhead = await client("VM.get_metrics", web1), await client("VM.get_memory_overhead", web1)
    before = dict(await client("VM_metrics.get_record", metrics))
    await client("VM.set_domain_type", web1, "hvm")
    await client("VM.set_platform", web1, {"nested-virt": "true"})
    assert await client("VM.get_domain_type", web1) == "hvm"
    assert await client("VM.get_memory_overhead", web1) == overhead
    after = await client("VM_metrics.get_record", metrics)
    same = {"current_domain_type", "hvm", "nested_virt", "VCPUs_number"}
    assert {name: after[name] for name in same} == {name: before[name] for name in same}
    await client("VM.set_memory_dynamic_range", web1, GIB, 2 * GIB)
    assert await client("VM.get_memory_dynamic_max", web1) == 2 * GIB


async def test_reference_that_is_none_reads_as_null_and_spoils_no_record(client: Client) -> None:
    ref = await client("VM.create", a_record(affinity="", suspend_SR="anything", PCI_bus="x"))
    record = await client("VM.get_record", ref)
    assert (record["affinity"], record["suspend_SR"], record["PCI_bus"]) == (NULL_REF, NULL_REF, "x")
    await client("VM.set_affinity", ref, "somewhere")
    assert await client("VM.get_affinity", ref) == NULL_REF
    assert ref in await client("VM.get_all_records")


@pytest.mark.parametrize("class_name", ["VM", "host", "pool"])
async def test_annotation_that_fits_no_field_spoils_no_record(
    client: Client, stack: Stack, class_name: str
) -> None:
    edits = {
        "VM": lambda name, edit: stack.service.labels.edit(HALTED, name, edit),
        "host": stack.service.edit_host,
        "pool": stack.service.edit_pool,
    }
    for name in ("tags", "no_such_field"):
        await edits[class_name](name, lambda _: "of another type")
    records = await client(f"{class_name}.get_all_records")
    assert {record["tags"] for record in records.values()} == {()}
