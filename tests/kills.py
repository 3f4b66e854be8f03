"""kill -9 at every boundary between two actions of a long story, and the same end as without.

The simulated host runs in a process of its own, the daemon in another. Between them stand the fault proxies:
they count what the daemon does to the host (writes to xenstore, hypercalls, calls of the toolstack), kill it
before a chosen one, and let that one never arrive. The client goes on with the next daemon where it was
interrupted, as a careful script would. A recorded run::

    python -m tests.kills --kills 1000
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import random
import sys
import time
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final

from tests.e2e.clients import Failure, XenApi, logged_in
from tests.e2e.programs import CLIENT, Program
from tests.faultproxy import LineProxy, StoreProxy
from tests.nursery import Newborn, Nursery, wait_for_end
from xcpmem.units import mib_to_kib
from xcpmem.xen import paths
from xcpmem.xen.simhypervisor import RemoteHypervisor
from xcpmem.xen.simulated import HYPERVISOR_SUFFIX, MAXMEM_SLACK_KIB, TOOLSTACK_SUFFIX
from xcpmem.xen.storefault import Fault, Misbehaviour
from xcpmem.xen.wire import Message, MessageType
from xcpmem.xen.xenstore import Xenstore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping

MIB: Final = 1 << 20
NAMES: Final = ("guest-1", "guest-2", "guest-3", "guest-4")
RESTARTED: Final = "guest-4"
RESERVED_KIB: Final = mib_to_kib(128)
TOLERANCE_KIB: Final = 1024
"""So much may be left undone when everybody has come to rest."""

TRIES_MOST: Final = 200
KILLS_PER_ROUND_MOST: Final = 5
ROUNDS_PER_SEED: Final = 20
"""Seeds begin so many boundaries apart: several short runs cover what one long one does."""

HIGH: Final = dict(zip(NAMES, ((256, 768), (256, 768), (256, 256), (256, 512)), strict=True))
LOW: Final = dict(zip(NAMES, ((256, 384), (256, 384), (256, 768), (256, 512)), strict=True))
"""Dynamic ranges in MiB."""

SCENARIO: Final = """\
name = "kills"
[host]
free_kib = 73728
""" + "".join(
    f"""\
[[guest]]
domid = {domid}
dynamic_min_kib = {mib_to_kib(HIGH[name][0])}
dynamic_max_kib = {mib_to_kib(HIGH[name][1])}
static_max_kib = {mib_to_kib(768)}
balloon = {{ rate_kib_s = {mib_to_kib(1 << 15)} }}
"""
    for domid, name in enumerate(NAMES, start=1)
)

_TOUCHES: Final = {MessageType.WRITE, MessageType.RM, MessageType.MKDIR, MessageType.TRANSACTION_END}


@dataclass(frozen=True)
class Place:
    """Where a guest has come to rest, KiB."""

    range_kib: tuple[str | None, str | None]
    target_kib: int
    actual_kib: int
    maxmem_kib: int

    def is_near(self, other: Place) -> bool:
        """Whether nothing distinguishes the two but what the balancer leaves undone."""
        return self.range_kib == other.range_kib and all(
            abs(mine - others) <= TOLERANCE_KIB
            for mine, others in (
                (self.target_kib, other.target_kib),
                (self.actual_kib, other.actual_kib),
                (self.maxmem_kib, other.maxmem_kib),
            )
        )


@dataclass
class Acknowledged:
    """What the client was told is done, and must find so whatever happens."""

    ranges_mib: dict[str, tuple[int, int]] = field(default_factory=dict)
    reservations_kib: dict[str, int] = field(default_factory=dict)
    is_down: bool = False
    is_up: bool = False


class KillingHost:
    """A simulated host of its own process behind proxies that count and kill."""

    def __init__(self, folder: Path) -> None:
        self.door, self._behind = str(folder / "d"), str(folder / "h")
        self._store_proxy = StoreProxy(self._behind, self._meet)
        self._hypervisor_proxy = LineProxy(self._behind + HYPERVISOR_SUFFIX, self._meet_hypercall)
        self._toolstack_proxy = LineProxy(self._behind + TOOLSTACK_SUFFIX, lambda _: self._touch())
        self.xenstore = Xenstore(self._behind)
        self.hypervisor = RemoteHypervisor(self._behind + HYPERVISOR_SUFFIX)
        self.touches = 0
        self.kill_before = 0
        self.kill: Callable[[], None] = lambda: None

    @property
    def path(self) -> str:
        """Where the simulated host itself is to listen."""
        return self._behind

    async def start(self) -> None:
        await self._store_proxy.start(self.door)
        await self._hypervisor_proxy.start(self.door + HYPERVISOR_SUFFIX)
        await self._toolstack_proxy.start(self.door + TOOLSTACK_SUFFIX)
        await self.xenstore.connect()
        self._pool_kib = await self._free_kib() + sum(
            info.actual_kib for info in (await self.hypervisor.survey()).domains if info.domid
        )

    async def close(self) -> None:
        await self.xenstore.close()
        await self.hypervisor.close()
        for proxy in (self._store_proxy, self._hypervisor_proxy, self._toolstack_proxy):
            await proxy.close()

    def arm(self, before: int, kill: Callable[[], None]) -> None:
        """Call ``kill`` before the so manieth touch from now on; 0: never."""
        self.touches, self.kill_before, self.kill = 0, before, kill

    async def overcommit_kib(self) -> int:
        """What is promised beyond what there is; held, allowed or reserved counts as promised."""
        held = {
            info.domid: max(info.actual_kib, info.maxmem_kib - MAXMEM_SLACK_KIB)
            for info in (await self.hypervisor.survey()).domains
            if info.domid
        }
        uuids = {info.uuid: info.domid for info in (await self.hypervisor.survey()).domains}
        promised_kib = 0
        for owner, name, size_kib in await self.reservations():
            mark = await self.xenstore.read(paths.in_transfer(owner, name))
            vm = await self.xenstore.read(paths.reservation_vm(owner, name))
            domid = int(mark) if mark else uuids.get(vm or "", -1)
            if domid in held:
                held[domid] = max(held[domid], size_kib)
            else:
                promised_kib += size_kib
        return promised_kib + sum(held.values()) - self._pool_kib

    async def reservations(self) -> list[tuple[str, str, int]]:
        """Owner, id and KiB of each reservation that stands."""
        found = []
        for owner in await self.xenstore.list(paths.reservations()):
            for name in await self.xenstore.list(paths.reservations_of(owner)):
                size = await self.xenstore.read(paths.reservation(owner, name))
                if size:
                    found.append((owner, name, int(size)))
        return found

    async def clients_reservations_kib(self) -> dict[str, int]:
        """Those that are for no VM, KiB by id."""
        return {
            name: size_kib
            for owner, name, size_kib in await self.reservations()
            if await self.xenstore.read(paths.reservation_vm(owner, name)) is None
        }

    async def places(self, domids: Mapping[str, int]) -> dict[str, Place]:
        """Where everybody is, by name."""
        infos = {info.domid: info for info in (await self.hypervisor.survey()).domains}
        found = {}
        for name, domid in domids.items():
            keys = (paths.dynamic_min(domid), paths.dynamic_max(domid), paths.target(domid))
            low, high, target = await self.xenstore.read_many(keys)
            found[name] = Place(
                (low, high), int(target or -1), infos[domid].actual_kib, infos[domid].maxmem_kib
            )
        return found

    async def _free_kib(self) -> int:
        physical = (await self.hypervisor.survey()).physical
        return physical.free_kib + physical.scrub_kib

    def _meet(self, message: Message) -> Fault | None:
        is_last = message.type in _TOUCHES and self._touch()
        return Fault(Misbehaviour.HANG_UP) if is_last else None

    def _meet_hypercall(self, request: dict[str, Any]) -> bool:
        return request.get("call") == "set_maxmem" and self._touch()

    def _touch(self) -> bool:
        self.touches += 1
        if self.touches != self.kill_before:
            return False
        self.kill()
        return True


class Story:
    """One client's plan, carried out by as many daemons as it takes.

    Args:
        folder: of everything.
        host: behind the proxies.
        nursery: bears the daemons.
    """

    def __init__(self, folder: Path, host: KillingHost, nursery: Nursery) -> None:
        self._folder = folder
        self._host = host
        self._nursery = nursery
        self.daemon: Newborn | None = None
        self.known = Acknowledged()
        self.kills = 0
        self.worst_kib = 0

    async def begin(self) -> None:
        """Start a daemon."""
        self.daemon = await asyncio.to_thread(
            self._nursery.bear,
            *("--scenario", str(self._folder / "kills.toml"), "--host", self._host.door),
            *("--state-dir", str(self._folder / "state"), "--listen", "127.0.0.1:0"),
        )

    async def reset(self) -> None:
        """Put everybody high again; nobody is killed meanwhile."""
        self._host.arm(0, lambda: None)
        known, self.known = self.known, Acknowledged()
        await asyncio.to_thread(self._tidy, [*known.reservations_kib])

    async def run(self, before: int, choose: Callable[[], int]) -> None:
        """Carry out the plan.

        Args:
            before: the touch before which the daemon is killed; 0: none.
            choose: says so for each further daemon of this round.
        """
        self._arm(before)
        killed = 0
        for step in (self._lower, self._reserve, self._shut_down, self._start, self._rest):
            while True:
                try:
                    await asyncio.to_thread(step)
                    break
                except (OSError, http.client.HTTPException):
                    daemon = self.daemon
                    assert daemon is not None
                    assert daemon.is_killed, "the daemon hung up without having been killed"
                    killed += 1
                    await self._go_on(choose() if killed < KILLS_PER_ROUND_MOST else 0)
        self._host.arm(0, lambda: None)

    def domids(self) -> dict[str, int]:
        with self._session() as api:
            return {name: int(vm["domid"]) for name, vm in api.vms().items()}

    def _arm(self, before: int) -> None:
        assert self.daemon is not None
        self._host.arm(before, self.daemon.kill)

    async def _go_on(self, before: int) -> None:
        """Look at what the dead one left, start the next, and find everything that was acknowledged."""
        assert self.daemon is not None
        self.kills += 1
        await asyncio.to_thread(wait_for_end, self.daemon.pid)
        self.worst_kib = max(self.worst_kib, await self._host.overcommit_kib())
        self._host.arm(0, lambda: None)
        await self.begin()
        standing = await self._host.clients_reservations_kib()
        for name, size_kib in self.known.reservations_kib.items():
            assert standing.pop(name, None) == size_kib, f"reservation {name} of {size_kib} KiB is lost"
        self._arm(before)
        try:
            await asyncio.to_thread(self._look_after_restart, [*standing])
        except (OSError, http.client.HTTPException):
            assert self.daemon.is_killed
            await self._go_on(0)

    def _look_after_restart(self, unheard_of: list[str]) -> None:
        with self._session() as api:
            vms = api.vms()
            for name, (least, most) in self.known.ranges_mib.items():
                found = (int(vms[name]["memory_dynamic_min"]), int(vms[name]["memory_dynamic_max"]))
                assert found == (least * MIB, most * MIB), f"the range of {name} is lost: {found}"
            for name in unheard_of:  # granted, and nobody left who heard of it
                api.call("Memory.delete_reservation", name)
            if self.known.is_up:
                assert vms[RESTARTED]["power_state"] == "Running"

    def _lower(self) -> None:
        with self._session() as api:
            for name, (least, most) in LOW.items():
                api.call("VM.set_memory_dynamic_range", api.ref(name), least * MIB, most * MIB)
                self.known.ranges_mib[name] = (least, most)

    def _reserve(self) -> None:
        if not self.known.reservations_kib:
            with self._session() as api:
                name = api.call("Memory.reserve_memory", RESERVED_KIB)
                self.known.reservations_kib[name] = RESERVED_KIB

    def _shut_down(self) -> None:
        with self._session() as api:
            for _ in range(TRIES_MOST):
                if api.vm(RESTARTED)["power_state"] == "Halted":
                    self.known.is_down = True
                    return
                _ask(api, "VM.hard_shutdown", api.ref(RESTARTED))
        raise AssertionError(f"{RESTARTED} cannot be shut down")

    def _start(self) -> None:
        with self._session() as api:
            for _ in range(TRIES_MOST):
                if api.vm(RESTARTED)["power_state"] == "Running":
                    self.known.is_up = True
                    return
                _ask(api, "VM.start", api.ref(RESTARTED), False, False)
        raise AssertionError(f"{RESTARTED} cannot be started")

    def _rest(self) -> None:
        with self._session() as api:
            api.call("Memory.balance_memory")

    def _tidy(self, reservations: list[str]) -> None:
        with self._session() as api:
            for name in reservations:
                api.call("Memory.delete_reservation", name)
            for name, (least, most) in HIGH.items():
                api.call("VM.set_memory_dynamic_range", api.ref(name), least * MIB, most * MIB)
            api.call("Memory.balance_memory")

    @contextmanager
    def _session(self) -> Iterator[XenApi]:
        assert self.daemon is not None
        with logged_in(self.daemon) as api:
            yield api


def _ask(api: XenApi, method: str, *params: object) -> None:
    """Ask for something that another may be about to do: one who is in the way is waited for."""
    try:
        api.call(method, *params)
    except Failure as failure:
        if failure.details[0] not in {"OTHER_OPERATION_IN_PROGRESS", "VM_BAD_POWER_STATE"}:
            raise
        api.call("Memory.balance_memory")


@asynccontextmanager
async def told_story(folder: Path) -> AsyncIterator[tuple[Story, KillingHost]]:
    """A host at rest, with its first daemon."""
    (folder / "kills.toml").write_text(SCENARIO, encoding="utf-8")
    with ExitStack() as processes:
        host = KillingHost(folder)
        words = (*CLIENT, "simhost", "--scenario", str(folder / "kills.toml"), "--socket", host.path)
        simhost = Program(words, folder)
        processes.callback(simhost.close)
        simhost.read_line()
        nursery = Nursery(folder)
        processes.callback(nursery.close)
        async with AsyncExitStack() as stack:
            await host.start()
            stack.push_async_callback(host.close)
            story = Story(folder, host, nursery)
            await story.begin()
            try:
                await story.reset()
                yield story, host
            finally:
                assert story.daemon is not None
                story.daemon.kill()
                await asyncio.to_thread(wait_for_end, story.daemon.pid)


@dataclass(frozen=True)
class Tally:
    """What came of many kills."""

    kills: int
    boundaries: int
    worst_kib: int
    unlike: tuple[str, ...]


async def kill_again_and_again(folder: Path, kills: int, seed: int, step: int = 1) -> Tally:
    """Kill daemons until so many are dead, at every ``step``-th boundary in turn and at random ones."""
    rng = random.Random(seed)  # noqa: S311 -- no secret
    async with told_story(folder) as (story, host):
        await story.run(0, lambda: 0)
        await story.reset()
        host.arm(-1, lambda: None)
        for act in (story._lower, story._reserve, story._shut_down, story._start, story._rest):
            await asyncio.to_thread(act)
        host_touches = host.touches
        calm = await host.places(await asyncio.to_thread(story.domids))
        unlike: list[str] = []
        before = seed * ROUNDS_PER_SEED % host_touches + 1
        while story.kills < kills:
            await story.reset()
            await story.run(before, lambda: rng.randint(1, host_touches))
            found = await host.places(await asyncio.to_thread(story.domids))
            unlike += [
                f"killed before {before}: {name} {found[name]}, not {place}"
                for name, place in calm.items()
                if not found[name].is_near(place)
            ]
            story.worst_kib = max(story.worst_kib, await host.overcommit_kib())
            before = before % host_touches + step
        return Tally(story.kills, host_touches, story.worst_kib, tuple(unlike))


def main() -> int:
    """Kill daemons and tell what came of it; 0 if nothing was lost, over-promised or left undone."""
    parser = argparse.ArgumentParser(prog="python -m tests.kills", description=main.__doc__)
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    began_s = time.monotonic()
    with TemporaryDirectory(prefix="xk-") as name:
        tally = asyncio.run(kill_again_and_again(Path(name), options.kills, options.seed))
    took_s, worst_kib = time.monotonic() - began_s, max(0, tally.worst_kib)
    sys.stdout.write(
        f"{tally.kills} kills at {tally.boundaries} boundaries in {took_s:.0f} s: {worst_kib} KiB "
        f"over-promised at worst, {len(tally.unlike)} places unlike those of the undisturbed end\n"
    )
    sys.stdout.write("".join(f"{line}\n" for line in tally.unlike))
    return 1 if tally.unlike or tally.worst_kib > 0 else 0


if __name__ == "__main__":
    sys.exit(main())
