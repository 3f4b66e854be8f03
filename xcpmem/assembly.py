"""Builds the daemon from its settings, serves until it is told to end, and takes it down again.

The only module that knows all others. Whatever it opens it closes in the reverse order; the host is left as
it is.
"""

from __future__ import annotations

import asyncio
import logging
import math
import signal
import socket
import sys
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from xcpmem import __version__, garbage, notify
from xcpmem.actuation import OBSERVING
from xcpmem.api.accounts import USER_CHANGES
from xcpmem.api.advice import Adviser
from xcpmem.api.auditor import Auditor
from xcpmem.api.cli_http import make_cli_handler
from xcpmem.api.datamodel import load_datamodel
from xcpmem.api.dispatch import Dispatcher
from xcpmem.api.dropin import DIRECT, DropIn
from xcpmem.api.events import Events
from xcpmem.api.gates import OriginGate, ReadGate
from xcpmem.api.http import make_app
from xcpmem.api.methods import make_handlers
from xcpmem.api.pages import page_routes
from xcpmem.api.pam import open_pam
from xcpmem.api.passwords import Accounts, RootPasswordFile, make_password_file, read_token
from xcpmem.api.petitions import Petitions
from xcpmem.api.records import Records
from xcpmem.api.server import Server, open_certificate
from xcpmem.api.sessions import Sessions
from xcpmem.api.state import StateSources, StateWriter
from xcpmem.api.stream import StateFeed
from xcpmem.api.tasks import Tasks
from xcpmem.api.timeline import Timeline
from xcpmem.audit import AuditTrail
from xcpmem.chronicle import Chronicle
from xcpmem.config import DriverKind, OverheadFormula, Settings
from xcpmem.controller import Controller
from xcpmem.engine.accounting import NEW_FORMULA, OLD_FORMULA
from xcpmem.engine.belief import Caution
from xcpmem.engine.planner import PlannerSettings
from xcpmem.errors import DriverError
from xcpmem.history import History
from xcpmem.host import HostIdentity
from xcpmem.hosts import open_host
from xcpmem.images import IMAGES_FOLDER
from xcpmem.journal import open_journal
from xcpmem.metrics import Metrics, Sources
from xcpmem.narration import Narrator
from xcpmem.preparation import choose_policies, own_state_dir, read_settings, take_addresses
from xcpmem.refs import opaque_ref, service_of
from xcpmem.service import Service, ServiceSettings
from xcpmem.shadows import Shadows
from xcpmem.store import Store
from xcpmem.wishbook import Wishbook

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping

    from xcpmem.api.addresses import Addresses
    from xcpmem.hosts import OpenHost
    from xcpmem.policybook import PolicyChoices
    from xcpmem.scenario import Scenario

_T = TypeVar("_T")

_log = logging.getLogger(__name__)

SHUTDOWN_S: Final = 4.0
"""Everything is closed within this time after SIGTERM, or left to the kernel."""

NO_CERTIFICATE: Final = "SIGHUP: there is no certificate to read again; settings are read at a start alone"

LATE_TURNS: Final = 3
"""The ring counts as hanging when it is so many safety looks late."""

BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True)
class _Ground:
    """What was read and taken before a word was said to the host."""

    password_file: Path
    scenario: Scenario | None
    addresses: Addresses


@dataclass(frozen=True, slots=True)
class _Parts:
    """What a running daemon is made of."""

    host: OpenHost
    controller: Controller
    service: Service
    tasks: Tasks
    events: Events
    server: Server
    metrics: Metrics
    feed: StateFeed
    dropin: DropIn


async def serve(settings: Settings, policies: PolicyChoices) -> None:
    """Be the daemon until SIGTERM.

    Raises:
        ConfigError: the settings do not fit the machine.
        XcpmemError: it cannot serve.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        loop.add_signal_handler(signal.SIGHUP, _log.info, NO_CERTIFICATE)
    else:  # what a terminal sends that is closed
        loop.add_signal_handler(signal.SIGHUP, stop.set)
    async with AsyncExitStack() as stack:
        scenario = read_settings(settings, policies)
        own_state_dir(settings.state_dir, stack)
        addresses = await take_addresses(settings, stack)
        ground = _Ground(_root_password_file(settings), scenario, addresses)
        parts = await _unless(stop, _assemble(settings, policies, ground, stack))
        if parts is None:
            return
        ring = asyncio.create_task(parts.controller.run(), name="ring")
        stack.push_async_callback(_end_ring, parts.controller, ring)
        if not await _first_look(parts.controller, settings, stop):
            return
        garbage.spare()
        port = await parts.server.start()
        stack.push_async_callback(parts.server.close)
        stack.push_async_callback(parts.tasks.close)
        stack.callback(parts.events.close)
        stack.callback(parts.feed.close)
        await parts.dropin.start()
        stack.push_async_callback(parts.dropin.close)
        # First of all: who waits is told while we serve.
        stack.push_async_callback(parts.service.lifecycle.close)
        stack.push_async_callback(parts.controller.close)
        address = settings.listen.host
        scheme = "https" if settings.tls_cert else "http"
        url = f"{scheme}://{f'[{address}]' if ':' in address else address}:{port}"
        sys.stdout.write(
            f"xcpmemd ready url={url} socket={settings.socket_path} state={settings.state_dir}\n"
        )
        sys.stdout.flush()
        notify.notify(notify.READY, notify.status(f"serving {url}"))
        stance = ": it looks only and touches nothing (--observe)" if settings.observe else ""
        _log.info("xcpmemd %s serves %s on the %s host%s", __version__, url, settings.driver.value, stance)
        await _watch(stop, ring, parts.controller)
        notify.notify(notify.STOPPING)
        _log.info("ending: callers that wait are told, the host stays as it is")


async def _assemble(
    settings: Settings, policies: PolicyChoices, ground: _Ground, stack: AsyncExitStack
) -> _Parts:
    """Build the parts from the host upwards."""
    host = await open_host(settings, ground.scenario)
    stack.push_async_callback(host.close)
    if host.policy is not None:
        policies = choose_policies(settings, policies, host.policy, host.scenario)
    caution = Caution(patience_s=settings.patience_s)
    controller = Controller(
        host.driver,
        policy=policies.configured,
        shadows=Shadows(policies.shadows, caution),
        settings=PlannerSettings(caution=caution),
        safety_look_s=settings.safety_look_s,
        orphan_s=settings.reservation_orphan_s,
        observes=settings.observe,
    )
    service = Service(
        Store(settings.state_dir),
        controller,
        ServiceSettings(
            host=_identity(settings),
            policies=policies,
            most_vms=settings.most_vms,
            follows=settings.observe or settings.is_drop_in,
            formula=NEW_FORMULA if settings.overhead_formula is OverheadFormula.NEW else OLD_FORMULA,
        ),
        toolstack=host.toolstack,
        images=settings.state_dir / IMAGES_FOLDER,
    )
    await service.start()
    stack.push_async_callback(service.close)
    host.leave_out(service.suspended())
    await service.seed(host.definitions)
    sessions = Sessions(
        Accounts(
            RootPasswordFile(ground.password_file), service.users.find, open_pam(settings.pam_service or "")
        ),
        service.reservations.release,
        idle_limit_s=settings.session_idle_s,
    )
    stack.push_async_callback(sessions.close)
    controller.know_owners(
        lambda owner: service_of(owner) is not None or sessions.find_by_uuid(owner) is not None
    )
    metrics = Metrics(
        Sources(
            driver=settings.driver.value,
            policy=lambda: service.policies.current.name,
            vms=service.vms,
            host_overhead_bytes=service.compute_host_memory_overhead,
            sessions=lambda: len(sessions),
            login_failures=lambda: sessions.login_failures,
            xenstore_reconnects=lambda: host.xenstore.reconnects,
            methods=frozenset(message.wire_name for message in load_datamodel().messages()),
        )
    )
    stack.callback(metrics.close)
    controller.subscribe(metrics.observe_cycle)
    journal = open_journal(settings.state_dir, rows=settings.journal_rows, size_kib=settings.journal_kib)
    if journal is not None:
        stack.push_async_callback(journal.close)
    wishbook = Wishbook(time.monotonic)
    narrator = Narrator(
        lambda uuid: service.vms()[uuid].name_label if uuid in service.vms() else "",
        lambda owner: session.user if (session := sessions.find_by_uuid(owner)) else "",
    )
    controller.subscribe(Chronicle(narrator, wishbook, journal).absorb)
    host.xenstore.observe_exchanges(metrics.observe_exchange)
    tasks = Tasks(opaque_ref("host", service.host().uuid))
    trail = AuditTrail(settings.state_dir)
    trail.open()
    stack.callback(trail.close)
    records = Records(service, sessions, tasks, users=service.users.all)
    events = Events(service, tasks, records, sessions)
    dispatcher = Dispatcher(
        sessions,
        make_handlers(service, records, sessions, tasks, events, trail=trail, history=History(journal)),
        tasks,
        observe=metrics.observe_rpc,
        adviser=Adviser(records),
        auditor=Auditor(trail, records, dict.fromkeys(USER_CHANGES, service.users.all_roles)),
        witness=Petitions(wishbook, service.vms).surround,
        refusal=OBSERVING if settings.observe else "",
        answers_removed=settings.removed_getters,
    )
    dropin = DropIn(
        service,
        listening=next(iter(ground.addresses.sockets(DIRECT)), None),
        switch_path=settings.message_switch,
        boot_memory_file=settings.boot_memory_file if settings.driver is DriverKind.XEN else None,
        epoch=_identity(settings).boot_id,
    )
    feed, timeline = _dashboard(settings, controller, service, sessions)
    gate = ReadGate(sessions, read_token(settings.read_token_file))
    app = make_app(
        dispatcher,
        render_metrics=metrics.scrape,
        readers=gate,
        origins=OriginGate((socket.gethostname(), settings.listen.host), settings.trusted_origins or ""),
        has_session=sessions.has_source,
        live_checks={"ring": _turns(controller, settings), "ledger": lambda: service.is_alive},
        ready_checks=_ready_checks(controller, settings, dropin),
        cli=make_cli_handler(dispatcher),
        pages=page_routes(feed, timeline, gate),
    )
    server = Server(
        app,
        addresses=ground.addresses,
        certificate=open_certificate(settings.tls_cert, settings.tls_key),
    )
    return _Parts(host, controller, service, tasks, events, server, metrics, feed, dropin)


def _dashboard(
    settings: Settings, controller: Controller, service: Service, sessions: Sessions
) -> tuple[StateFeed, Timeline]:
    """Build what the dashboard reads."""

    def name_owner(owner: str) -> str:
        session = sessions.find_by_uuid(owner)
        return owner if session is None else session.originator or session.uname

    sources = StateSources(
        report=lambda: controller.report,
        vms=service.vms,
        host=service.host,
        policy=lambda: service.policies.current.name,
        name_owner=name_owner,
        driver=settings.driver.value,
        observes=settings.observe,
        looks_every_s=settings.safety_look_s,
    )
    feed = StateFeed(StateWriter(sources))
    controller.subscribe(feed.outdate)
    service.subscribe(feed.outdate)
    timeline = Timeline(lambda uuid: vm.name_label if (vm := service.vms().get(uuid)) else name_owner(uuid))
    controller.subscribe(timeline.observe_cycle)
    return feed, timeline


def _root_password_file(settings: Settings) -> Path:
    """Find root's password, or make one at the first start."""
    if settings.root_password_file is not None:
        return settings.root_password_file
    path = settings.state_dir / "root.password"
    make_password_file(path)
    return path


def _identity(settings: Settings) -> HostIdentity:
    hostname = socket.gethostname()
    boot_id = ""
    if settings.driver is DriverKind.XEN and BOOT_ID.exists():
        boot_id = BOOT_ID.read_text(encoding="ascii").strip()
    return HostIdentity(
        name_label=hostname,
        hostname=hostname,
        address=settings.listen.host,
        boot_id=boot_id,
    )


def _turns(controller: Controller, settings: Settings) -> Callable[[], bool]:
    return lambda: time.monotonic() - controller.turned_s < LATE_TURNS * settings.safety_look_s


def _ready_checks(
    controller: Controller, settings: Settings, dropin: DropIn
) -> Mapping[str, Callable[[], bool]]:
    def sees_host() -> bool:
        report = controller.report
        return report is not None and all(failure.kind != "Look" for failure in report.failures)

    checks = {"host": sees_host, "ring": _turns(controller, settings)}
    if settings.message_switch is not None:
        checks["message-switch"] = lambda: dropin.is_connected
    return checks


async def _first_look(controller: Controller, settings: Settings, stop: asyncio.Event) -> bool:
    """Wait until the records can be true; tell whether they are, and not that it is time to end."""
    report = await _unless(stop, controller.next_report(0, settings.safety_look_s))
    if report is None and not stop.is_set():
        raise DriverError(f"the host could not be looked at within {settings.safety_look_s:g} s")
    return not stop.is_set()


async def _unless(stop: asyncio.Event, work: Coroutine[Any, Any, _T]) -> _T | None:
    """Carry out a part of the start; break it off, and give None, when it is time to end."""
    working, stopped = asyncio.ensure_future(work), asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait({working, stopped}, return_when=asyncio.FIRST_COMPLETED)
        return None if stopped.done() else working.result()
    finally:
        stopped.cancel()
        working.cancel()
        await asyncio.wait({working}, timeout=SHUTDOWN_S)


async def _watch(stop: asyncio.Event, ring: asyncio.Task[None], controller: Controller) -> None:
    """Serve until told to stop; feed systemd's watchdog as long as the ring turns."""
    interval_s = notify.watchdog_interval_s()
    fed_s = -math.inf  # the turns before READY count: where nothing happens, the next comes after a wake
    stopped = asyncio.create_task(stop.wait())
    try:
        while not stopped.done() and not ring.done():
            await asyncio.wait({stopped, ring}, timeout=interval_s, return_when=asyncio.FIRST_COMPLETED)
            if interval_s is not None:
                controller.wake()
                if controller.turned_s > fed_s:
                    fed_s = controller.turned_s
                    notify.notify(notify.WATCHDOG)
    finally:
        stopped.cancel()
    if ring.done():
        ring.result()


async def _end_ring(controller: Controller, ring: asyncio.Task[None]) -> None:
    await controller.close()
    try:
        async with asyncio.timeout(SHUTDOWN_S):
            await ring
    except TimeoutError:
        _log.warning("the ring did not end within %.0f s", SHUTDOWN_S)
