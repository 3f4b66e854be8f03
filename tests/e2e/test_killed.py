"""kill -9: the host outlives its daemon, and the next daemon ends where the first would have."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from http.client import RemoteDisconnected
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

import pytest

from tests.e2e.clients import logged_in, xenstore

if TYPE_CHECKING:
    from tests.e2e.programs import Daemon, Workshop

MIB = 1 << 20
MIB_KIB = 1 << 10
DOMIDS = (1, 2, 3, 4)

# The first two have all there is at first; later they are to give to the other two, at their own speed.
TIDE = """\
name = "tide"
[host]
free_kib = 73728
""" + "".join(
    f"""\
[[guest]]
domid = {domid}
dynamic_min_kib = {256 * MIB_KIB}
dynamic_max_kib = {maximum_mib * MIB_KIB}
static_max_kib = {768 * MIB_KIB}
balloon = {{ rate_kib_s = {512 * MIB_KIB} }}
"""
    for domid, maximum_mib in zip(DOMIDS, (768, 768, 256, 256), strict=True)
)

Ranges: TypeAlias = Mapping[str, tuple[int, int]]

HIGH: Final[Ranges] = {
    "guest-1": (256, 768),
    "guest-2": (256, 768),
    "guest-3": (256, 256),
    "guest-4": (256, 256),
}
LOW: Final[Ranges] = {
    "guest-3": (256, 768),
    "guest-4": (256, 768),
    "guest-1": (256, 384),
    "guest-2": (256, 384),
}
"""Dynamic ranges in MiB, in the order in which they are asked for."""


TOLERANCE_KIB = MIB_KIB
"""So much may be left undone when everybody has come to rest: squeezed's tolerance and the guests' own."""

RANGE_KIB = (128 * MIB_KIB, 512 * MIB_KIB)
"""What is reserved of the host while its guests stand high: least and most."""

MOMENTS = (5, 12)
"""Changes of targets after which the daemon is killed; an undisturbed fall of the tide has about 20."""


class End(NamedTuple):
    """Where a guest has come to rest, KiB."""

    range_kib: tuple[int, int]
    target_kib: int
    actual_kib: int
    maxmem_kib: int


class Tide:
    """A simulated host of its own process, and the daemon that is attached to it.

    Args:
        shop: where both run.
    """

    def __init__(self, shop: Workshop) -> None:
        self._shop = shop
        self._scenario = shop.write("tide.toml", TIDE)
        self.host = shop.simhost(self._scenario)
        self.daemon = self._attach()

    def restart_daemon(self) -> None:
        """Start the next daemon, on the same host and the same state dir."""
        self.daemon = self._attach()

    def ask(self, ranges_mib: Ranges) -> None:
        """Ask for ranges; most of the moving is still to come when this returns."""
        with logged_in(self.daemon) as api:
            for name, (minimum, maximum) in ranges_mib.items():
                api.call("VM.set_memory_dynamic_range", api.ref(name), minimum * MIB, maximum * MIB)

    def rest(self) -> dict[str, End]:
        """Wait until nothing moves and say where everybody is."""
        with logged_in(self.daemon) as api, xenstore(self.host) as store:
            api.call("Memory.balance_memory")
            domains = {int(vm["domid"]): name for name, vm in api.vms().items()}
            held = self.daemon.series("xcpmem_domain_memory_actual_bytes")
            allowed = self.daemon.series("xcpmem_domain_memory_maxmem_bytes")
            ends = {}
            for domid, name in domains.items():
                keys = store.memory_kib(domid)
                ends[name] = End(
                    (keys["dynamic-min"], keys["dynamic-max"]),
                    keys["target"],
                    held[str(domid)] // MIB_KIB,
                    allowed[str(domid)] // MIB_KIB,
                )
            return ends

    def reservations_kib(self) -> dict[str, int]:
        with xenstore(self.host) as store:
            return store.reservations_kib()

    def _attach(self) -> Daemon:
        return self._shop.daemon("--host", str(self.host), scenario=self._scenario, state="t")


def assert_same(found: dict[str, End], expected: dict[str, End]) -> None:
    """Everybody is where it would be undisturbed, but for what the balancer itself leaves undone."""
    assert {name: end.range_kib for name, end in found.items()} == {
        name: end.range_kib for name, end in expected.items()
    }
    for name, end in found.items():
        assert end[1:] == pytest.approx(expected[name][1:], abs=TOLERANCE_KIB), name


@pytest.fixture(scope="module")
def shared_tide(shared_shop: Workshop) -> Tide:
    return Tide(shared_shop)


@pytest.fixture
def tide(shared_tide: Tide) -> Tide:
    """The host with its guests at rest and standing high."""
    shared_tide.ask(HIGH)
    shared_tide.rest()
    return shared_tide


@pytest.fixture(scope="module")
def undisturbed(shared_tide: Tide) -> dict[str, End]:
    """Where everybody is after the tide has fallen and nobody was killed."""
    shared_tide.ask(LOW)
    return shared_tide.rest()


def test_undisturbed_tide_gives_everybody_the_same_part_of_its_range(undisturbed: dict[str, End]) -> None:
    parts = {
        (end.target_kib - end.range_kib[0]) / (end.range_kib[1] - end.range_kib[0])
        for end in undisturbed.values()
    }
    assert max(parts) - min(parts) < 0.01
    assert 0.75 < min(parts) < 0.85  # 1024 MiB above the minimums, for ranges of 1280 MiB


@pytest.mark.parametrize("moment", MOMENTS)
def test_daemon_killed_while_guests_move_ends_where_it_would_have(
    undisturbed: dict[str, End], tide: Tide, moment: int
) -> None:
    with xenstore(tide.host) as store, store.watching_targets(*DOMIDS) as changes:
        tide.ask(LOW)
        changes.wait_for(moment)
        tide.daemon.kill()
    tide.restart_daemon()
    assert_same(tide.rest(), undisturbed)


def test_kill_9_keeps_the_reservation_that_was_granted_and_forgets_the_request_that_waited(
    tide: Tide,
) -> None:
    high = tide.rest()
    with logged_in(tide.daemon) as api, ThreadPoolExecutor(1) as caller:
        granted_id, size_kib = api.call("Memory.reserve_memory_range", *RANGE_KIB)
        granted = {granted_id: int(size_kib)}
        squeezed = tide.rest()
        with xenstore(tide.host) as store, store.watching_targets(1, 2) as changes:
            lost = caller.submit(api.call, "Memory.reserve_memory_range", *RANGE_KIB)
            changes.wait_for(2)
            tide.daemon.kill()
        assert isinstance(lost.exception(), RemoteDisconnected | ConnectionError)
    assert tide.reservations_kib() == granted
    tide.restart_daemon()
    assert_same(tide.rest(), squeezed)
    assert tide.reservations_kib() == granted
    assert tide.daemon.series("xcpmem_host_memory_reserved_bytes") == {"": int(size_kib) * MIB_KIB}
    with logged_in(tide.daemon) as api:
        again_id, size_kib = api.call("Memory.reserve_memory_range", *RANGE_KIB)
        assert RANGE_KIB[0] <= int(size_kib) <= RANGE_KIB[1]
        assert tide.reservations_kib() == {**granted, again_id: int(size_kib)}
        api.call("Memory.delete_reservation", granted_id)
        api.call("session.logout")  # takes the other with it
    assert_same(tide.rest(), high)
    assert tide.reservations_kib() == {}
