"""Opens the host that the settings name: real Xen, a simulated one of our own, or one that runs elsewhere."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from xcpmem.config import DriverKind
from xcpmem.engine.policy import DEFAULT_WEIGHT, WEIGHTS
from xcpmem.errors import ConfigError, DriverDisconnected, DriverError
from xcpmem.scenario import load_scenario
from xcpmem.units import kib_to_bytes
from xcpmem.vm import Vm
from xcpmem.weights import WEIGHT_KEY
from xcpmem.xen.hypervisor import open_hypervisor
from xcpmem.xen.live import LiveDriver
from xcpmem.xen.reservations import ReservationStore
from xcpmem.xen.simhypervisor import RemoteHypervisor
from xcpmem.xen.simtoolstack import RemoteToolstack
from xcpmem.xen.simulated import (
    HYPERVISOR_SUFFIX,
    OWN_DOMAIN_ZERO,
    TOOLSTACK_SUFFIX,
    SimulatedHost,
)
from xcpmem.xen.takeover import hand_back, take_over
from xcpmem.xen.xenstore import Xenstore
from xcpmem.xen.xl import XlToolstack, outside_sandbox

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection

    from xcpmem.config import Settings
    from xcpmem.scenario import Scenario
    from xcpmem.specs import GuestSpec
    from xcpmem.xen.hypervisor import Hypervisor
    from xcpmem.xen.toolstack import Toolstack

_log = logging.getLogger(__name__)

XENSTORED_SOCKETS: Final = ("/run/xenstored/socket", "/var/run/xenstored/socket")
"""Where xenstored listens; ``XENSTORED_PATH`` in the environment wins, as for Xen's own tools."""

SIMULATED_STORE: Final = "xenstored.sock"
"""The simulated host's xenstored, in the state dir: ``xenstore-ls`` can read it."""


@dataclass(frozen=True, slots=True)
class OpenHost:
    """A host that can be looked at.

    Args:
        driver: for the controller.
        xenstore: for its counters.
        toolstack: starts and stops its VMs.
        definitions: VMs that the host's toolstack would know of.
        policy: what the scenario says that memory is divided by; None: nothing says so.
        scenario: who says so: a scenario's name or file, or the socket of a host that brings its own.
        close: lets go of it, in the right order.
        leave_out: tells a host that boots with the daemon which VMs, by uuid, must not have a domain yet.
    """

    driver: LiveDriver
    xenstore: Xenstore
    toolstack: Toolstack
    definitions: tuple[Vm, ...]
    close: Callable[[], Awaitable[None]]
    policy: str | None = None
    scenario: str = ""
    leave_out: Callable[[Collection[str]], None] = lambda _: None


def read_scenario(settings: Settings) -> Scenario | None:
    """Read the scenario that the settings name; None: on Xen, or where a host elsewhere brings its own.

    Raises:
        ConfigError: there is no such scenario, or something in it is wrong.
    """
    brings_its_own = settings.host is not None and "scenario" not in settings.origins
    if settings.driver is DriverKind.XEN or brings_its_own:
        return None
    try:
        scenario = load_scenario(settings.scenario)
    except ConfigError as error:
        if error.key:
            raise
        raise ConfigError("settings", "scenario", str(error)) from error
    if scenario.has_domain_zero:
        raise ConfigError(settings.scenario, "guest.domid", OWN_DOMAIN_ZERO)
    return scenario


async def open_host(settings: Settings, scenario: Scenario | None) -> OpenHost:
    """Open the host.

    Args:
        settings: which, and how.
        scenario: as `read_scenario` read it.

    Raises:
        DriverError: the host is not there.
    """
    if settings.driver is DriverKind.XEN:
        toolstack = XlToolstack(outside=outside_sandbox(os.environ))
        return await _connect(settings, _xenstored_socket(), open_hypervisor(), toolstack)
    if settings.host is not None:
        return await _attach(settings, str(settings.host), scenario)
    if scenario is None:
        raise AssertionError("a host within the daemon is made of a scenario")
    definitions, slush_kib = _definitions(scenario), scenario.host.slush_kib
    store = str(settings.state_dir / SIMULATED_STORE)
    simulated = SimulatedHost(scenario)
    await simulated.start(store)
    try:
        host = await _connect(
            settings, store, simulated.hypervisor, simulated.toolstack, definitions, slush_kib=slush_kib
        )
    except BaseException:
        await simulated.close()
        raise

    async def close() -> None:
        await host.close()
        await simulated.close()

    def leave_out(uuids: Collection[str]) -> None:
        for guest in [each for each in simulated.catch_up().guests.values() if each.uuid in uuids]:
            simulated.remove_guest(guest.spec.domid)

    return replace(host, close=close, policy=scenario.policy, scenario=settings.scenario, leave_out=leave_out)


async def _attach(settings: Settings, path: str, named: Scenario | None) -> OpenHost:
    """Open a simulated host that runs elsewhere: as it is, unless the settings name a scenario themselves."""
    remote = RemoteToolstack(path + TOOLSTACK_SUFFIX)
    try:
        scenario = named or await _ask(remote, path)
        host = await _connect(
            settings,
            path,
            RemoteHypervisor(path + HYPERVISOR_SUFFIX),
            remote,
            _definitions(scenario),
            slush_kib=scenario.host.slush_kib,
        )
    except BaseException:
        remote.close()
        raise

    async def hang_up() -> None:
        remote.close()
        await host.close()

    return replace(host, close=hang_up, policy=scenario.policy, scenario=settings.scenario if named else path)


async def _ask(remote: RemoteToolstack, path: str) -> Scenario:
    try:
        return await remote.definitions()
    except DriverError as error:
        raise DriverDisconnected(f"{path} is no simulated host to attach to: {error}") from error


async def _connect(
    settings: Settings,
    store: str,
    hypervisor: Hypervisor,
    toolstack: Toolstack,
    definitions: tuple[Vm, ...] = (),
    *,
    slush_kib: int | None = None,
) -> OpenHost:
    xenstore = Xenstore(store)
    driver = LiveDriver(
        xenstore,
        hypervisor,
        slush_kib=settings.slush_kib if slush_kib is None else slush_kib,
        domain_zero_min_kib=settings.domain_zero_dynamic_min_kib
        if settings.manage_domain_zero and not settings.observe
        else None,
        observes=settings.observe,
    )
    await driver.start()
    if not settings.is_drop_in or settings.observe:
        return OpenHost(driver, xenstore, toolstack, definitions, driver.close)

    async def leave_to_squeezed() -> None:
        try:
            await hand_back(xenstore, ReservationStore(xenstore))
        except DriverError as error:
            _log.warning("reservations of services stay with xcpmem: %s", error)
        await driver.close()

    try:
        await take_over(xenstore, ReservationStore(xenstore))
    except BaseException:
        await driver.close()
        raise
    return OpenHost(driver, xenstore, toolstack, definitions, leave_to_squeezed)


def _xenstored_socket() -> str:
    named = os.environ.get("XENSTORED_PATH")
    candidates = (named,) if named else XENSTORED_SOCKETS
    return next((path for path in candidates if Path(path).exists()), candidates[0])


def _definitions(scenario: Scenario) -> tuple[Vm, ...]:
    """Say what a toolstack would have stored of the scenario's VMs."""
    return tuple(
        Vm(
            uuid=scenario.uuid_of(guest),
            name_label=guest.name_label,
            memory_static_min=kib_to_bytes(guest.static_min_kib),
            memory_dynamic_min=kib_to_bytes(guest.dynamic_min_kib),
            memory_dynamic_max=kib_to_bytes(guest.dynamic_max_kib),
            memory_static_max=kib_to_bytes(guest.static_max_kib),
            memory_target=kib_to_bytes(guest.target_kib),
            VCPUs_max=guest.vcpus,
            VCPUs_at_startup=guest.vcpus,
            domain_type=guest.domain_type.value,
            other_config=_weight_of(guest),
        )
        for guest in scenario.guests
    )


def _weight_of(guest: GuestSpec) -> dict[str, str]:
    """Write a scenario's weight, of which 1 is usual, as an administrator writes it, bounded as theirs."""
    if guest.weight == 1:
        return {}
    return {WEIGHT_KEY: str(min(guest.weight * DEFAULT_WEIGHT, WEIGHTS[1]))}
