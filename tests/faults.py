"""The faults of the world, each with how it begins, how it is felt and how it ends; and what must come of it.

The test suite counts in outcomes. The seconds are for a recorded run::

    python -m tests.faults [FAULT...] [--rounds N] [--lasting SECONDS]
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Final, TypeAlias

from tests.faultyhost import GIB, KEPT_KIB, PATIENCE_S, WANTED_KIB, Client, FaultyHost, faulty_host
from xcpmem.errors import DriverError
from xcpmem.xen import paths
from xcpmem.xen.doorbell import GUEST_GAP_S
from xcpmem.xen.storefault import Fault, Misbehaviour
from xcpmem.xen.storetree import Node, Tree
from xcpmem.xen.wire import Message, MessageType

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tests.faultyhost import End
    from xcpmem.report import CycleReport

Step: TypeAlias = Callable[[FaultyHost], Awaitable[None]]

HEALED_WITHIN_S: Final = 2.0
LATE_S: Final = 0.05
FLOOD: Final = 2000
"""Reports of one guest, all within the first second."""


async def _nothing(_: FaultyHost) -> None:
    """There is nothing to be done."""


@dataclass(frozen=True)
class WorldFault:
    """One fault.

    Args:
        begin: lets it begin.
        end: lets it end.
        felt: waits, while it lasts and the client is at its wish, until the daemon has met it.
        noticed: waits until the daemon has seen its end, where it may be at rest before.
    """

    begin: Step
    end: Step = _nothing
    felt: Step = _nothing
    noticed: Step = _nothing


def _blind(report: CycleReport) -> bool:
    return not report.saw_host


def _failing(report: CycleReport) -> bool:
    return bool(report.failures)


def _seen_as(holds: Callable[[CycleReport], bool], times: int = 3) -> Step:
    """Wait for so many turns of which something holds."""

    async def felt(world: FaultyHost) -> None:
        for _ in range(times):
            await world.until(holds)

    return felt


def _store_fails(misbehaviour: Misbehaviour, *types: MessageType, error: str = "EIO") -> Step:
    """Have every message of some types fail that passes the proxy."""

    async def begin(world: FaultyHost) -> None:
        def fault(message: Message) -> Fault | None:
            return Fault(misbehaviour, error) if message.type in types else None

        world.store_proxy.fault = fault

    return begin


def _one_domain_fails(error: str) -> Step:
    async def begin(world: FaultyHost) -> None:
        own = paths.domain(2).encode()

        def fault(message: Message) -> Fault | None:
            is_read = message.type == MessageType.READ and message.payload.startswith(own)
            return Fault(Misbehaviour.REFUSE, error) if is_read else None

        world.store_proxy.fault = fault
        world.host.store.write(paths.dynamic_max(2), str(3 * GIB))

    return begin


async def _store_well(world: FaultyHost) -> None:
    world.store_proxy.fault = None
    world.store_proxy.late_s = 0.0
    world.store_proxy.release()
    await world.store_proxy.restore()


async def _store_gone(world: FaultyHost) -> None:
    await world.store_proxy.cut()


async def _store_restarts_empty(world: FaultyHost) -> None:
    await world.store_proxy.cut()
    world.host.store.tree = Tree(Node())
    await world.store_proxy.restore()


async def _sees_no_keys(world: FaultyHost) -> None:
    await world.until(
        lambda report: report.saw_host and not any(d.has_range for d in report.look.host.domains)
    )


async def _keys_come_back(world: FaultyHost) -> None:
    world.rewrite_keys()


async def _store_stops(world: FaultyHost) -> None:
    world.store_proxy.hold()


async def _store_slow(world: FaultyHost) -> None:
    world.store_proxy.late_s = LATE_S


async def _events_lost(world: FaultyHost) -> None:
    await _store_fails(Misbehaviour.SILENCE, MessageType.WATCH_EVENT)(world)
    world.host.store.write(paths.dynamic_max(3), str(2 * GIB))


async def _lost_event_undone(world: FaultyHost) -> None:
    """The change whose event was lost has been noticed before it is taken back."""
    await world.until(
        lambda report: any(
            d.domid == 3 and d.dynamic_range.max_kib == 2 * GIB for d in report.look.host.domains
        )
    )


async def _range_back(world: FaultyHost) -> None:
    world.store_proxy.fault = None
    world.host.store.write(paths.dynamic_max(3), str(3 * GIB))


def _hypercalls_fail(call: str = "", domid: int | None = None) -> Step:
    async def begin(world: FaultyHost) -> None:
        def fault(name: str, about: int | None) -> DriverError | None:
            is_it = call in {"", name} and domid in {None, about}
            return DriverError("Xen refuses") if is_it else None

        world.host.hypervisor.fault = fault

    return begin


async def _hypercalls_slow(world: FaultyHost) -> None:
    world.line_proxy.late_s = LATE_S


async def _hypervisor_stops(world: FaultyHost) -> None:
    world.line_proxy.hold()


async def _hypervisor_well(world: FaultyHost) -> None:
    world.host.hypervisor.fault = None
    world.line_proxy.late_s = 0.0
    world.line_proxy.release()


async def _wall_clock_leaps(world: FaultyHost) -> None:
    world.wall_ahead_s = 1e9


async def _wall_clock_leaps_back(world: FaultyHost) -> None:
    world.wall_ahead_s = -1e9


async def _clock_leaps(world: FaultyHost) -> None:
    """An hour is gone while somebody waits: the machine slept, or the daemon was stopped."""
    world.clock_ahead_s += 3600.0
    world.controller.wake()


LIES: Final = (
    "0",
    "",
    "-1",
    "9" * 300,
    "1e9",
    "\x00\x01",
    "ä",
    "{" * 2000,
    "nan",
    "0x7fffffff",
    "1",
    "18446744073709551616",
)


def _writable(domid: int) -> tuple[str, ...]:
    """Name the keys that a guest may write and anybody might read."""
    return (
        paths.feature_balloon(domid),
        paths.meminfo_free(domid),
        paths.meminfo_total(domid),
        paths.data_updated(domid),
        f"{paths.domain(domid)}/{paths.DATA_XCPMEM_REPORT}",
        f"{paths.domain(domid)}/{paths.MEMORY_MEMINFO}",
        f"{paths.domain(domid)}/{paths.MEMORY_SWAPINFO}",
        f"{paths.domain(domid)}/{paths.CONTROL_BALLOON_ACTIVE}",
        f"{paths.domain(domid)}/attr/PVAddons/Installed",
    )


async def _guest_lies(world: FaultyHost) -> None:
    for lie in LIES:
        for path in _writable(4):
            world.host.store.write(path, lie.encode())
        await world.until(lambda _: True)


async def _guest_flaps(world: FaultyHost) -> None:
    """It has a balloon driver, has none, has one, faster than the ring can turn."""
    for number in range(FLOOD):
        world.host.store.write(paths.feature_balloon(4), str(number % 2))
        await asyncio.sleep(0)


async def _guest_floods(world: FaultyHost) -> None:
    """It reports as fast as it can."""
    for number in range(FLOOD):
        world.host.store.write(paths.meminfo_free(4), str(number * 7919 % GIB))
        world.host.store.write(paths.data_updated(4), "1")
        await asyncio.sleep(0)


async def _guest_honest(world: FaultyHost) -> None:
    for path in _writable(4):
        world.host.store.remove(path)
    world.host.store.write(paths.feature_balloon(4), "1")


async def _driver_is_back(world: FaultyHost) -> None:
    """Who rang without end is looked at once a second: what it wrote last may be yet to be read."""
    read_s = time.monotonic() + 1.5 * GUEST_GAP_S
    while (left_s := read_s - time.monotonic()) > 0:
        await world.controller.next_report(world.turns, left_s)
    await world.until(
        lambda report: all(d.can_balloon for d in report.look.host.domains), since=world.turns - 1
    )


_READS: Final = (MessageType.READ,)
_WRITES: Final = (MessageType.WRITE, MessageType.TRANSACTION_START, MessageType.MKDIR)

FAULTS: Final[Mapping[str, WorldFault]] = {
    "xenstored is gone": WorldFault(_store_gone, _store_well, _seen_as(_blind)),
    "xenstored restarts empty": WorldFault(_store_restarts_empty, _keys_come_back, _sees_no_keys),
    "xenstored is stopped": WorldFault(_store_stops, _store_well, _seen_as(_failing)),
    "xenstored swallows requests": WorldFault(
        _store_fails(Misbehaviour.SILENCE, *_READS, MessageType.WRITE), _store_well, _seen_as(_failing)
    ),
    "xenstored is slow": WorldFault(_store_slow, _store_well, _seen_as(lambda report: report.saw_host)),
    "xenstored answers at too great length": WorldFault(
        _store_fails(Misbehaviour.OVERSIZE, *_READS), _store_well, _seen_as(_failing)
    ),
    "xenstored tears its answers": WorldFault(
        _store_fails(Misbehaviour.TEAR, *_READS), _store_well, _seen_as(_failing)
    ),
    "xenstored answers twice": WorldFault(
        _store_fails(Misbehaviour.SEND_TWICE, *_READS), _store_well, _seen_as(_failing)
    ),
    "xenstored mistakes the type of its answers": WorldFault(
        _store_fails(Misbehaviour.MISTAKE_TYPE, *_READS), _store_well, _seen_as(_failing)
    ),
    "xenstored hangs up at each read": WorldFault(
        _store_fails(Misbehaviour.HANG_UP, *_READS), _store_well, _seen_as(_failing)
    ),
    "watch events are lost": WorldFault(_events_lost, _range_back, _lost_event_undone),
    "watch events come twice": WorldFault(
        _store_fails(Misbehaviour.SEND_TWICE, MessageType.WATCH_EVENT), _store_well, _seen_as(lambda _: True)
    ),
    "E2BIG for all reads": WorldFault(
        _store_fails(Misbehaviour.REFUSE, *_READS, error="E2BIG"), _store_well, _seen_as(_failing)
    ),
    "EACCES for one domain's keys": WorldFault(
        _one_domain_fails("EACCES"), _store_well, _seen_as(lambda report: report.saw_host, 1)
    ),
    "EAGAIN for every transaction": WorldFault(
        _store_fails(Misbehaviour.REFUSE, MessageType.TRANSACTION_END, error="EAGAIN"),
        _store_well,
        _seen_as(_failing),
    ),
    "xenstored's quota is used up": WorldFault(
        _store_fails(Misbehaviour.REFUSE, *_WRITES, error="ENOSPC"), _store_well, _seen_as(_failing)
    ),
    "hypercalls fail for one domain": WorldFault(
        _hypercalls_fail("set_maxmem", 1), _hypervisor_well, _seen_as(_failing, 2)
    ),
    "no maxmem can be set": WorldFault(_hypercalls_fail("set_maxmem"), _hypervisor_well, _seen_as(_failing)),
    "all hypercalls fail": WorldFault(_hypercalls_fail(), _hypervisor_well, _seen_as(_blind)),
    "hypercalls are slow": WorldFault(
        _hypercalls_slow, _hypervisor_well, _seen_as(lambda report: report.saw_host)
    ),
    "hypercalls do not return": WorldFault(_hypervisor_stops, _hypervisor_well, _seen_as(_blind)),
    "the wall clock leaps": WorldFault(_wall_clock_leaps, _wall_clock_leaps_back),
    "an hour is gone": WorldFault(_nothing, _clock_leaps),
    "a guest lies in every key": WorldFault(_guest_lies, _guest_honest),
    "a guest's driver comes and goes": WorldFault(_nothing, _guest_honest, _guest_flaps, _driver_is_back),
    "a guest reports without end": WorldFault(_nothing, _guest_honest, _guest_floods),
}


@dataclass(frozen=True)
class Outcome:
    """What came of a fault.

    Args:
        ends: where everybody is.
        reservations_kib: what stands in xenstore, least first.
        worst_kib: what was promised beyond what there is, at the worst moment.
        refusals: how often the client was told that it did not work.
        healed_s: from the fault's end until all wishes were fulfilled and the host at rest.
        turns: of the ring, meanwhile.
    """

    ends: Mapping[int, End]
    reservations_kib: tuple[int, ...]
    worst_kib: int
    refusals: int
    healed_s: float
    turns: int


CALM: Final = WorldFault(_nothing)


async def story(folder: Path, fault: WorldFault, *, lasting_s: float = 0.0) -> Outcome:
    """Reserve, let the fault begin, wish for more, let it end, and wait until everything is as wished.

    Args:
        folder: for sockets and state; a short path.
        fault: which.
        lasting_s: how long it goes on after it was felt, seconds.
    """
    async with faulty_host(folder) as world, asyncio.timeout(4 * PATIENCE_S):
        await world.reserve(KEPT_KIB)
        await world.rest()
        await fault.begin(world)
        client = Client(world)
        async with asyncio.TaskGroup() as group:
            group.create_task(client.wish())
            await fault.felt(world)
            if lasting_s:
                await world.controller.settle(lasting_s)
            await fault.end(world)
            ended_s, before = time.monotonic(), world.turns
            await fault.noticed(world)
        await world.rest()
        return Outcome(
            ends=world.ends(),
            reservations_kib=tuple(sorted(world.reservations_kib().values())),
            worst_kib=world.worst_kib,
            refusals=len(client.refusals),
            healed_s=time.monotonic() - ended_s,
            turns=world.turns - before,
        )


RESERVED_KIB: Final = (KEPT_KIB, WANTED_KIB)


def differences(found: Outcome, calm: Outcome) -> list[str]:
    """Say in what a disturbed run ended otherwise than the undisturbed one."""
    said = [
        f"domain {domid}: {found.ends[domid]} instead of {end}"
        for domid, end in calm.ends.items()
        if found.ends[domid].range_kib != end.range_kib
        or any(abs(a - b) > TOLERANCE_KIB for a, b in zip(found.ends[domid][1:], end[1:], strict=True))
    ]
    if found.reservations_kib != RESERVED_KIB:
        said.append(f"reservations {found.reservations_kib} instead of {RESERVED_KIB} KiB")
    if found.worst_kib > 0:
        said.append(f"{found.worst_kib} KiB were promised that were not there")
    return said


TOLERANCE_KIB: Final = 1024
"""What the balancer itself leaves undone."""


async def _record(titles: Sequence[str], rounds: int, lasting_s: float) -> bool:
    calm = (await _stories(CALM, 1, 0.0))[0]
    sys.stdout.write(f"{'undisturbed':45} {calm.healed_s:6.2f} s\n")
    good = True
    for title in titles or FAULTS:
        outcomes = await _stories(FAULTS[title], rounds, lasting_s)
        worst_s, refusals = max(o.healed_s for o in outcomes), sum(o.refusals for o in outcomes)
        said = [word for outcome in outcomes for word in differences(outcome, calm)]
        good = good and not said and worst_s <= HEALED_WITHIN_S
        verdict = "; ".join(said) or "as undisturbed"
        sys.stdout.write(f"{title:45} {worst_s:6.2f} s  {refusals:3} refusals  {verdict}\n")
        sys.stdout.flush()
    return good


async def _stories(fault: WorldFault, rounds: int, lasting_s: float) -> list[Outcome]:
    outcomes = []
    for _ in range(rounds):
        with TemporaryDirectory(prefix="xf-") as name:
            outcomes.append(await story(Path(name), fault, lasting_s=lasting_s))
    return outcomes


def main() -> int:
    """Print how long each fault took to heal; 0 if all did in time and ended as undisturbed."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=main.__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="how often each is tried; the worst counts")
    parser.add_argument(
        "--lasting", type=float, default=0.0, metavar="SECONDS", help="how long each goes on once it is felt"
    )
    parser.add_argument("fault", nargs="*", help="those alone, by their titles; default: all")
    options = parser.parse_args()
    return 0 if asyncio.run(_record(options.fault, options.rounds, options.lasting)) else 1


if __name__ == "__main__":
    sys.exit(main())
