"""The whole line over a simulated host: store, ring, service, sessions, dispatcher, application."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from xcpmem.api.accounts import USER_CHANGES
from xcpmem.api.advice import Adviser
from xcpmem.api.auditor import Auditor
from xcpmem.api.connections import ConnectionLimits
from xcpmem.api.dispatch import Dispatcher
from xcpmem.api.events import EventClock, Events
from xcpmem.api.http import make_app
from xcpmem.api.methods import make_handlers
from xcpmem.api.passwords import Accounts
from xcpmem.api.petitions import Petitions
from xcpmem.api.records import Records
from xcpmem.api.server import Server
from xcpmem.api.sessions import Peer, SessionClock, Sessions
from xcpmem.api.tasks import Tasks
from xcpmem.audit import AuditTrail
from xcpmem.chronicle import Chronicle
from xcpmem.controller import Controller
from xcpmem.history import History
from xcpmem.host import HostIdentity
from xcpmem.journal import Journal
from xcpmem.narration import Narrator
from xcpmem.refs import opaque_ref
from xcpmem.scenario import Scenario
from xcpmem.service import Service, ServiceSettings
from xcpmem.specs import MICROSECONDS_PER_SECOND, BalloonSpec, GuestSpec, HostSpec
from xcpmem.store import Store
from xcpmem.units import mib_to_kib
from xcpmem.vm import DomainZero, Vm
from xcpmem.wishbook import Wishbook
from xcpmem.xen.simhost import SimHost
from xcpmem.xen.virtual import VirtualDriver

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from aiohttp import web

    from xcpmem.api.http import HttpLimits
    from xcpmem.users import Users

GIB: Final = 1 << 30
GIB_KIB: Final = mib_to_kib(1024)
PASSWORD: Final = "p<&>ss"
NETWORK: Final = Peer("192.0.2.1")
LOCAL: Final = Peer("unix", 0)
HALTED: Final = "aaaaaaaa-0000-4000-8000-000000000001"
HOST: Final = "aaaaaaaa-0000-4000-8000-000000000002"
POOL: Final = "aaaaaaaa-0000-4000-8000-000000000003"
ZERO: Final = "aaaaaaaa-0000-4000-8000-000000000004"


class OneUser:
    """Root and one password; and a reader, who may change nothing."""

    def authenticate(self, uname: str, pwd: str) -> str | None:
        """Know both."""
        return {"root": "pool-admin", "reader": "read-only"}.get(uname) if pwd == PASSWORD else None


class Everyone(OneUser):
    """Those two, and the users of the store.

    Args:
        users: of the store.
    """

    def __init__(self, users: Users) -> None:
        self._accounts = Accounts(OneUser(), users.find)

    def authenticate(self, uname: str, pwd: str) -> str | None:
        """Know all of them."""
        return super().authenticate(uname, pwd) or self._accounts.authenticate(uname, pwd)


async def no_delay(_: float) -> None:
    """Wait for nothing."""


@dataclass
class Stack:
    """The parts, running."""

    host: SimHost
    controller: Controller
    service: Service
    sessions: Sessions
    records: Records
    tasks: Tasks
    events: Events
    dispatcher: Dispatcher
    observed: list[tuple[str, str]]
    trail: AuditTrail
    journal: Journal

    async def login(self, uname: str = "root", peer: Peer = NETWORK) -> str:
        """Open a session."""
        return str(await self.call("session.login_with_password", uname, PASSWORD, peer=peer))

    async def call(self, method: str, *params: object, peer: Peer = NETWORK) -> object:
        """Call as a codec would."""
        return await self.dispatcher.call(method, params, peer=peer)

    def app(self, limits: HttpLimits | None = None) -> web.Application:
        """Make the application."""
        return make_app(self.dispatcher, limits=limits)

    async def rename(self, uuid: str, name_label: str) -> None:
        """Change a VM behind the API's back."""
        await self.service.labels.edit(uuid, "name_label", lambda _: name_label)

    def vm(self, name_label: str) -> Vm:
        """Find a VM by its name."""
        return next(vm for vm in self.service.vms().values() if vm.name_label == name_label)

    def state(self) -> object:
        """Everything that a call could have changed."""
        return (
            {
                uuid: (vm.limits, vm.VCPUs_max, vm.HVM_shadow_multiplier)
                for uuid, vm in self.service.vms().items()
            },
            dict(self.service.pool_annotations),
            tuple(self.host.observe().host.reservations),
        )


def a_guest(domid: int, name_label: str) -> GuestSpec:
    """A prompt guest of 1 to 3 GiB that holds 2 GiB."""
    return GuestSpec(
        domid=domid,
        name_label=name_label,
        dynamic_min_kib=GIB_KIB,
        dynamic_max_kib=3 * GIB_KIB,
        static_max_kib=4 * GIB_KIB,
        target_kib=2 * GIB_KIB,
        balloon=BalloonSpec(rate_kib_s=GIB_KIB),
    )


def a_halted_vm(name_label: str = "halted") -> Vm:
    """A halted VM of 1 to 4 GiB, dynamic 2 to 4 GiB."""
    return Vm(
        uuid=HALTED,
        name_label=name_label,
        memory_static_min=1 * GIB,
        memory_static_max=4 * GIB,
        memory_dynamic_min=2 * GIB,
        memory_dynamic_max=4 * GIB,
        memory_target=2 * GIB,
        domain_type="hvm",
        VCPUs_max=2,
        VCPUs_at_startup=2,
    )


@asynccontextmanager
async def running_stack(
    state_dir: Path,
    guests: Sequence[GuestSpec] | None = None,
    *,
    answers_removed: bool = True,
    event_clock: EventClock | None = None,
    safety_look_s: float = 30.0,
    most_vms: int = 100,
) -> AsyncIterator[Stack]:
    """Run everything over a simulated host of 16 GiB: guests ``web1`` and ``db1``, and a halted VM."""
    specs = tuple(guests) if guests is not None else (a_guest(1, "web1"), a_guest(2, "db1"))
    spec = HostSpec(total_kib=16 * GIB_KIB, free_kib=8 * GIB_KIB, slush_kib=mib_to_kib(72))
    host = SimHost(Scenario(name="api", host=spec, guests=specs))
    clock = lambda: host.now_us / MICROSECONDS_PER_SECOND  # noqa: E731 - shorter than a function
    controller = Controller(VirtualDriver(host), safety_look_s=safety_look_s, clock=clock, wall=clock)
    identity = HostIdentity(
        name_label="laptop",
        hostname="laptop.test",
        uuid=HOST,
        domain_zero=DomainZero(2 * GIB_KIB, 4, uuid=ZERO),
    )
    settings = ServiceSettings(host=identity, pool_uuid=POOL, most_vms=most_vms)
    service = Service(Store(state_dir), controller, settings, clock=clock)
    await service.start()
    await service.seed([a_halted_vm()])
    sessions = Sessions(
        Everyone(service.users), service.reservations.release, clock=SessionClock(sleep=no_delay)
    )
    controller.know_owners(sessions.is_open)
    tasks = Tasks(opaque_ref("host", service.host().uuid))
    records = Records(service, sessions, tasks, users=service.users.all)
    events = Events(service, tasks, records, sessions, event_clock)
    journal, wishbook = Journal(state_dir, rows=1000, size_kib=mib_to_kib(4)), Wishbook(clock)
    names = Narrator(lambda uuid: service.vms()[uuid].name_label if uuid in service.vms() else "")
    controller.subscribe(Chronicle(names, wishbook, journal).absorb)
    observed: list[tuple[str, str]] = []
    trail = AuditTrail(state_dir)
    trail.open()
    dispatcher = Dispatcher(
        sessions,
        make_handlers(service, records, sessions, tasks, events, trail=trail, history=History(journal)),
        tasks,
        adviser=Adviser(records),
        auditor=Auditor(trail, records, dict.fromkeys(USER_CHANGES, service.users.all_roles)),
        observe=lambda method, status, _: observed.append((method, status)),
        witness=Petitions(wishbook, service.vms).surround,
        answers_removed=answers_removed,
    )
    ring = asyncio.create_task(controller.run())
    try:
        async with asyncio.timeout(20):
            await controller.next_report(0, 10)
        yield Stack(
            host, controller, service, sessions, records, tasks, events, dispatcher, observed, trail, journal
        )
    finally:
        events.close()
        await tasks.close()
        await sessions.close()
        await controller.close()
        await ring
        await journal.close()
        await service.close()
        trail.close()


@asynccontextmanager
async def listening(app: web.Application) -> AsyncIterator[str]:
    """Serve on a free port of the loopback; gives the URL."""
    server = Server(app, host="127.0.0.1", port=0, limits=ConnectionLimits(linger_s=0.5))
    port = await server.start()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        await server.close()
