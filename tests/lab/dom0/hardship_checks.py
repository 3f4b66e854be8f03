"""Checks of a host on which things go wrong: xenstored cut off, a guest that dies or lies while memory moves.

After each the host must settle where it would have, with nobody promised what is not there. That a killed
daemon loses nothing is checked in `reservation_checks` and `start_checks`.
"""

from __future__ import annotations

import asyncio
import os
import re
import threading
import time
import urllib.error
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from tests.faultproxy import StoreProxy
from tests.lab.dom0 import report
from tests.lab.dom0.guests import STATIC_MAX_KIB, create_guest, wait_at_targets
from tests.lab.dom0.host import KIB_PER_MIB, run, wait_until, xenstore_tree, xenstore_write
from tests.lab.dom0.report import require

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator

    from tests.lab.dom0.guests import Guest
    from tests.lab.dom0.lab import Lab

XENSTORED: Final = "/run/xenstored/socket"
PROXY: Final = "/run/lab/xenstored"
FELT_DEADLINE_S: Final = 30
HEALED_DEADLINE_S: Final = 30
GIVING_DEADLINE_S: Final = 30
CALL_DEADLINE_S: Final = 120
OUTAGE_S: Final = 5.0
NARROW_KIB: Final = (256 * KIB_PER_MIB, 400 * KIB_PER_MIB)
GIVEN_BEFORE_THE_END_KIB: Final = 32 * KIB_PER_MIB
# libxl lets a domain hold so much above its target, and Xen keeps some pages of its own.
MAXMEM_SLACK_KIB: Final = 1024
TOLERANCE_KIB: Final = 2048
FLOOD: Final = 200
UNAVAILABLE: Final = 503

GARBAGE: Final = (
    "",
    "0",
    "-1",
    "9" * 300,
    "1e9",
    "{" * 2000,
    "nan",
    "0x7fffffff",
    "%s%n",
    "../../0",
    "1 2 3",
)
# A guest may break its own console and disk; the daemon reads nothing there, but the lab reads the console.
SPARED: Final = re.compile(r"/local/domain/\d+/(device|console|store|image)(/|$)")
OWNED: Final = re.compile(r"^(?P<path>/\S+) = .*\((?P<perms>[^)]*)\)$", re.MULTILINE)


class _Loop:
    """An event loop in a thread of its own, for the proxy."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def do(self, work: Coroutine[object, object, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(CALL_DEADLINE_S)


@contextmanager
def _behind_a_proxy(lab: Lab) -> Iterator[tuple[_Loop, StoreProxy]]:
    """Restart the daemon so that it reaches xenstored only through a proxy; nobody else does."""
    loop, proxy = _Loop(), StoreProxy(XENSTORED)
    loop.do(proxy.start(PROXY))
    if lab.daemon.is_running:
        lab.daemon.stop()
    os.environ["XENSTORED_PATH"] = PROXY
    try:
        lab.start_daemon()
    finally:
        del os.environ["XENSTORED_PATH"]
    try:
        yield loop, proxy
    finally:
        lab.daemon.stop()
        loop.do(proxy.close())


def xenstored_cut_off_and_back_is_made_up_for(lab: Lab) -> str:
    """What is wished while xenstored cannot be reached is done soon after; readiness tells meanwhile."""
    lab.rest()
    guest = lab.guests[0]
    with _behind_a_proxy(lab) as (loop, proxy):
        at_rest = lab.rest()
        loop.do(proxy.cut())
        lab.client().set_dynamic_range(guest, *NARROW_KIB)
        wait_until(
            lambda: _readiness(lab) == UNAVAILABLE,
            "readiness says that the host cannot be seen",
            FELT_DEADLINE_S,
            lambda: _readiness(lab),
        )
        # As long as it takes until attempts come at their slowest.
        time.sleep(OUTAGE_S)
        require(guest.target_kib() == at_rest[guest], "nothing reaches xenstore while it is cut off")
        loop.do(proxy.restore())
        began = time.perf_counter()
        wait_until(
            lambda: guest.target_kib() == NARROW_KIB[1],
            f"{guest.name} is asked for {NARROW_KIB[1]} KiB",
            HEALED_DEADLINE_S,
            guest.target_kib,
        )
        healed_s = time.perf_counter() - began
        report.figure("xenstored_back_until_targets_written", healed_s, "s")
        wait_at_targets(lab.hypervisor, {**at_rest, guest: NARROW_KIB[1]})
        require(_readiness(lab) != UNAVAILABLE, "readiness is back")
        _require_nobody_over_promised(lab, 0)
    lab.rest()
    return f"wish fulfilled {healed_s:.2f} s after xenstored was back"


def guest_that_writes_garbage_into_every_key_it_may_harms_nobody(lab: Lab) -> str:
    """Garbage in all keys that a guest owns, over and over; a reservation is granted and the host settles."""
    lab.rest()
    liar, *others = lab.guests
    keys = _writable(liar)
    require(len(keys) > 3, f"{liar.name} owns some keys in xenstore, but only {keys}")
    for garbage in GARBAGE:
        run("xenstore-write", "--", *(word for key in keys for word in (key, garbage)))
        lab.client().balance()
    for number in range(FLOOD):
        xenstore_write({liar.key("data/meminfo_free"): str(number), liar.key("data/updated"): "1"})
    min_kib = lab.range_to_reserve_kib()[0]
    squeezable_kib = sum(lab.ranges_kib()[guest][1] - lab.ranges_kib()[guest][0] for guest in others)
    reservation = lab.reserve(min_kib // 2, lab.usable_kib() + squeezable_kib // 2)
    _require_nobody_over_promised(lab, reservation.granted_kib)
    for guest in others:
        low_kib, high_kib = lab.ranges_kib()[guest]
        require(
            low_kib <= guest.target_kib() <= high_kib,
            f"the target of {guest.name} stays within {low_kib} to {high_kib} KiB",
        )
    lab.delete(reservation)
    for path in (liar.key("control/feature-balloon"), liar.key("data/meminfo_free")):
        run("xenstore-rm", path)
    wait_at_targets(lab.hypervisor, lab.at_rest_kib())
    return (
        f"{len(keys)} keys, {len(GARBAGE)} kinds of garbage; granted {reservation.granted_kib} KiB meanwhile"
    )


def guest_destroyed_during_a_request_is_no_loss_to_anybody(lab: Lab) -> str:
    """One of those who give is destroyed; the request is answered and nobody is over-promised."""
    at_rest = lab.rest()
    victim = lab.guests[2]
    min_kib, max_kib = lab.range_to_reserve_kib()
    client = lab.new_client()

    def given_kib() -> int:
        domains = lab.hypervisor.domains()
        return sum(size_kib - domains[guest.domid].mem_kib for guest, size_kib in at_rest.items())

    with ThreadPoolExecutor(max_workers=1) as threads:
        call = threads.submit(client.reserve_range, min_kib, max_kib)
        wait_until(
            lambda: given_kib() >= GIVEN_BEFORE_THE_END_KIB,
            "guests begin to give",
            GIVING_DEADLINE_S,
            lambda: f"{given_kib()} KiB given",
        )
        run("xl", "destroy", victim.name)
        reservation = call.result(CALL_DEADLINE_S)
    lab.reserved.append(reservation)
    require(
        min_kib <= reservation.granted_kib <= max_kib, f"{reservation.granted_kib} KiB are what was asked for"
    )
    lab.client().balance()
    _require_nobody_over_promised(lab, reservation.granted_kib)
    lab.delete(reservation)
    create_guest(victim.name, lab.ranges_kib()[victim][0], STATIC_MAX_KIB)
    lab.renew(victim)
    lab.rest()
    return f"granted {reservation.granted_kib} KiB although {victim.name} was destroyed meanwhile"


def _readiness(lab: Lab) -> int:
    try:
        return lab.daemon.page("/readyz")[0]
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def _writable(guest: Guest) -> list[str]:
    """The keys that a guest may write, and some that it could make in the directories that it owns."""
    tree = run("xenstore-ls", "-f", "-p", guest.key("").rstrip("/"))
    owner, writers = f"n{guest.domid}", {f"w{guest.domid}", f"b{guest.domid}"}
    keys = []
    for match in OWNED.finditer(tree):
        perms = match["perms"].split(",")
        if (perms[0][1:] == owner[1:] or writers & set(perms[1:])) and not SPARED.match(match["path"]):
            keys.append(match["path"])
    made = ("data/meminfo_free", "data/updated", "data/xcpmem/1", "control/feature-balloon")
    return sorted({*keys, *map(guest.key, made)})


def _require_nobody_over_promised(lab: Lab, reserved_kib: int) -> None:
    """What guests hold or may take at any moment, and what is reserved, is not more than there is."""
    domains = lab.hypervisor.domains()
    guests = [domain for domid, domain in domains.items() if domid]
    held_kib = sum(domain.mem_kib for domain in guests)
    allowed_kib = sum(max(domain.mem_kib, domain.maxmem_kib - MAXMEM_SLACK_KIB) for domain in guests)
    free_kib = lab.hypervisor.free_kib()
    require(
        allowed_kib - held_kib + reserved_kib <= free_kib + TOLERANCE_KIB,
        f"guests may grow by {allowed_kib - held_kib} KiB and {reserved_kib} KiB are reserved, but only "
        f"{free_kib} KiB are free; {xenstore_tree('/xcpmem')}",
    )
