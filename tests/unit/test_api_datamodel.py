"""The declaration of what is served, compared with xapi's own model."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from xcpmem.api.datamodel import UNDOCUMENTED, ApiClass, Kind, Message, load_datamodel
from xcpmem.api.typenames import EPOCH, Enum, MapOf, RecordOf, Ref, SetOf, Simple, TupleOf, parse_type

MODEL = load_datamodel()
OURS = ("system", "Memory")
XAPI: dict[str, Any] = json.loads(
    gzip.decompress((Path(__file__).parents[1] / "wire" / "xapi_model.json.gz").read_bytes()),
)
XAPI_CLASSES = [api_class for api_class in MODEL.classes.values() if api_class.name not in OURS]
XAPI_MESSAGES = [
    message
    for api_class in XAPI_CLASSES
    for message in api_class.messages.values()
    if message.name not in UNDOCUMENTED
]


def written(history: tuple[tuple[str, str], ...]) -> str:
    return ", ".join(f"{transition} {release}" for transition, release in history)


@pytest.mark.parametrize("api_class", XAPI_CLASSES, ids=lambda api_class: api_class.name)
def test_fields_are_all_that_xapi_has_with_its_types(api_class: ApiClass) -> None:
    ours = [
        [f.name, str(f.type), f.access, f.lifecycle, written(f.history)] for f in api_class.fields.values()
    ]
    theirs = XAPI[api_class.name]["fields"].items()
    assert ours == [[name, *facts[:3], facts[4]] for name, facts in theirs]
    assert written(api_class.history) == XAPI[api_class.name]["history"]


@pytest.mark.parametrize("message", XAPI_MESSAGES, ids=lambda message: message.wire_name)
def test_message_is_as_xapi_declares_it(message: Message) -> None:
    facts = XAPI[message.class_name]["messages"][message.name]
    session = [["session_id", "session ref", True]] if message.needs_session else []
    assert session + [[p.name, str(p.type), not p.optional] for p in message.params] == facts["params"]
    assert str(message.result) == facts["result"]
    assert list(message.roles) == facts["roles"]
    assert list(message.errors) == facts["errors"]
    assert message.lifecycle == facts["lifecycle"]
    assert written(message.history) == facts["history"]


@pytest.mark.parametrize("api_class", XAPI_CLASSES, ids=lambda api_class: api_class.name)
def test_enumerations_have_xapis_words(api_class: ApiClass) -> None:
    theirs = XAPI[api_class.name]["enums"]
    assert {name: list(words) for name, words in api_class.enums.items()}.items() <= theirs.items()


@pytest.mark.parametrize("api_class", XAPI_CLASSES, ids=lambda api_class: api_class.name)
def test_each_class_derives_the_messages_that_xapi_derives(api_class: ApiClass) -> None:
    derived = {message.name for message in api_class.messages.values() if message.kind is not Kind.CUSTOM}
    theirs = XAPI[api_class.name]["messages"].keys()
    getters = {f"get_{name}" for name in api_class.fields}
    setters = {
        message.name
        for message in api_class.messages.values()
        if message.field is not None and message.kind is not Kind.GET_FIELD
    }
    assert setters <= theirs
    generic = {"get_all", "get_all_records", "get_record", "get_by_uuid", "get_by_name_label"}
    assert derived >= getters & theirs
    assert derived - getters - setters - {*UNDOCUMENTED} == theirs & generic
    assert ({*UNDOCUMENTED} <= derived) == ("get_all_records" in derived)


def test_vm_has_its_92_fields() -> None:
    assert len(MODEL.classes["VM"].fields) == 92


DEFAULTS = [
    ("VM", "HVM_shadow_multiplier", 1.0),
    ("VM", "power_state", "Halted"),
    ("VM", "resident_on", "OpaqueRef:NULL"),
    ("VM", "parent", "OpaqueRef:NULL"),
    ("VM", "generation_id", "0:0"),
    ("VM", "actions_after_shutdown", "destroy"),
    ("VM", "tags", ()),
    ("VM", "platform", {}),
    ("VM", "snapshot_time", EPOCH),
    ("VM", "memory_static_max", 0),
    ("VM", "is_a_template", False),
    ("host", "license_server", {"address": "localhost", "port": "27000"}),
    ("host", "virtual_hardware_platform_versions", (0,)),
    ("host", "timezone", "UTC"),
    ("host", "ssh_enabled", True),
    ("pool", "update_sync_frequency", "weekly"),
    ("pool", "ext_auth_cache_expiry", 300),
]


@pytest.mark.parametrize(("class_name", "field", "default"), DEFAULTS)
def test_default_is_xapis_or_what_the_type_starts_from(class_name: str, field: str, default: object) -> None:
    found = MODEL.classes[class_name].fields[field].default
    assert found == default
    assert type(found) is type(default)


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("int", Simple("int")),
        ("VM ref set", SetOf(Ref("VM"))),
        ("enum vm_operations set", SetOf(Enum("vm_operations"))),
        ("(int -> string set) map", MapOf(Simple("int"), SetOf(Simple("string")))),
        ("(enum vm_operations -> string) map", MapOf(Enum("vm_operations"), Simple("string"))),
        ("(string, int) tuple", TupleOf((Simple("string"), Simple("int")))),
        ("string set set", SetOf(SetOf(Simple("string")))),
        ("event record set", SetOf(RecordOf("event"))),
        ("<class> record", RecordOf("<class>")),
        ("an event batch", Simple("an event batch")),
    ],
)
def test_type_is_read_and_written_as_xapi_spells_it(text: str, parsed: object) -> None:
    assert parse_type(text) == parsed
    assert str(parsed) == text


def test_type_with_an_unknown_spelling_is_refused() -> None:
    with pytest.raises(ValueError, match="integer"):
        parse_type("integer")


def test_message_is_found_by_both_spellings() -> None:
    message = MODEL.find("VM.get_record")
    assert message is not None
    assert MODEL.find("VM_get_record") is message
    assert MODEL.find("VM_metrics_get_record") is MODEL.find("VM_metrics.get_record")
    assert MODEL.find_exactly("VM.get_record") is message
    assert MODEL.find_exactly("VM_get_record") is None
    assert MODEL.find("vm.get_record") is None


def test_no_two_messages_share_an_underscored_spelling() -> None:
    names = [message.wire_name.replace(".", "_") for message in MODEL.messages()]
    assert len(set(names)) == len(names)


def test_arity_is_exact_unless_something_is_optional() -> None:
    login = MODEL.classes["session"].messages["login_with_password"]
    assert [login.accepts(count) for count in range(7)] == [False, False, True, True, True, True, True]
    limits = MODEL.classes["VM"].messages["set_memory_limits"]
    assert [limits.accepts(count) for count in (4, 5, 6)] == [False, True, False]
    assert limits.permission == "vm.set_memory_limits"


def test_memory_has_the_messages_of_the_contract() -> None:
    memory = MODEL.classes["Memory"]
    served = {m.name: [str(m.result), *(p.name for p in m.params)] for m in memory.messages.values()}
    contract = {
        "reserve_memory": ["string", "size_kib"],
        "reserve_memory_range": ["(string, int) tuple", "min_kib", "max_kib"],
        "transfer_reservation_to_domain": ["void", "reservation_id", "domid"],
        "delete_reservation": ["void", "reservation_id"],
        "query_reservation_of_domain": ["string", "domid"],
        "balance_memory": ["void"],
        "get_host_reserved_memory": ["int"],
        "get_host_initial_free_memory": ["int"],
        "get_domain_zero_policy": ["domain_zero_policy variant"],
        "get_diagnostics": ["string"],
        "explain": ["string", "vm"],
        "plan": ["string", "wishes"],
        "get_policies": ["(string -> string) map"],
        "get_policy": ["(string -> string) map"],
        "get_policy_parameters": ["(string -> string) map", "name"],
        "set_policy": ["void", "name", "parameters"],
    }
    assert {name: served[name] for name in contract} == contract
    assert list(memory.variants["domain_zero_policy"]) == ["Fixed_size", "Auto_balloon"]


def test_every_message_says_what_it_does() -> None:
    assert [message.wire_name for message in MODEL.messages() if not message.doc.endswith(".")] == []


def test_every_parameter_is_explained() -> None:
    bare = [
        f"{message.wire_name}({param.name})"
        for message in MODEL.messages()
        for param in message.params
        if not param.doc.endswith(".")
    ]
    assert bare == []
