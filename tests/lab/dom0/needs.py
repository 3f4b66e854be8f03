"""Guests that need memory: jobs that they are told to do, what came of them, and what they report."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, Final

from tests.lab.dom0.host import xenstore_read, xenstore_tree, xenstore_write
from tests.lab.dom0.report import CheckError, require

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tests.lab.dom0.guests import Guest

POLL_S: Final = 1.0
_numbers: Final = count(1)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a job: the time it took, the time in which the guest waited for memory, who was killed.

    Args:
        stall_s: by which the PSI of the guest's kernel grew meanwhile, ``some``.
        took_s: from start to end.
        oom_kills: how many processes the guest's kernel has killed since it booted.
        talker_cpu_s: the CPU time of its agent since it was started.
        targets_kib: the targets of all guests that were watched, once a second.
    """

    stall_s: float
    took_s: float
    oom_kills: int
    talker_cpu_s: float
    targets_kib: Sequence[Mapping[Guest, int]] = field(default_factory=tuple)


def do(guest: Guest, job: str, deadline_s: float, watched: Sequence[Guest] = ()) -> Outcome:
    """Let a guest do a job of `needy-init` and wait for its end.

    Args:
        guest: Who.
        job: Words of the job.
        deadline_s: Seconds until it counts as failed.
        watched: Guests whose targets are noted meanwhile.

    Raises:
        CheckError: It failed, or did not end in time.
    """
    number = str(next(_numbers))
    xenstore_write({guest.key("data/lab_job"): f"{number} {job}"})
    began = time.perf_counter()
    targets_kib = []
    words: list[str] = []
    while words[:1] != [number]:
        if time.perf_counter() - began > deadline_s:
            seen = xenstore_tree(guest.key("data"))
            raise CheckError(f"{guest.name} does {job} within {deadline_s:.0f} s, but shows\n{seen}")
        time.sleep(POLL_S)
        if watched:
            values = xenstore_read(*(each.key("memory/target") for each in watched))
            targets_kib.append(dict(zip(watched, map(int, values), strict=True)))
        if "lab_result" in xenstore_tree(guest.key("data")):
            words = xenstore_read(guest.key("data/lab_result"))[0].split()
    # The last look may have come after the end, when what the guest had was lent again.
    del targets_kib[-1:]
    require("failed" not in words, f"{guest.name} does {job}")
    *times_us, oom_kills, cpu_ns = words[1:]
    stall_us, took_us = (0, 0) if times_us == ["done"] else map(int, times_us)
    return Outcome(stall_us / 1e6, took_us / 1e6, int(oom_kills), int(cpu_ns) / 1e9, targets_kib)


def reported(guest: Guest) -> list[int]:
    """The six numbers that a guest's agent wrote last (`api-spec/guest-report.md`)."""
    return [int(word) for word in xenstore_read(guest.key("data/xcpmem/1"))[0].split()]
