"""What a call costs the host, counted and not timed: what it writes to xenstore, what it tells Xen to do."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.apistack import LOCAL, OneUser, no_delay
from tests.builders import uuid_of
from tests.startstack import MIB, WEB, attached, guest, simulated
from xcpmem.api.auditor import Auditor
from xcpmem.api.datamodel import Kind, load_datamodel
from xcpmem.api.dispatch import Dispatcher
from xcpmem.api.events import Events
from xcpmem.api.methods import make_handlers
from xcpmem.api.petitions import Petitions
from xcpmem.api.records import Records
from xcpmem.api.sessions import SessionClock, Sessions
from xcpmem.api.tasks import Tasks
from xcpmem.audit import AuditTrail
from xcpmem.refs import opaque_ref
from xcpmem.wishbook import Wishbook
from xcpmem.xen.storerequest import describe

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.startstack import Daemon
    from xcpmem.xen.wire import Message

CHANGES = {"WRITE", "MKDIR", "RM", "SET_PERMS"}
SURVEY = "survey"
HERE = object()
"""The host's reference."""
ONE = opaque_ref("VM", uuid_of(1))
QUESTIONS = {Kind.GET_ALL, Kind.GET_ALL_RECORDS, Kind.GET_RECORD, Kind.GET_FIELD, Kind.GET_BY_UUID}
SET_RANGE = load_datamodel().classes["VM"].messages["set_memory_dynamic_range"]


class Counted:
    """A daemon's API, and what its host was asked since the last count."""

    def __init__(self, daemon: Daemon, folder: Path) -> None:
        self.daemon = daemon
        self._session = ""
        self.requests: list[str] = []
        self.hypercalls: list[str] = []
        service = daemon.service
        self.sessions = Sessions(OneUser(), service.reservations.release, clock=SessionClock(sleep=no_delay))
        self.tasks = Tasks(opaque_ref("host", service.host().uuid))
        records = Records(service, self.sessions, self.tasks)
        self.events = Events(service, self.tasks, records, self.sessions)
        handlers = make_handlers(
            service, records, self.sessions, self.tasks, self.events, trail=AuditTrail(folder)
        )
        self.dispatcher = Dispatcher(self.sessions, handlers, self.tasks)
        daemon.host.store_server.fault = self._note_request
        daemon.host.hypervisor.fault = self._note_hypercall

    async def __call__(self, method: str, *params: object) -> object:
        """Call as root does on the Unix socket."""
        if not self._session:
            login = self.dispatcher.call("session.login_with_password", ("root", ""), peer=LOCAL)
            self._session = str(await login)
        host = opaque_ref("host", self.daemon.service.host().uuid)
        given = (host if param is HERE else param for param in params)
        return await self.dispatcher.call(method, (self._session, *given), peer=LOCAL)

    def forget(self) -> None:
        """Count from here."""
        self.requests.clear()
        self.hypercalls.clear()

    async def settle(self) -> None:
        """Wait until what was called for is done."""
        assert await self.daemon.ring.settle(10)

    @property
    def changes(self) -> list[str]:
        """What changed xenstore, in order."""
        return [text for text in self.requests if text.split()[0] in CHANGES]

    @property
    def orders(self) -> list[str]:
        """Which hypercalls changed something, in order."""
        return [call for call in self.hypercalls if call != SURVEY]

    def _note_request(self, message: Message) -> None:
        self.requests.append(describe(message.type, message.payload))

    def _note_hypercall(self, call: str, domid: int | None) -> None:
        self.hypercalls.append(call if domid is None else f"{call} {domid}")


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Counted]:
    """Two guests of 256 to 768 MiB that are at rest, room for a third, and a halted VM."""
    async with (
        simulated(tmp_path, guest(1), guest(2), spare_mib=1024) as host,
        attached(host, tmp_path) as daemon,
    ):
        assert await daemon.ring.settle(10)
        counted = Counted(daemon, tmp_path)
        yield counted
        counted.events.close()
        await counted.tasks.close()
        await counted.sessions.close()


async def test_question_asks_the_host_nothing(api: Counted) -> None:
    await api.daemon.stand_still()
    api.forget()
    for method, *params in (
        ("VM.get_record", ONE),
        ("VM.get_all_records",),
        ("VM.get_all_records_where", 'field "power_state" = "Running"'),
        ("VM.get_by_name_label", "guest-1"),
        ("VM.get_memory_dynamic_max", ONE),
        ("VM.maximise_memory", ONE, str(1024 * MIB), False),
        ("VM_metrics.get_all_records",),
        ("host.compute_free_memory", HERE),
        ("host_metrics.get_all_records",),
        ("event.from", ["*"], "", 0.0),
        ("event.inject", "VM", ONE),
    ):
        await api(str(method), *params)
        assert (api.requests, api.hypercalls) == ([], []), method


async def test_question_goes_straight_to_its_handler_past_those_who_note_changes(
    api: Counted, tmp_path: Path
) -> None:
    async def handle(*_: object) -> None:
        """Do nothing."""

    records = Records(api.daemon.service, api.sessions, api.tasks)
    auditor = Auditor(AuditTrail(tmp_path), records)
    petitions = Petitions(Wishbook(lambda: 0.0), api.daemon.service.vms)
    for message in load_datamodel().messages():
        if message.kind in QUESTIONS or message.wire_name in {"event.from", "host.compute_free_memory"}:
            surrounded = petitions.surround(message, auditor.surround(message, handle))
            assert surrounded is handle, message.wire_name
    assert petitions.surround(SET_RANGE, handle) is not handle
    assert auditor.surround(SET_RANGE, handle) is not handle


async def test_range_costs_a_write_for_each_end_and_one_for_the_target(api: Counted) -> None:
    memory = "WRITE /local/domain/1/memory"
    new_range = (str(300 * MIB), str(300 * MIB))
    await api("VM.set_memory_dynamic_range", ONE, *new_range)
    await api.settle()
    assert sorted(api.changes) == [f"{memory}/{key}" for key in ("dynamic-max", "dynamic-min", "target")]
    assert api.orders == ["set_maxmem 1"]
    api.forget()
    await api("VM.set_memory_dynamic_range", ONE, *new_range)
    await api("VM.set_name_label", ONE, "another")
    await api.settle()
    assert (api.changes, api.orders) == ([], [])


@pytest.mark.parametrize("stop", ["VM.clean_shutdown", "VM.hard_shutdown"])
async def test_start_costs_its_reservation_and_its_range_and_a_stop_nothing(api: Counted, stop: str) -> None:
    await api("VM.start", WEB.ref, False, False)
    await api.settle()
    aside = [text for text in api.changes if "/xcpmem/reservations/" in text]
    assert [text.split()[0] for text in aside] == [*["WRITE"] * 5, "RM"]
    assert sorted(set(api.changes) - set(aside)) == [
        "WRITE /local/domain/3/memory/dynamic-max",
        "WRITE /local/domain/3/memory/dynamic-min",
    ]
    assert api.orders == []
    api.forget()
    await api(stop, WEB.ref)
    await api.settle()
    assert (api.changes, api.orders) == ([], [])
