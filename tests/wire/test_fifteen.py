"""Fifteen things that a server which only looks like xapi gets wrong, each over a real connection."""

from __future__ import annotations

import asyncio
import json
import re
from contextlib import closing
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import aiohttp
import pytest

from tests.apistack import GIB, GIB_KIB, HALTED, PASSWORD, Stack, listening, running_stack
from xcpmem.api.cli_frames import Decoder, Exit, Greeting, Print, PrintStderr, encode
from xcpmem.api.cli_http import make_cli_handler
from xcpmem.api.http import make_app
from xcpmem.refs import opaque_ref
from xcpmem.units import mib_to_bytes

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

VM = opaque_ref("VM", HALTED)
PWD_XML = PASSWORD.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
DEADLINE_S = 20.0
MIB = mib_to_bytes(1)


class Wire:
    """Calls on both wires; ints go out as text, as Python's do."""

    def __init__(self, stack: Stack, url: str, http: aiohttp.ClientSession) -> None:
        self.stack = stack
        self.url = url
        self.http = http
        self.session = ""

    async def post(self, path: str, body: str) -> tuple[int, str, str]:
        async with self.http.post(self.url + path, data=body.encode()) as answer:
            return answer.status, answer.headers["Content-Type"], (await answer.read()).decode()

    async def xml(self, method: str, *params: str, path: str = "/") -> str:
        values = "".join(f"<param><value>{param}</value></param>" for param in params)
        body = f"<methodCall><methodName>{method}</methodName><params>{values}</params></methodCall>"
        status, kind, answer = await self.post(path, body)
        assert (status, kind) == (200, "text/xml")
        return answer

    async def json(self, method: str, *params: object, **members: object) -> Any:
        sent = {"method": method, "params": list(params), "id": 1, **members}
        status, kind, answer = await self.post("/jsonrpc", json.dumps(sent))
        assert (status, kind) == (200, "application/json")
        return json.loads(answer)

    async def __call__(self, method: str, *params: object) -> Any:
        answer = await self.json(method, self.session, *params)
        assert answer["error"] is None, answer
        return answer["result"]

    async def failure(self, method: str, *params: object) -> list[str]:
        failed: list[str] = (await self.json(method, self.session, *params))["error"]
        return failed

    def ref(self, name_label: str) -> str:
        return self.stack.vm(name_label).ref


@pytest.fixture
async def wire(tmp_path: Path) -> AsyncIterator[Wire]:
    async with running_stack(tmp_path) as stack:
        app = make_app(stack.dispatcher, cli=make_cli_handler(stack.dispatcher))
        async with listening(app) as url, aiohttp.ClientSession() as http:
            wire = Wire(stack, url, http)
            wire.session = await stack.login()
            yield wire


def value_of(xml: str) -> str:
    found = re.search(r"<name>Value</name>(<value>.*</value>)</member></struct></value></param>", xml)
    assert found is not None, xml
    return found[1]


async def test_1_content_type_has_no_charset(wire: Wire) -> None:
    for path, body, kind in (
        ("/", "<methodCall><methodName>system.listMethods</methodName><params/></methodCall>", "text/xml"),
        ("/jsonrpc", '{"id":1,"method":"system.listMethods","params":[]}', "application/json"),
        ("/jsonrpc", '{"id":1,"method":"VM.get_all","params":["dead"]}', "application/json"),
    ):
        assert (await wire.post(path, body))[:2] == (200, kind)


async def test_2_xml_is_on_one_line_with_untyped_strings_and_integers_as_text(wire: Wire) -> None:
    record = await wire.xml("VM.get_record", wire.session, VM)
    assert re.search(r">\s+<", record) is None
    assert not re.search(r"<(string|int|i4|i8|nil)", record)
    assert f"<name>memory_static_max</name><value>{4 * GIB}</value>" in record
    assert (await wire("VM.get_record", VM))["memory_static_max"] == 4 * GIB
    batch = await wire.xml(
        "event.from", wire.session, "<array><data><value>vm</value></data></array>", "", "0"
    )
    counts = re.search(r"<name>valid_ref_counts</name><value><struct>(.*?)</struct>", batch)
    assert counts is not None
    assert re.fullmatch(r"(<member><name>\w+</name><value><i4>\d+</i4></value></member>)+", counts[1])
    assert "<i4>" not in batch.replace(counts[0], "")


@pytest.mark.parametrize("path", ["/", "/RPC2", "/xmlrpc", "/any/other"])
async def test_3_xml_rpc_is_served_on_every_path(wire: Wire, path: str) -> None:
    assert VM in await wire.xml("VM.get_all", wire.session, path=path)


async def test_4_failure_is_a_success_of_http_and_void_has_a_value(wire: Wire) -> None:
    failed = await wire.xml("VM.set_memory", wire.session, VM, "1")
    assert "<name>Status</name><value>Failure</value>" in failed
    assert "fault" not in failed
    assert value_of(await wire.xml("VM.set_memory", wire.session, VM, str(GIB))) == "<value></value>"


async def test_5_methods_are_listed_bare_without_a_session_and_each_one_is_served(wire: Wire) -> None:
    answer = await wire.xml("system.listMethods")
    found = re.fullmatch(
        r'<\?xml version="1\.0"\?><methodResponse><params><param><value><array><data>'
        r"((?:<value>[\w.]+</value>)+)</data></array></value></param></params></methodResponse>",
        answer,
    )
    assert found is not None
    names = re.findall(r"<value>([\w.]+)</value>", found[1])
    assert (await wire.json("system.listMethods"))["result"] == names
    for name in names:
        if name.endswith(".get_all_records"):
            assert isinstance(await wire(name), dict)
        elif name not in {"system.listMethods", "session.login_with_password"}:
            assert (await wire.failure(name, *["x"] * 20))[0] != "MESSAGE_METHOD_UNKNOWN"


async def test_6_both_versions_of_json_rpc_have_their_own_shape(wire: Wire) -> None:
    assert await wire.json("VM.get_domid", wire.session, VM) == {"result": -1, "error": None, "id": 1}
    assert await wire.json("VM.get_domid", wire.session, VM, jsonrpc="2.0") == {
        "jsonrpc": "2.0",
        "result": -1,
        "id": 1,
    }
    assert await wire.json("VM.get_domid", "dead", VM) == {
        "result": None,
        "error": ["SESSION_INVALID", "dead"],
        "id": 1,
    }
    failed = await wire.json("VM.set_memory", wire.session, VM, 1, jsonrpc="2.0")
    error = {"code": 1, "message": "MEMORY_CONSTRAINT_VIOLATION_ORDER", "data": []}
    assert failed == {"jsonrpc": "2.0", "error": error, "id": 1}
    assert (await wire.post("/jsonrpc", '{"jsonrpc":"3.0","id":1,"method":"x","params":[]}'))[0] == 500


async def test_7_login_takes_two_parameters_or_more_and_tells_who_was_refused(wire: Wire) -> None:
    for extra in ((), ("1.0",), ("1.0", "me"), ("1.0", "me", "and more")):
        session = (await wire.json("session.login_with_password", "root", PASSWORD, *extra))["result"]
        assert session.startswith("OpaqueRef:")
    assert (await wire.json("session.login_with_password", "root", "wrong"))["error"] == [
        *("SESSION_AUTHENTICATION_FAILED", "root", "Authentication failure"),
    ]
    batch = await wire.json("event_from", wire.session, ["task"], "", 0)
    assert batch["result"]["events"] == []


async def test_8_limits_come_in_xapis_order_are_kept_to_the_byte_and_never_clamped(wire: Wire) -> None:
    await wire("VM.set_memory_limits", VM, str(GIB + 1), str(8 * GIB + 3), str(2 * GIB + 5), str(6 * GIB + 7))
    names = ("static_min", "static_max", "dynamic_min", "dynamic_max", "target")
    assert [await wire(f"VM.get_memory_{name}", VM) for name in names] == [
        *(GIB + 1, 8 * GIB + 3, 2 * GIB + 5, 6 * GIB + 7, 2 * GIB + 5),
    ]
    assert await wire.failure("VM.set_memory_static_range", VM, GIB, 6 * GIB) == [
        *("MEMORY_CONSTRAINT_VIOLATION_ORDER",),
    ]
    assert await wire("VM.get_memory_dynamic_max", VM) == 6 * GIB + 7


async def test_9_limits_of_a_running_vm_are_refused_and_a_control_domain_waits_for_a_reboot(
    wire: Wire,
) -> None:
    web1 = wire.ref("web1")
    for method, values in (
        ("set_memory_limits", [GIB] * 4),
        ("set_memory", [GIB]),
        ("set_memory_static_max", [1]),
    ):
        assert await wire.failure(f"VM.{method}", web1, *values) == [
            *("VM_BAD_POWER_STATE", web1, "halted", "running"),
        ]
    zero = await wire("host.get_control_domain", (await wire("host.get_all"))[0])
    assert not await wire("VM.get_requires_reboot", zero)
    await wire("VM.set_memory_limits", zero, *[GIB] * 4)
    assert await wire("VM.get_requires_reboot", zero)


async def test_10_power_state_comes_before_constraints_and_some_vms_must_be_pinned(wire: Wire) -> None:
    web1 = wire.ref("web1")
    assert (await wire.failure("VM.set_memory_limits", web1, 4, 3, 2, 1))[0] == "VM_BAD_POWER_STATE"
    assert await wire.failure("VM.set_memory_limits", VM, 4, 3, 2, 1) == ["MEMORY_CONSTRAINT_VIOLATION_ORDER"]
    zero = await wire("host.get_control_domain", (await wire("host.get_all"))[0])
    for values in ((GIB, 2 * GIB, GIB, 2 * GIB), (4, 3, 2, 1)):
        assert await wire.failure("VM.set_memory_limits", zero, *values) == [
            *("MEMORY_CONSTRAINT_VIOLATION_MAXPIN", "control domain"),
        ]
    await wire("VM.add_to_platform", VM, "nested-virt", "true")
    assert await wire.failure("VM.set_memory_limits", VM, 4, 3, 2, 1) == [
        *("MEMORY_CONSTRAINT_VIOLATION_MAXPIN", "nested virt"),
    ]
    assert await wire.failure("VM.set_memory_dynamic_range", VM, GIB, 2 * GIB) == [
        *("VM_IS_USING_NESTED_VIRT", VM),
    ]


async def test_11_free_memory_counts_domain_zero_what_starts_overheads_and_the_reserve(wire: Wire) -> None:
    (host,) = await wire("host.get_all")
    metrics = (await wire("host_metrics.get_all_records")).popitem()[1]
    records = (await wire("VM.get_all_records")).values()
    resident = [record for record in records if record["resident_on"] == host]
    assert {record["is_control_domain"] for record in resident} == {True, False}
    promised = sum(record["memory_dynamic_min"] + record["memory_overhead"] for record in resident)
    overhead = await wire("host.compute_memory_overhead", host)
    free = await wire("host.compute_free_memory", host)
    assert free == metrics["memory_total"] - overhead - promised
    ledger = wire.stack.service._ledger
    ledger.begin(HALTED, "start")
    halted = await wire("VM.get_record", VM)
    assert halted["scheduled_to_be_resident_on"] == host
    counted = halted["memory_dynamic_min"] + halted["memory_overhead"]
    assert await wire("host.compute_free_memory", host) == free - counted
    ledger.end(HALTED)
    await wire("VM.set_memory", VM, str(64 * GIB))
    ledger.begin(HALTED, "start")
    assert await wire("host.compute_free_memory", host) == 0
    ledger.end(HALTED)


async def test_12_lack_of_memory_is_told_in_kib_for_a_live_range_and_in_bytes_elsewhere(wire: Wire) -> None:
    (host,), web1 = await wire("host.get_all"), wire.ref("web1")
    free = await wire("host.compute_free_memory", host)
    assert await wire.failure("VM.set_memory_dynamic_min", web1, str(65 * GIB)) == [
        *("HOST_NOT_ENOUGH_FREE_MEMORY", str(64 * GIB_KIB), str(free // 1024)),
    ]
    await wire("VM.set_memory", VM, str(64 * GIB))
    needed = 64 * GIB + await wire("VM.compute_memory_overhead", VM)
    assert await wire.failure("VM.assert_can_boot_here", VM, host) == [
        *("HOST_NOT_ENOUGH_FREE_MEMORY", str(needed), str(free)),
    ]


OVERHEADS = [
    (("hvm", 8 * GIB, 2, 1.0), 69),
    (("hvm", 4 * GIB, 1, 1.0), 36),
    (("hvm", 2 * GIB, 2, 4.0), 75),
    (("hvm", 512 * MIB, 8, 1.0), 16),
    (("hvm", 8 * GIB + 1, 2, 1.0), 70),
    (("pv", 4 * GIB, 2, 1.0), 36),
    (("pv", 256 * MIB, 1, 1.0), 5),
    (("pv_in_pvh", 1 * GIB, 1, 1.0), 46),
]


@pytest.mark.parametrize(("shape", "mib"), OVERHEADS)
async def test_13_overhead_is_counted_by_vcpus_max_and_static_max(
    wire: Wire, shape: tuple[str, int, int, float], mib: int
) -> None:
    domain_type, static_max, vcpus, multiplier = shape
    await wire("VM.set_domain_type", VM, domain_type)
    await wire("VM.set_VCPUs_at_startup", VM, 1)
    await wire("VM.set_VCPUs_max", VM, vcpus)
    await wire("VM.set_HVM_shadow_multiplier", VM, multiplier)
    await wire("VM.set_memory_limits", VM, 0, str(static_max), str(128 * MIB), str(128 * MIB))
    assert await wire("VM.get_memory_overhead", VM) == mib * MIB
    assert await wire("VM.compute_memory_overhead", VM) == mib * MIB


async def test_13_footprint_of_pv_does_not_count_the_shadow_multiplier(wire: Wire) -> None:
    await wire("VM.set_domain_type", VM, "pv")
    largest = await wire("VM.maximise_memory", VM, str(4 * GIB), False)
    await wire("VM.set_HVM_shadow_multiplier", VM, 4.0)
    assert await wire("VM.maximise_memory", VM, str(4 * GIB), False) == largest


async def test_14_events_have_whole_records_lower_case_classes_and_end_on_time(wire: Wire) -> None:
    first = await wire("event.from", ["VM"], "", 0)
    assert {event["class"] for event in first["events"]} == {"vm"}
    assert {event["operation"] for event in first["events"]} == {"add"}
    assert all(len(event["snapshot"]) == 92 for event in first["events"])
    assert int(first["token"].split(",")[0]) > 10**15
    task = await wire("Async.VM.set_memory", VM, str(3 * GIB))
    token, status = "", "pending"
    while status == "pending":
        batch = await wire("event.from", [f"task/{task}"], token, 30.0)
        token, (event,) = batch["token"], batch["events"]
        status = event["snapshot"]["status"]
    assert event["snapshot"]["result"] == "<value></value>"
    await wire("VM.set_name_label", VM, "renamed")
    (changed,) = (await wire("event.from", [f"vm/{VM}"], first["token"], 30.0))["events"]
    assert (changed["operation"], len(changed["snapshot"])) == ("mod", 92)
    assert changed["snapshot"]["name_label"] == "renamed"
    await wire("task.destroy", task)
    (gone,) = (await wire("event.from", ["task"], token, 30.0))["events"]
    assert (gone["operation"], gone["ref"], "snapshot" in gone) == ("del", task, False)
    quiet = await wire("event.from", ["pool"], gone and batch["token"], 0.05)
    assert quiet["events"] == []


class ThinClient:
    """The bytes of `xe`, and what it makes of the answer."""

    def __init__(self, url: str) -> None:
        self._address = urlsplit(url)

    async def __call__(self, *words: str) -> tuple[bytes, Sequence[object]]:
        reader, writer = await asyncio.open_connection(self._address.hostname, self._address.port)
        body = "\n".join([*words, "username=root", f"password={PASSWORD}"]).encode()
        with closing(writer):
            writer.write(
                b"POST /cli HTTP/1.0\r\nUser-agent: xe-cli/Unix/0.2\r\noriginator: cli\r\n"
                b"content-length: %d\r\n\r\n" % len(body) + body
            )
            async with asyncio.timeout(DEADLINE_S):
                greeting = await reader.readexactly(35)
                writer.write(greeting)
                frames = await reader.read(-1)
        decoder = Decoder()
        return greeting + frames, list(decoder.feed(encode(Greeting()) + frames))[1:]


async def test_15_command_line_is_raw_frames_with_an_exit_at_the_end(wire: Wire) -> None:
    xe = ThinClient(wire.url)
    raw, frames = await xe("vm-list", "name-label=halted", "params=uuid", "--minimal")
    assert raw.startswith(b"XenSource thin CLI protocol\x00\x00\x00\x00\x02\x00\x00\x00")
    assert raw.endswith(bytes.fromhex("0c000000 09000000 04000000 00000000"))
    length = len(HALTED)
    assert raw[35:].startswith(
        (12 + length).to_bytes(4, "little")
        + bytes.fromhex("09000000 00000000")
        + length.to_bytes(4, "little")
        + HALTED.encode()
    )
    assert frames == [Print(HALTED), Exit(0)]
    _, frames = await xe("vm-memory-dynamic-range-set", f"uuid={HALTED}", "min=1536MiB", "max=2 gib")
    assert frames == [Exit(0)]
    assert await wire("VM.get_memory_dynamic_min", VM) == 1536 * MIB
    _, frames = await xe("vm-memory-set", "uuid=none", "memory=1GiB")
    assert (frames[-1], type(frames[0])) == (Exit(1), PrintStderr)
