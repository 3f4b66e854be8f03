"""What somebody takes from a simulated host is never promised to a guest any more when that instant ends."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from xcpmem import script
from xcpmem.scenario import Scenario
from xcpmem.script import ScriptCall
from xcpmem.simulation import Simulation
from xcpmem.specs import BalloonSpec, GuestSpec, HostSpec

GUESTS = 4

balloons = st.builds(
    BalloonSpec,
    rate_kib_s=st.sampled_from([200.0, 5000.0, 1e6]),
    delay_s=st.sampled_from([0.0, 0.0, 2.0, 9.0]),
    period_s=st.sampled_from([0.0, 0.0, 0.3]),
    inaccuracy_kib=st.sampled_from([0, 4, 4, 50]),
    stuck=st.sampled_from([False, False, False, True]),
)


@st.composite
def guests(draw: st.DrawFn, domid: int) -> GuestSpec:
    """A guest that holds what its range allows, and may have been told to hold something else."""
    low_kib, width_kib = draw(st.integers(0, 20000)), draw(st.integers(0, 30000))
    inside = st.integers(low_kib, low_kib + width_kib)
    return GuestSpec(
        domid=domid,
        dynamic_min_kib=low_kib,
        dynamic_max_kib=low_kib + width_kib,
        target_kib=draw(inside),
        actual_kib=draw(inside),
        balloon=draw(balloons),
    )


domids = st.integers(1, GUESTS)
events = st.one_of(
    st.builds(script.TakeMemory, size_kib=st.integers(0, 20000)),
    st.builds(script.TakeMemory, size_kib=st.integers(0, 20000)),
    st.builds(script.Shutdown, domid=domids),
    st.builds(script.SetBalloon, domid=domids, changes=st.sampled_from([{"stuck": True}, {"stuck": False}])),
    st.just(script.KillDaemon()),
)
lines = st.builds(ScriptCall, st.sampled_from([0.0, 1.0, 1.05, 2.0, 7.0, 20.0]), events)


@given(
    st.tuples(*(guests(domid) for domid in range(1, GUESTS + 1))),
    st.builds(
        HostSpec,
        free_kib=st.integers(0, 40000),
        slush_kib=st.sampled_from([0, 500]),
        scrub_kib_s=st.sampled_from([0.0, 3000.0]),
    ),
    st.lists(lines, max_size=6),
)
@settings(max_examples=80, derandomize=True, database=None, deadline=None)
def test_no_run_promises_what_the_host_does_not_have(
    specs: tuple[GuestSpec, ...], host: HostSpec, events: list[ScriptCall]
) -> None:
    simulation = Simulation(Scenario(host=host, guests=specs, script=tuple(events), deadline_s=40.0))
    assert simulation.run()["totals"]["overcommit_kib"] == 0
    assert simulation.broken == []
