"""Listing records, and reading and setting their fields."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from tests.cli_double import DOM0, GIB, WEB1, XenDouble, say
from xcpmem.api.cli_fields import RECORD_CLASSES
from xcpmem.errors import HandleInvalid

UUID1 = "11111111-1111-1111-1111-111111111111"
MODEL = Path(__file__).parents[1] / "wire" / "xapi_model.json.gz"


async def test_vm_list_is_what_xe_prints() -> None:
    line = await say(XenDouble(), "vm-list")
    assert line.stdout == (
        "uuid ( RO)           : 11111111-1111-1111-1111-111111111111\n"
        "     name-label ( RW): web1\n"
        "    power-state ( RO): running\n"
        "\n\n"
        "uuid ( RO)           : 22222222-2222-2222-2222-222222222222\n"
        "     name-label ( RW): db1, old\n"
        "    power-state ( RO): halted\n"
        "\n\n"
        "uuid ( RO)           : 00000000-0000-0000-0000-000000000000\n"
        "     name-label ( RW): Control domain\n"
        "    power-state ( RO): running\n"
        "\n\n"
    )
    assert (line.stderr, line.code) == ("", 0)


async def test_columns_come_in_the_order_of_the_records_not_of_the_request() -> None:
    line = await say(
        XenDouble(),
        "vm-list",
        "params=memory-target,tags,memory-actual,name-label,other-config,nothing",
        "power-state=running",
    )
    assert line.stdout == (
        "name-label ( RW)       : web1\n"
        "    memory-actual ( RO): 1258291200\n"
        "    memory-target ( RO): <expensive field>\n"
        "     other-config (MRW): owner: ann; note: a,b\n"
        "             tags (SRW): blue, green\n"
        "\n\n"
        "name-label ( RW)       : Control domain\n"
        "    memory-actual ( RO): <not in database>\n"
        "    memory-target ( RO): <expensive field>\n"
        "     other-config (MRW): \n"
        "             tags (SRW): \n"
        "\n\n"
    )


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["vm-list", "is-control-domain=false"], f"{UUID1},22222222-2222-2222-2222-222222222222"),
        (["vm-list", "params=name-label"], r"web1,db1\, old,Control domain"),
        (["vm-list", "params=power-state,name-label"], r"web1,db1\, old,Control domain"),
        (["vm-list", "is-a-template=true"], ""),
        (["vm-list", "name-label=nobody"], ""),
        (["vm-list", "params=nothing"], ""),
        (
            ["vm-list", "params=memory-target"],
            "<expensive field>,<expensive field>,<expensive field>",
        ),
        (["host-list"], "55555555-5555-5555-5555-555555555555"),
        (["pool-list", "params=master"], "55555555-5555-5555-5555-555555555555"),
        (["vm-param-get", f"uuid={UUID1}", "param-name=other-config", "param-key=note"], r"a\,b"),
        (["vm-param-list", f"uuid={UUID1}"], UUID1),
    ],
)
async def test_minimal_prints_one_line(words: list[str], text: str) -> None:
    line = await say(XenDouble(), *words, "--minimal")
    assert (line.stdout, line.stderr, line.code) == (f"{text}\n", "", 0)


async def test_listing_all_shows_what_the_filters_left_out() -> None:
    line = await say(XenDouble(), "vm-list", "params=name-label", "--all", "--minimal")
    assert line.stdout == "web1,db1\\, old,debian,Control domain\n"


async def test_empty_list_prints_nothing() -> None:
    line = await say(XenDouble(), "vm-list", "name-label=nobody")
    assert (line.stdout, line.code) == ("", 0)


async def test_param_list_shows_every_field_in_order_with_expensive_ones_computed() -> None:
    xen = XenDouble()
    xen.answers["VM.get_cooperative"] = True
    line = await say(xen, "vm-param-list", f"uuid={UUID1}")
    lines = line.stdout.splitlines()
    names = [text.split(" (")[0].strip() for text in lines if text]
    assert names == [field.name for field in RECORD_CLASSES["vm"].fields if not field.is_hidden]
    values = dict(
        zip(names, [text.partition("): ")[2] or text.partition("]: ")[2] for text in lines], strict=False)
    )
    assert values["memory-target"] == "1073741824"
    assert values["cooperative"] == "true"
    assert lines[-2:] == ["", ""]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("uuid", UUID1),
        ("power-state", "running"),
        ("memory-actual", "1258291200"),
        ("memory-target", "1073741824"),
        ("memory-static-max", str(4 * GIB)),
        ("HVM-shadow-multiplier", "1.000"),
        ("is-a-template", "false"),
        ("hvm", "true"),
        ("start-time", "20261123T06:30:00Z"),
        ("resident-on", "55555555-5555-5555-5555-555555555555"),
        ("affinity", "<not in database>"),
        ("other-config", "owner: ann; note: a,b"),
        ("tags", "blue, green"),
        ("numa-node-memory", "0: 100; 1: 200"),
        ("memory", "<not in database>"),
        ("os-version", "<not in database>"),
        ("cooperative", "true"),
        ("possible-hosts", ""),
        ("last-boot-record", "''"),
        ("nested-virt", ""),
    ],
)
async def test_param_get_prints_the_bare_value(name: str, text: str) -> None:
    line = await say(XenDouble(), "vm-param-get", f"uuid={UUID1}", f"param-name={name}")
    assert (line.stdout, line.stderr, line.code) == (f"{text}\n", "", 0)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("memory-target", "0"),
        ("memory-actual", "<not in database>"),
        ("start-time", "<unknown time>"),
        ("hvm", "false"),
        ("current-operations", "start"),
        ("VCPUs-utilisation", ""),
        ("actions-after-reboot", "Restart"),
        ("actions-after-crash", "Core dump and restart"),
        ("domain-type", "pv-in-pvh"),
    ],
)
async def test_param_get_of_a_halted_vm_says_what_is_not_known(name: str, text: str) -> None:
    uuid = "22222222-2222-2222-2222-222222222222"
    line = await say(XenDouble(), "vm-param-get", f"uuid={uuid}", f"param-name={name}")
    assert line.stdout == f"{text}\n"


@pytest.mark.parametrize(
    ("name", "text"), [("resident-on", "<not in database>"), ("memory-actual", "<not in database>")]
)
async def test_dead_reference_reads_as_not_in_the_database(name: str, text: str) -> None:
    xen = XenDouble()
    uuid = xen.records["VM"][DOM0]["uuid"]
    line = await say(xen, "vm-param-get", f"uuid={uuid}", f"param-name={name}")
    assert line.stdout == f"{text}\n"


async def test_object_that_ends_meanwhile_reads_as_an_invalid_reference() -> None:
    xen = XenDouble()
    xen.failures["host.compute_free_memory"] = HandleInvalid("host", "OpaqueRef:host")
    uuid = "55555555-5555-5555-5555-555555555555"
    line = await say(xen, "host-param-get", f"uuid={uuid}", "param-name=memory-free-computed")
    assert line.stdout == "<invalid reference>\n"


async def test_host_fields_look_into_its_metrics_and_compute_what_is_expensive() -> None:
    xen = XenDouble()
    xen.answers["host.compute_free_memory"] = 17
    uuid = "uuid=55555555-5555-5555-5555-555555555555"
    for name, text in [
        ("memory-free", str(3 * GIB)),
        ("memory-free-computed", "17"),
        ("hostname", "xen1.example"),
    ]:
        assert (await say(xen, "host-param-get", uuid, f"param-name={name}")).stdout == f"{text}\n"


async def test_param_get_of_an_unknown_field_is_an_error_frame() -> None:
    line = await say(XenDouble(), "vm-param-get", f"uuid={UUID1}", "param-name=nothing")
    assert [(error.code, error.params) for error in line.errors] == [("Missing parameter", ("nothing",))]
    assert (line.stdout, line.stderr, line.code) == ("", "", 1)


async def test_param_get_of_a_key_that_a_map_lacks_is_told() -> None:
    line = await say(XenDouble(), "vm-param-get", f"uuid={UUID1}", "param-name=other-config", "param-key=x")
    assert (line.stderr, line.code) == ("Error: Key x not found in map\n", 1)


async def test_param_key_means_nothing_where_there_is_no_map() -> None:
    line = await say(XenDouble(), "vm-param-get", f"uuid={UUID1}", "param-name=name-label", "param-key=x")
    assert line.stdout == "web1\n"


async def test_unknown_uuid_is_told() -> None:
    line = await say(XenDouble(), "vm-param-list", "uuid=nobody")
    assert line.stderr == "No object has this uuid.\ntype: VM\nuuid: nobody\n"
    assert line.code == 1


@pytest.mark.parametrize(
    ("words", "changes"),
    [
        (["name-label=new"], [("VM.set_name_label", WEB1, "new")]),
        (
            ["memory-static-max=8GiB", "memory-dynamic-max=8GiB"],
            [("VM.set_memory_static_max", WEB1, 8 * GIB), ("VM.set_memory_dynamic_max", WEB1, 8 * GIB)],
        ),
        (["VCPUs-max=0x10"], [("VM.set_VCPUs_max", WEB1, 16)]),
        (["HVM-shadow-multiplier=1.25"], [("VM.set_HVM_shadow_multiplier", WEB1, 1.25)]),
        (["is-a-template=true"], [("VM.set_is_a_template", WEB1, True)]),
        (["domain-type=PV-in-PVH"], [("VM.set_domain_type", WEB1, "pv_in_pvh")]),
        (["actions-after-crash=Preserve"], [("VM.set_actions_after_crash", WEB1, "preserve")]),
        (["other-config:new=1"], [("VM.add_to_other_config", WEB1, "new", "1")]),
        (
            ["other-config:owner=bob"],
            [
                ("VM.remove_from_other_config", WEB1, "owner"),
                ("VM.add_to_other_config", WEB1, "owner", "bob"),
            ],
        ),
        (["affinity="], [("VM.set_affinity", WEB1, "OpaqueRef:NULL")]),
        (
            ["affinity=55555555-5555-5555-5555-555555555555"],
            [("VM.set_affinity", WEB1, "OpaqueRef:host")],
        ),
    ],
)
async def test_param_set_calls_one_setter_after_the_other(words: list[str], changes: list[object]) -> None:
    xen = XenDouble()
    line = await say(xen, "vm-param-set", f"uuid={UUID1}", *words)
    assert (line.stdout, line.stderr, line.code) == ("", "", 0)
    assert xen.changes == changes


@pytest.mark.parametrize(
    ("word", "text"),
    [
        ("memory-actual=1", "Field 'memory-actual' is read-only."),
        ("allowed-operations=x", "Field 'allowed-operations' is read-only."),
        ("other-config=x", "Field 'other-config' is a map or set. use the 'name:key=value' syntax."),
        ("tags:contains=x", "Cannot param-set on set fields"),
        ("os-version:name=x", "Map field 'os-version' is read-only."),
        ("nothing=1", "Unknown field 'nothing'"),
        (
            "memory-static-max=lots",
            (
                "Failed to parse field 'memory-static-max': expecting an integer"
                " (possibly with suffix KiB, MiB, GiB, TiB), got 'lots'"
            ),
        ),
        ("VCPUs-max=two", "Failed to parse parameter 'VCPUs-max': expecting an integer"),
        (
            "is-a-template=maybe",
            "Failed to parse parameter 'is-a-template': expecting a boolean (true or false)",
        ),
        ("HVM-shadow-multiplier=big", "Parameter HVM-shadow-multiplier must be a floating-point number"),
    ],
)
async def test_param_set_refuses_in_the_words_of_xe(word: str, text: str) -> None:
    xen = XenDouble()
    line = await say(xen, "vm-param-set", f"uuid={UUID1}", word)
    assert (line.stdout, line.stderr, line.code) == ("", f"Error: {text}\n", 1)
    assert xen.changes == []


@pytest.mark.parametrize(
    ("words", "changes"),
    [
        (
            ["vm-param-add", "param-name=other-config", "a=b", "xcpmem-xl-config=/etc/xen/a.cfg"],
            [
                ("VM.add_to_other_config", WEB1, "a", "b"),
                ("VM.add_to_other_config", WEB1, "xcpmem-xl-config", "/etc/xen/a.cfg"),
            ],
        ),
        (["vm-param-add", "param-name=tags", "param-key=red"], [("VM.add_tags", WEB1, "red")]),
        (
            ["vm-param-remove", "param-name=other-config", "param-key=owner"],
            [("VM.remove_from_other_config", WEB1, "owner")],
        ),
        (["vm-param-remove", "param-name=tags", "param-key=blue"], [("VM.remove_tags", WEB1, "blue")]),
    ],
)
async def test_param_add_and_remove_make_a_call_for_each_key(words: list[str], changes: list[object]) -> None:
    xen = XenDouble()
    line = await say(xen, *words, f"uuid={UUID1}")
    assert (line.stdout, line.stderr, line.code) == ("", "", 0)
    assert xen.changes == changes


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["vm-param-add", "param-name=name-label", "a=b"], "Error: Cannot add parameters to this field"),
        (["vm-param-add", "param-name=nothing", "a=b"], "Error: Unknown field 'nothing'"),
        (
            ["vm-param-remove", "param-name=nothing", "param-key=k"],
            "Error: Unknown field 'nothing'",
        ),
        (
            ["vm-param-remove", "param-name=power-state", "param-key=k"],
            "Error: Cannot remove parameters from this field",
        ),
    ],
)
async def test_param_add_and_remove_refuse_what_is_no_map(words: list[str], text: str) -> None:
    xen = XenDouble()
    line = await say(xen, *words, f"uuid={UUID1}")
    assert (line.stdout, line.stderr, line.code) == ("", f"{text}\n", 1)
    assert xen.changes == []


def test_every_field_reads_something_that_xapi_has() -> None:
    model = json.loads(gzip.decompress(MODEL.read_bytes()))
    for kind in RECORD_CLASSES.values():
        for field in kind.fields:
            owner = f"{kind.name}_{field.within}" if field.within else kind.name
            assert field.call or field.path in model[owner]["fields"], field.name
        assert {*kind.columns} <= {field.name for field in kind.fields}
