"""The simulated host in real time: guests that obey xenstore, and a hypervisor, for a daemon on a laptop.

It does what the toolstack and the guests of a real host do: creates each domain's keys, lets the guests
watch ``memory/target`` and report what they use, tells of domains that come and go. Time passes for the
guests whenever somebody looks or touches, so a host at rest costs nothing. Whatever a daemon does to it
goes over the real xenstore protocol; it does not know what a daemon is.
"""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress
from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING, Final, NamedTuple

from xcpmem.engine.model import Lifecycle
from xcpmem.errors import ConfigError, DomainVanished, InvalidValue
from xcpmem.script import SetBalloon, Shutdown, TakeMemory
from xcpmem.specs import DOMID_END, MICROSECONDS_PER_SECOND, AgentKind, microseconds
from xcpmem.xen import paths
from xcpmem.xen.domainkeys import read_size_kib
from xcpmem.xen.domainzero import CAN_BALLOON
from xcpmem.xen.guestreports import Report, own_text
from xcpmem.xen.simhost import SimHost
from xcpmem.xen.simhypervisor import DOMAIN_ZERO_UUID, HypervisorServer, SimulatedHypervisor
from xcpmem.xen.simstore import StoreServer
from xcpmem.xen.simtoolstack import SimulatedToolstack, ToolstackServer
from xcpmem.xen.storetree import Store

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from xcpmem.engine.sample import Sample
    from xcpmem.scenario import Scenario
    from xcpmem.script import Call
    from xcpmem.specs import GuestSpec
    from xcpmem.xen.simguest import SimGuest

_log = logging.getLogger(__name__)

HYPERVISOR_SUFFIX: Final = ".hypervisor"
"""What is appended to the store's socket path for the hypervisor's."""

TOOLSTACK_SUFFIX: Final = ".toolstack"
"""What is appended to the store's socket path for the toolstack's."""

MAXMEM_SLACK_KIB: Final = 1024
"""What a toolstack lets a domain hold above its target: libxl's LIBXL_MAXMEM_CONSTANT."""

STEPS_MOST: Final = 2000
"""Time that passed unseen is caught up in at most so many steps."""

ACTED_OUT: Final = frozenset({SetBalloon.word, TakeMemory.word, Shutdown.word})
"""The calls of a script that happen by themselves."""

OWN_DOMAIN_ZERO: Final = (
    "0 is domain 0, and this host has one that is as large as nobody else's memory; "
    "only xcpmem simulate acts it out as a guest"
)
"""Why a scenario whose guests have it makes no host in real time."""


class _Told(NamedTuple):
    """What of a guest's reports stands in the store: how many there were, and the last."""

    number: int
    sample: Sample


class SimulatedHost:
    """A host in real time, with its store and its hypervisor.

    Args:
        scenario: the host, its guests, and what happens to them by itself: of its script `ACTED_OUT` is, the
            rest is for clients to call.
        clock: monotonic seconds.

    Raises:
        ConfigError: domain 0 is one of the guests.
    """

    def __init__(self, scenario: Scenario, *, clock: Callable[[], float] = time.monotonic) -> None:
        if scenario.has_domain_zero:
            raise ConfigError(scenario.name, "guest.domid", OWN_DOMAIN_ZERO)
        self.scenario = scenario
        self.store = Store()
        self.hypervisor = SimulatedHypervisor(self.catch_up, scenario.others_kib)
        self.store_server = StoreServer(self.store)
        self.hypervisor_server = HypervisorServer(self.hypervisor)
        self.toolstack = SimulatedToolstack(self)
        self.toolstack_server = ToolstackServer(self.toolstack)
        self._clock = clock
        self._started_s = clock()
        self._tick_us = max(1, microseconds(scenario.tick_s))
        self._physics = SimHost(scenario)
        self._agenda = sorted(
            (line for line in scenario.script if line.call.word in ACTED_OUT),
            key=lambda line: line.at_s,
        )
        self._told: dict[int, _Told] = {}
        self._characters: dict[str, GuestSpec] = {}
        self._last_domid = max((guest.domid for guest in scenario.guests), default=0)
        self._wake = asyncio.Event()
        self._life: asyncio.Task[None] | None = None
        self._create_domain_zero()
        self._create(*self._physics.guests.values())
        self.store.subscribe(self._note_write)

    async def start(self, path: str) -> None:
        """Begin to serve and to live.

        Args:
            path: of the store's socket; the hypervisor's is beside it with `HYPERVISOR_SUFFIX`, the
                toolstack's with `TOOLSTACK_SUFFIX`.

        Raises:
            OSError: a socket cannot be made.
        """
        left_out = sorted({line.call.word for line in self.scenario.script} - ACTED_OUT)
        if left_out:
            _log.warning(
                "of the script of %r these calls are not acted out: %s; on a host in real time %s are, all "
                "are by 'xcpmem simulate'",
                self.scenario.name,
                ", ".join(left_out),
                ", ".join(sorted(ACTED_OUT)),
            )
        await self.hypervisor_server.start(path + HYPERVISOR_SUFFIX)
        await self.toolstack_server.start(path + TOOLSTACK_SUFFIX)
        await self.store_server.start(path)
        self._life = asyncio.create_task(self._live(), name="simulated host")

    async def close(self) -> None:
        """Hang up on everybody; what the host's own task failed with, if it did, is raised."""
        await self.store_server.close()
        await self.toolstack_server.close()
        await self.hypervisor_server.close()
        if self._life is not None:
            self._life.cancel()
            with suppress(asyncio.CancelledError):
                await self._life
            self._life = None

    def catch_up(self) -> SimHost:
        """Let the guests' time run up to now, and return the physics behind them."""
        physics, now_us = self._physics, self._now_us()
        step_us = max(self._tick_us, (now_us - physics.now_us) // STEPS_MOST)
        while physics.is_active and physics.now_us < now_us:
            physics.advance_to(min(physics.now_us + step_us, now_us))
        if physics.now_us < now_us:
            physics.advance_to(now_us)
        return physics

    def add_guest(self, spec: GuestSpec, size_kib: int) -> None:
        """Build and boot a guest, as a toolstack does.

        Args:
            spec: the guest.
            size_kib: what it gets, KiB; must be free.

        Raises:
            InvalidValue: the domid is taken, or there is not so much free.
        """
        physics = self.catch_up()
        physics.add_guest(spec, size_kib)
        self._create(physics.guest(spec.domid))
        self._wake.set()

    def next_domid(self) -> int:
        """Give the number that the next domain gets: Xen counts on and begins anew at the end."""
        taken = self._physics.guests
        later = chain(range(self._last_domid + 1, DOMID_END), range(1, DOMID_END))
        self._last_domid = next(domid for domid in later if domid not in taken)
        return self._last_domid

    def definitions(self) -> Scenario:
        """Tell what a toolstack has stored of the VMs that the host was made with.

        Those that run are defined as they run now, whoever changed their ranges since.
        """
        domids = {guest.uuid: domid for domid, guest in self.catch_up().guests.items()}
        defined = []
        for spec in self.scenario.guests:
            uuid = self.scenario.uuid_of(spec)
            domid = domids.get(uuid)
            defined.append(replace(spec if domid is None else self._as_it_runs(spec, domid), uuid=uuid))
        return replace(self.scenario, guests=tuple(defined))

    def _as_it_runs(self, spec: GuestSpec, domid: int) -> GuestSpec:
        """Lay over a definition what the toolstack and daemons have written; nonsense is left out."""
        keys = (paths.dynamic_min, paths.dynamic_max, paths.static_max, paths.target)
        least, most, static_max, target = (read_size_kib(self.store.read(key(domid))) for key in keys)
        if least is None or most is None or static_max is None or target is None:
            return spec
        if not spec.static_min_kib <= least <= most <= static_max:
            return spec
        return replace(
            spec,
            dynamic_min_kib=least,
            dynamic_max_kib=most,
            static_max_kib=static_max,
            target_kib=target,
        )

    def character(self, uuid: str) -> GuestSpec | None:
        """Tell what a VM's guest is like, also while it does not run; None if there never was one."""
        return self._characters.get(uuid)

    def hears(self, domid: int) -> bool:
        """Tell whether a guest would do what it is asked. Raises DomainVanished."""
        guest = self.catch_up().guest(domid)
        return guest.lifecycle is Lifecycle.RUNNING and not guest.balloon.stuck

    def begin_guest(self, spec: GuestSpec, size_kib: int) -> None:
        """Take the first step of a build: a paused domain with its pages; see `add_guest`."""
        physics = self.catch_up()
        physics.add_guest(spec, size_kib)
        physics.set_lifecycle(spec.domid, Lifecycle.BUILDING)
        physics.write_maxmem(spec.domid, size_kib + MAXMEM_SLACK_KIB)

    def furnish_guest(self, domid: int) -> None:
        """Take the last step of a build: its keys, as libxl writes them. Raises DomainVanished."""
        self._create(self.catch_up().guest(domid), has_range=False)
        self.set_lifecycle(domid, Lifecycle.PAUSED)

    def reboot_guest(self, domid: int) -> None:
        """Replace a guest's domain by a new one of the same size that runs. Raises DomainVanished."""
        guest = self.catch_up().guest(domid)
        size_kib = guest.target_kib
        self.remove_guest(domid)
        spec = replace(self._characters[guest.uuid], domid=self.next_domid())
        self.begin_guest(spec, size_kib)
        self.furnish_guest(spec.domid)
        self.set_lifecycle(spec.domid, Lifecycle.RUNNING)

    def remove_guest(self, domid: int) -> None:
        """End a guest: its memory is free at once, then its keys go. Raises DomainVanished."""
        physics = self.catch_up()
        guest = physics.guest(domid)
        uuid = guest.uuid
        self._characters[uuid] = replace(guest.spec, uuid=uuid, balloon=guest.balloon)
        physics.remove_guest(domid)
        self._told.pop(domid, None)
        self.store.remove(paths.domain(domid))
        self.store.remove(_vm_directory(uuid))
        if domid in self.store.introduced:
            self.store.release(domid)

    def set_balloon(self, domid: int, changes: Mapping[str, object]) -> None:
        """Change a guest's character; ``changes`` are keys of `BalloonSpec`. Raises DomainVanished."""
        self.catch_up().set_balloon(domid, changes)
        self._announce_balloon(self._physics.guest(domid))
        self._wake.set()

    def set_lifecycle(self, domid: int, lifecycle: Lifecycle) -> None:
        """Pause a guest, or let it run on. Raises DomainVanished."""
        self.catch_up().set_lifecycle(domid, lifecycle)
        self._wake.set()

    def take_memory(self, size_kib: int) -> None:
        """Let free memory vanish, KiB. Raises InvalidValue if there is not so much."""
        self.catch_up().take_memory(size_kib)

    def live_until_now(self) -> float | None:
        """Do what is due: lines of the script, and reports of guest agents.

        Returns:
            Seconds until something is due again, None if nothing will be until somebody asks for it.
        """
        physics = self.catch_up()
        physics.advance_to(physics.now_us)
        now_s = physics.now_us / MICROSECONDS_PER_SECOND
        while self._agenda and self._agenda[0].at_s <= now_s:
            self._act(self._agenda.pop(0).call)
        due_s = [line.at_s for line in self._agenda[:1]]
        for guest in physics.guests.values():
            self._tell(guest)
        if physics.looks_next_us is not None:
            due_s.append(physics.looks_next_us / MICROSECONDS_PER_SECOND)
        return max(0.0, min(due_s) - now_s) if due_s else None

    async def _live(self) -> None:
        while True:
            self._wake.clear()
            pause_s = self.live_until_now()
            with suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._wake.wait()

    def _now_us(self) -> int:
        return microseconds(self._clock() - self._started_s)

    def _act(self, call: Call) -> None:
        try:
            match call:
                case SetBalloon(domid=domid, changes=changes):
                    self.set_balloon(domid, changes)
                case TakeMemory(size_kib=size_kib):
                    self.take_memory(size_kib)
                case Shutdown(domid=domid):
                    self.remove_guest(domid)
        except (DomainVanished, InvalidValue) as error:
            _log.warning("the scenario's %s did not work: %s", call.word, error)

    def _note_write(self, path: str) -> None:
        """Be the guests' balloon drivers: watch ``memory/target``."""
        key = paths.domain_key(path)
        if key is None or key[1] != paths.MEMORY_TARGET or key[0] not in self._physics.guests:
            return
        target_kib = read_size_kib(self.store.read(path))
        if target_kib is not None:
            self.catch_up().write_target(key[0], target_kib)
            self._wake.set()

    def _create_domain_zero(self) -> None:
        for path, value in (
            (paths.name(0), "Domain-0"),
            (f"{paths.domain(0)}/domid", "0"),
            (paths.vm(0), _vm_directory(DOMAIN_ZERO_UUID)),
            (paths.target(0), str(self.scenario.others_kib)),
            (f"{_vm_directory(DOMAIN_ZERO_UUID)}/name", "Domain-0"),
        ):
            self.store.write(path, value)

    def _create(self, *guests: SimGuest, has_range: bool = True) -> None:
        """Write what a toolstack writes of domains (xenopsd a dynamic range too), and introduce them."""
        values: dict[str, str] = {}
        for guest in guests:
            self._physics.write_maxmem(guest.spec.domid, guest.target_kib + MAXMEM_SLACK_KIB)
            values |= _keys_of(guest, has_range=has_range)
        self.store.write_all(values)
        for guest in guests:
            self.store.introduce(guest.spec.domid)

    def _announce_balloon(self, guest: SimGuest) -> None:
        path = paths.feature_balloon(guest.spec.domid)
        if guest.balloon.feature:
            self.store.write(path, CAN_BALLOON)
        else:
            self.store.remove(path)

    def _tell(self, guest: SimGuest) -> None:
        """Write what a guest's agent has said since the last time."""
        sample, domid = guest.agent.sample, guest.spec.domid
        told = self._told.get(domid)
        if sample is None or (told is not None and told.sample is sample):
            return
        self._told[domid] = told = _Told(told.number + 1 if told is not None else 1, sample)
        if guest.spec.agent.kind is AgentKind.EVENTS:
            report = Report(
                available_kib=guest.agent.avail_kib,
                swapped_kib=sample.swapped_kib,
                stall_us=sample.stall_us,
                refault_kib=sample.refault_kib,
            )
            self.store.write(paths.xcpmem_report(domid), own_text(told.number, report))
            return
        self.store.write(paths.meminfo_total(domid), str(guest.agent.avail_kib + sample.used_kib))
        self.store.write(paths.meminfo_free(domid), str(guest.agent.avail_kib))
        self.store.write(paths.data_updated(domid), "1")


def _keys_of(guest: SimGuest, *, has_range: bool) -> dict[str, str]:
    spec, domid = guest.spec, guest.spec.domid
    of_vm = _vm_directory(guest.uuid)
    dynamic_range = {
        paths.dynamic_min(domid): str(spec.dynamic_min_kib),
        paths.dynamic_max(domid): str(spec.dynamic_max_kib),
    }
    return {
        f"{of_vm}/uuid": guest.uuid,
        f"{of_vm}/name": spec.name_label,
        paths.vm(domid): of_vm,
        f"{paths.domain(domid)}/domid": str(domid),
        paths.name(domid): spec.name_label,
        paths.domain_type(domid): spec.domain_type.replace("_", "-"),
        paths.static_max(domid): str(spec.static_max_kib),
        **(dynamic_range if has_range else {}),
        paths.memory_offset(domid): "0",
        paths.target(domid): str(guest.target_kib),
        **({paths.feature_balloon(domid): CAN_BALLOON} if guest.balloon.feature else {}),
    }


def _vm_directory(uuid: str) -> str:
    return f"{paths.VMS}/{uuid}"
