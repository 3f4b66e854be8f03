"""A small XenAPI and a connection, both in memory, for tests of the command line."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from xcpmem.api.cli import CommandLine
from xcpmem.api.cli_frames import (
    Decoder,
    Error,
    Exit,
    Greeting,
    Message,
    Print,
    PrintStderr,
    encode,
)
from xcpmem.api.sessions import Peer
from xcpmem.errors import (
    AuthenticationFailed,
    HandleInvalid,
    MethodUnknown,
    SessionInvalid,
    UuidInvalid,
    XcpmemError,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from xcpmem.api.values import Value

STRANGER = Peer("127.0.0.1")
TRUSTED = Peer("unix", uid=0)
GIB = 2**30
SESSION = "OpaqueRef:session"
HOST = "OpaqueRef:host"
POOL = "OpaqueRef:pool"
WEB1 = "OpaqueRef:web1"
DB1 = "OpaqueRef:db1"
TEMPLATE = "OpaqueRef:template"
DOM0 = "OpaqueRef:dom0"
GONE = "OpaqueRef:gone"
TASK = "OpaqueRef:a-task"

Records = dict[str, dict[str, dict[str, object]]]


def vm_record(uuid: str, name_label: str, **fields: object) -> dict[str, object]:
    return {
        "uuid": uuid,
        "name_label": name_label,
        "name_description": "",
        "power_state": "Halted",
        "is_a_template": False,
        "is_control_domain": False,
        "memory_static_min": GIB // 2,
        "memory_static_max": 4 * GIB,
        "memory_dynamic_min": GIB,
        "memory_dynamic_max": 2 * GIB,
        "memory_target": GIB,
        "memory_overhead": 26214400,
        "metrics": "OpaqueRef:NULL",
        "guest_metrics": "OpaqueRef:NULL",
        "HVM_shadow_multiplier": 1.0,
        "resident_on": "OpaqueRef:NULL",
        "other_config": {},
        "tags": (),
        "domid": -1,
        **fields,
    }


def some_records() -> Records:
    return {
        "VM": {
            WEB1: vm_record(
                "11111111-1111-1111-1111-111111111111",
                "web1",
                power_state="Running",
                metrics="OpaqueRef:web1-metrics",
                resident_on=HOST,
                other_config={"owner": "ann", "note": "a,b"},
                tags=("blue", "green"),
                domid=3,
            ),
            DB1: vm_record(
                "22222222-2222-2222-2222-222222222222",
                "db1, old",
                current_operations={"OpaqueRef:task": "start"},
                actions_after_reboot="restart",
                actions_after_crash="coredump_and_restart",
                domain_type="pv_in_pvh",
            ),
            TEMPLATE: vm_record("33333333-3333-3333-3333-333333333333", "debian", is_a_template=True),
            DOM0: vm_record(
                "00000000-0000-0000-0000-000000000000",
                "Control domain",
                power_state="Running",
                is_control_domain=True,
                metrics=GONE,
                resident_on=GONE,
                domid=0,
            ),
        },
        "VM_metrics": {
            "OpaqueRef:web1-metrics": {
                "uuid": "44444444-4444-4444-4444-444444444444",
                "memory_actual": 1200 * 2**20,
                "start_time": datetime(2026, 11, 23, 6, 30, tzinfo=UTC),
                "hvm": True,
                "numa_node_memory": {0: 100, 1: 200},
            },
        },
        "VM_guest_metrics": {},
        "host": {
            HOST: {
                "uuid": "55555555-5555-5555-5555-555555555555",
                "name_label": "xen1",
                "name_description": "first",
                "hostname": "xen1.example",
                "metrics": "OpaqueRef:host-metrics",
                "resident_VMs": [WEB1, DOM0],
                "enabled": True,
            },
        },
        "host_metrics": {
            "OpaqueRef:host-metrics": {"uuid": "66", "memory_total": 16 * GIB, "memory_free": 3 * GIB},
        },
        "pool": {
            POOL: {
                "uuid": "77777777-7777-7777-7777-777777777777",
                "name_label": "pool",
                "name_description": "",
                "master": HOST,
                "default_SR": "OpaqueRef:NULL",
                "other_config": {"owner": "ann"},
                "tags": (),
            },
        },
        "task": {
            TASK: {
                "uuid": "88888888-8888-8888-8888-888888888888",
                "name_label": "Async.VM.start",
                "name_description": "",
                "subtask_of": "OpaqueRef:NULL",
                "subtasks": (),
                "resident_on": HOST,
                "status": "failure",
                "progress": 1.0,
                "type": "<none/>",
                "result": "",
                "created": datetime(2026, 11, 23, 6, 30, tzinfo=UTC),
                "finished": datetime(2026, 11, 23, 6, 31, tzinfo=UTC),
                "error_info": ["VM_BAD_POWER_STATE", WEB1, "halted", "running"],
                "allowed_operations": [],
            },
        },
    }


class XenDouble:
    """Answers the calls that commands make from records in memory, and keeps note of the others.

    Args:
        records: by class and reference.
    """

    def __init__(self, records: Records | None = None) -> None:
        self.records = some_records() if records is None else records
        self.answers: dict[str, object] = {}
        self.failures: dict[str, XcpmemError] = {}
        self.changes: list[tuple[object, ...]] = []
        self.open_sessions = 0
        self.logins = 0
        self.begun = asyncio.Event()
        self.held: dict[str, asyncio.Event] = {}

    async def call(self, method: str, params: Sequence[Value], *, peer: Peer) -> object:
        if method == "session.login_with_password":
            return self.log_in(*params, peer=peer)
        if params[0] != SESSION:
            raise SessionInvalid(params[0])
        if method == "session.logout":
            self.open_sessions -= 1
            return None
        class_name, _, name = method.partition(".")
        records = self.records.get(class_name)
        if records is None:
            raise MethodUnknown(method)
        if name == "get_all_records":
            return records
        if name == "get_by_uuid":
            return self.find(class_name, str(params[1]))
        if name != "create" and params[1] not in records:
            raise HandleInvalid(class_name, params[1])
        if name == "get_record":
            return records[str(params[1])]
        return await self.act(method, params[1:])

    def log_in(self, *params: object, peer: Peer) -> str:
        username, password, _, originator = params
        assert originator == "cli"
        if not peer.is_trusted and (username, password) != ("root", "secret"):
            raise AuthenticationFailed(username, "no")
        self.open_sessions += 1
        self.logins += 1
        return SESSION

    def find(self, class_name: str, uuid: str) -> str:
        for ref, record in self.records[class_name].items():
            if record["uuid"] == uuid:
                return ref
        raise UuidInvalid(class_name, uuid)

    async def act(self, method: str, params: Sequence[object]) -> object:
        self.begun.set()
        for key in (method, f"{method} {params[0]}"):
            if key in self.held:
                await self.held[key].wait()
            if key in self.failures:
                raise self.failures[key]
        if ".get_" in method and method not in self.answers:
            raise MethodUnknown(method)
        self.changes.append((method, *params))
        return self.answers.get(method)


class Line:
    """The server's end of a connection whose client answers the greeting and then listens.

    Args:
        first: what the client says first, its greeting if None.
    """

    def __init__(self, first: bytes | None = None) -> None:
        self.messages: list[Message] = []
        self.told = asyncio.Event()
        self._decoder = Decoder()
        self._incoming: asyncio.Queue[bytes] = asyncio.Queue(16)
        self._incoming.put_nowait(encode(Greeting()) if first is None else first)

    async def send(self, data: bytes) -> None:
        self.messages += self._decoder.feed(data)
        self.told.set()

    async def receive(self) -> bytes:
        return await self._incoming.get()

    def say(self, data: bytes) -> None:
        """Let the client say something; nothing is a hang-up."""
        self._incoming.put_nowait(data)

    @property
    def stdout(self) -> str:
        return "".join(f"{message.text}\n" for message in self.messages if isinstance(message, Print))

    @property
    def stderr(self) -> str:
        return "".join(message.text for message in self.messages if isinstance(message, PrintStderr))

    @property
    def errors(self) -> list[Error]:
        return [message for message in self.messages if isinstance(message, Error)]

    @property
    def code(self) -> int | None:
        last = self.messages[-1]
        return last.code if isinstance(last, Exit) else None


async def say(
    calls: XenDouble,
    *words: str,
    peer: Peer = STRANGER,
    login: tuple[str, ...] = ("username=root", "password=secret"),
    wants_progress: bool = False,
) -> Line:
    """Hold one dialogue as a client of these words does, within ten seconds."""
    line = Line()
    async with asyncio.timeout(10):
        body = "\n".join([*words, *login]).encode()
        await CommandLine(calls).converse(line, body, peer, wants_progress=wants_progress)
    return line
