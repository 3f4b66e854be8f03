"""Guests that say what they need, and what a policy that listens makes of it."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING, Final

from tests.lab.dom0 import report
from tests.lab.dom0.client import BYTES_PER_KIB
from tests.lab.dom0.host import KIB_PER_MIB, wait_until, xenstore_tree
from tests.lab.dom0.needs import do, reported
from tests.lab.dom0.report import require

if TYPE_CHECKING:
    from tests.lab.dom0.guests import Guest
    from tests.lab.dom0.lab import Lab

RANGE_KIB: Final = (200 * KIB_PER_MIB, 780 * KIB_PER_MIB)
SHARED_KIB: Final = 1350 * KIB_PER_MIB
SHARE_KIB: Final = SHARED_KIB // 3
# Shares are whole pages, and the slush is not known to the KiB.
TOLERANCE_KIB: Final = 4 * KIB_PER_MIB
# So long at most works the hog: a guest that thrashes is given up, and its stalls until then are counted.
HOG_MOST_S: Final = 60
HOG: Final = f"hog 420 2 {HOG_MOST_S}"
# Where it has what it needs it is to end its work, which was seen to take 73 s on a slow machine.
HOG_ENDS_S: Final = 240
HOG_TO_ITS_END: Final = f"hog 420 2 {HOG_ENDS_S}"
HOG_DEADLINE_S: Final = 300
LEAST_STALL_S: Final = 2.0
BACK_DEADLINE_S: Final = 90
REPORT_DEADLINE_S: Final = 30
PAIRS: Final = 3


def guests_tell_what_they_need(lab: Lab) -> str:
    """Each guest's agent reports, and the daemon shows what it makes of it."""
    _make_scarce(lab)
    wait_until(
        lambda: all("xcpmem" in xenstore_tree(guest.key("data")) for guest in lab.guests),
        "every guest's agent has reported",
        REPORT_DEADLINE_S,
        lambda: xenstore_tree(lab.guests[0].key("data")),
    )
    said = {guest: reported(guest) for guest in lab.guests}
    require(all(len(numbers) == 6 for numbers in said.values()), f"six numbers are reported, not {said}")
    require(not any(numbers[5] for numbers in said.values()), f"stalls and refaults are known: {said}")
    used_mib = {guest: _used_kib(lab, guest) // KIB_PER_MIB for guest in lab.guests}
    for guest in lab.guests:
        cost = do(guest, "rest", REPORT_DEADLINE_S).talker_cpu_s
        report.figure(f"agent_cpu_{guest.name}", cost, "s")
    return ", ".join(f"{guest.name} uses {size_mib} MiB" for guest, size_mib in used_mib.items())


def hog_stalls_half_as_long_when_memory_follows_need(lab: Lab) -> str:
    """A hog that outgrows its share does a fixed job, several times under each policy, alternating."""
    _make_scarce(lab)
    hog, *idle = lab.guests
    stalls_s: dict[str, list[float]] = {"proportional": [], "pressure": []}
    for _ in range(PAIRS):
        for policy, seen_s in stalls_s.items():
            _level(lab)
            lab.client().set_policy(policy)
            work = HOG_TO_ITS_END if policy == "pressure" else HOG
            outcome = do(hog, work, HOG_DEADLINE_S, lab.guests)
            require(outcome.oom_kills == 0, f"nobody is killed for want of memory under {policy}")
            report.figure(f"hog_stall_{policy}", outcome.stall_s, "s")
            report.figure(f"hog_took_{policy}", outcome.took_s, "s")
            most_kib = max(targets[hog] for targets in outcome.targets_kib)
            report.figure(f"hog_target_{policy}", most_kib / KIB_PER_MIB, "MiB")
            require(policy != "pressure" or outcome.took_s < HOG_ENDS_S, "under pressure the job is finished")
            seen_s.append(outcome.stall_s)
    for guest in idle:
        require(do(guest, "rest", REPORT_DEADLINE_S).oom_kills == 0, f"nobody is killed in {guest.name}")
    before_s, after_s = median(stalls_s["proportional"]), median(stalls_s["pressure"])
    require(before_s > LEAST_STALL_S, f"the hog outgrows its share under proportional ({before_s:.1f} s)")
    require(
        after_s <= before_s / 2,
        f"the hog stalls at most half as long under pressure ({after_s:.1f} s) as under proportional "
        f"({before_s:.1f} s)",
    )
    return f"median of {PAIRS}: {before_s:.1f} s under proportional, {after_s:.1f} s under pressure"


def memory_goes_back_when_the_hog_ends(lab: Lab) -> str:
    """What the hog was given beyond its share goes back to the others, a part of it every ten seconds."""
    _make_scarce(lab)
    hog = lab.guests[0]
    if lab.client().policy() != "pressure":
        _level(lab)
        lab.client().set_policy("pressure")
        do(hog, HOG, HOG_DEADLINE_S)
    began_kib = hog.target_kib()
    beyond_kib = began_kib - SHARE_KIB
    require(beyond_kib > SHARE_KIB // 10, f"the hog had more than its share, not {began_kib} KiB")
    took_s = wait_until(
        lambda: hog.target_kib() <= began_kib - beyond_kib // 3,
        f"a third of the hog's {beyond_kib} KiB beyond its share goes back",
        BACK_DEADLINE_S,
        hog.target_kib,
        poll_s=1.0,
    )
    return f"from {began_kib // KIB_PER_MIB} to {hog.target_kib() // KIB_PER_MIB} MiB in {took_s:.0f} s"


def lying_guest_takes_nobodys_share(lab: Lab) -> str:
    """While one guest claims endless demand, one that works keeps its share, and one at rest its need."""
    _make_scarce(lab)
    _level(lab)
    lab.client().set_policy("pressure")
    hog, idle, liar = lab.guests
    do(liar, "lie", REPORT_DEADLINE_S)
    try:
        wait_until(
            lambda: liar.target_kib() > SHARE_KIB + SHARE_KIB // 10,
            f"{liar.name} is believed as long as it costs nobody anything",
            REPORT_DEADLINE_S,
            liar.target_kib,
            poll_s=1.0,
        )
        outcome = do(hog, HOG, HOG_DEADLINE_S, lab.guests)
    finally:
        do(liar, "tell", REPORT_DEADLINE_S)
    require(outcome.oom_kills == 0, "nobody is killed for want of memory")
    hogs_kib = [targets[hog] for targets in outcome.targets_kib]
    # At rest it needed less than its share, and what it did not need was lent.
    while hogs_kib and hogs_kib[0] < SHARE_KIB - TOLERANCE_KIB:
        del hogs_kib[0]
    require(hogs_kib, f"the hog gets its share, but saw {outcome.targets_kib}")
    require(
        min(hogs_kib) >= SHARE_KIB - TOLERANCE_KIB, f"the hog keeps its share, but saw {outcome.targets_kib}"
    )
    idles_kib = min(targets[idle] for targets in outcome.targets_kib)
    require(idles_kib >= RANGE_KIB[0], f"the idle guest keeps what it needs, not {idles_kib} KiB")
    report.figure("hog_stall_beside_liar", outcome.stall_s, "s")
    report.figure("hog_took_beside_liar", outcome.took_s, "s")
    return (
        f"the hog had its share after {len(outcome.targets_kib) - len(hogs_kib)} s and up to "
        f"{max(hogs_kib) // KIB_PER_MIB} MiB, the idle guest {idles_kib // KIB_PER_MIB} MiB or more"
    )


def _make_scarce(lab: Lab) -> None:
    """Give all guests the same range, and leave them `SHARED_KIB` together."""
    client = lab.client()
    for guest in lab.guests:
        client.set_dynamic_range(guest, *RANGE_KIB)
    if not lab.reserved:
        held_kib = sum(lab.hypervisor.mem_kib(guest.domid) for guest in lab.guests)
        size_kib = lab.usable_kib() + held_kib - SHARED_KIB
        lab.reserve(size_kib, size_kib)


def _level(lab: Lab) -> None:
    """Give each guest the same share and wait until it has it."""
    client = lab.client()
    client.set_policy("proportional")
    client.balance()
    targets_kib = {guest.target_kib() for guest in lab.guests}
    require(
        all(abs(target_kib - SHARE_KIB) <= TOLERANCE_KIB for target_kib in targets_kib),
        f"each guest's share is {SHARE_KIB} KiB, not {targets_kib}",
    )


def _used_kib(lab: Lab, guest: Guest) -> int:
    """What the daemon's metrics say that a guest uses."""
    name = f'xcpmem_domain_memory_guest_used_bytes{{domid="{guest.domid}"'
    values = [
        line.rpartition(" ")[2]
        for line in lab.daemon.page("/metrics")[1].splitlines()
        if line.startswith(name)
    ]
    require(len(values) == 1, f"the metrics say once what {guest.name} uses")
    return int(values[0]) // BYTES_PER_KIB
