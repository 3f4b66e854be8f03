"""What is said of each guest at the end of a scenario is true of the host as it then is."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from tests.scenario.runs import FILES, scenario
from xcpmem.script import GetDiagnostics, ScriptCall
from xcpmem.simulation import Simulation
from xcpmem.units import format_kib

if TYPE_CHECKING:
    from collections.abc import Callable

    from xcpmem.xen.simguest import SimGuest

    Truth = Callable[[re.Match[str], dict[str, Any], SimGuest], bool]

SIZE = r"[\d.]+ (?:KiB|MiB|GiB)"


def share_of(guest: dict[str, Any], live: SimGuest) -> float:
    width_kib = live.dynamic_max_kib - live.dynamic_min_kib
    return 100 * (int(guest["target_kib"]) - live.dynamic_min_kib) / width_kib


SENTENCES: dict[str, Truth] = {
    rf"gets its share: ({SIZE}), ([\d.]+) % of the way from ({SIZE}) to ({SIZE})": lambda said, guest, live: (
        said[3] == format_kib(live.dynamic_min_kib)
        and said[4] == format_kib(live.dynamic_max_kib)
        and abs(float(said[2]) - share_of(guest, live)) < 1  # nobody is moved for less
    ),
    rf"gets dynamic-max ({SIZE}): there is enough for everyone": lambda said, guest, live: (
        said[1] == format_kib(live.dynamic_max_kib) and guest["target_kib"] == live.dynamic_max_kib
    ),
    rf"is pinned: dynamic-min = dynamic-max = ({SIZE})": lambda said, _, live: (
        said[1] == format_kib(live.dynamic_min_kib) == format_kib(live.dynamic_max_kib)
    ),
    rf"is at dynamic-min ({SIZE}): all above it is needed elsewhere": lambda said, guest, live: (
        said[1] == format_kib(live.dynamic_min_kib) and guest["target_kib"] == live.dynamic_min_kib
    ),
    rf"was asked to shrink to ({SIZE}) and stopped at ({SIZE}); .*": lambda said, guest, _: (
        said[1] == format_kib(guest["target_kib"])
        and said[2] == format_kib(guest["actual_kib"])
        and guest["actual_kib"] > guest["target_kib"]
        and guest["state"] in {"stuck", "at_limit"}
    ),
    rf"was asked to grow and stopped at ({SIZE}); .*": lambda said, guest, _: (
        said[1] == format_kib(guest["actual_kib"])
        and guest["actual_kib"] <= guest["target_kib"]
        and guest["state"] in {"stuck", "at_limit"}
    ),
    rf"has no balloon driver: holds ({SIZE}) whatever is asked": lambda said, guest, live: (
        said[1] == format_kib(guest["actual_kib"]) and not live.spec.balloon.feature
    ),
}


# What other policies than squeezed's say is tested with them.
PROPORTIONAL = [name for name in FILES if scenario(name).policy == "proportional"]


@pytest.mark.parametrize("name", PROPORTIONAL)
def test_reason_of_each_guest_at_the_end_is_true(name: str) -> None:
    told = scenario(name)
    asked = ScriptCall(told.deadline_s, GetDiagnostics())
    simulation = Simulation(replace(told, script=(*told.script, asked)))
    answer = simulation.run()
    reasons = json.loads(answer["calls"][-1]["value"])
    guests = answer["final"]["guests"]
    assert set(reasons) == set(guests)
    for domid, reason in reasons.items():
        said = next((found for text in SENTENCES if (found := re.fullmatch(text, reason))), None)
        assert said is not None, f"domain {domid} {reason}"
        live = simulation.host.guest(int(domid))
        assert SENTENCES[said.re.pattern](said, guests[domid], live), f"{domid} {guests[domid]}: {reason}"
