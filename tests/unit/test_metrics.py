"""The metrics, read back by Prometheus's own parsers."""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_open_metrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from xcpmem import __version__
from xcpmem.engine.belief import Beliefs
from xcpmem.engine.containment import PolicyMemory
from xcpmem.engine.model import (
    BalloonState,
    DomainState,
    DynamicRange,
    HostState,
    Reservation,
    SetMaxmem,
    SetTarget,
)
from xcpmem.engine.reasons import Motive, Reason
from xcpmem.engine.sample import Sample
from xcpmem.engine.shadow import ShadowPlan
from xcpmem.errors import DomainVanished, DriverTimeout
from xcpmem.metrics import Metrics, Sources
from xcpmem.report import CycleReport, Failure
from xcpmem.units import kib_to_bytes
from xcpmem.xen.driver import DomainDescription, Look

if TYPE_CHECKING:
    from prometheus_client import Metric

UUID_3 = "33333333-3333-3333-3333-333333333333"
UUID_4 = "44444444-4444-4444-4444-444444444444"
PROMETHEUS_ACCEPT = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=0.0.4;q=0.2,*/*;q=0.1"
)


@dataclass(frozen=True)
class Record:
    name_label: str
    memory_static_min: int
    memory_static_max: int


HOST = HostState(
    total_kib=10_000,
    free_kib=900,
    scrub_kib=100,
    slush_kib=50,
    domains=(
        DomainState(
            3, UUID_3, DynamicRange(1_000, 4_000), target_kib=2_500, actual_kib=2_600, maxmem_kib=2_700
        ),
        DomainState(4, UUID_4, DynamicRange(500, 500), target_kib=500, actual_kib=510, maxmem_kib=520),
    ),
    reservations=(Reservation("r", "s", 300),),
)
REPORT = CycleReport(
    number=1,
    time_s=1_700_000_000.5,
    monotonic_s=5.0,
    look=Look(HOST, {4: DomainDescription(4, UUID_4, "from xl", static_max_kib=600)}),
    reasons={
        3: Reason(BalloonState.STUCK, Motive.SHARE, 2_500, 2_500, 2_600, DynamicRange(1_000, 4_000)),
        4: Reason(BalloonState.AT_TARGET, Motive.PINNED, 500, 500, 510, DynamicRange(500, 500)),
    },
    actions=(SetMaxmem(3, 2_700), SetTarget(3, 2_500), SetTarget(4, 500)),
    duration_s=0.002,
)
RECORDS = {UUID_3: Record('web "1"\n\\', 1_024_000, 5_120_000)}


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(
        Sources(
            driver="simulated",
            policy=lambda: "proportional",
            vms=lambda: RECORDS,
            host_overhead_bytes=lambda: 4_096_000,
            sessions=lambda: 7,
            login_failures=lambda: 2,
            xenstore_reconnects=lambda: 1,
            methods=("VM.get_all", "Memory.reserve_memory", "event.from"),
        )
    )


def families(metrics: Metrics) -> dict[str, Metric]:
    body, _ = metrics.render()
    return {family.name: family for family in parse_text(body.decode())}


def values(metrics: Metrics) -> dict[str, float]:
    """Write each sample as Prometheus would show it: name{label="value"}."""
    return {
        sample.name + "".join(f" {key}={value}" for key, value in sorted(sample.labels.items())): sample.value
        for family in families(metrics).values()
        for sample in family.samples
    }


def of_domain(metrics: Metrics, domid: int) -> dict[str, float]:
    return {
        sample.name.removeprefix("xcpmem_domain_"): sample.value
        for family in families(metrics).values()
        for sample in family.samples
        if sample.labels.get("domid") == str(domid) and sample.name != "xcpmem_domain_info"
    }


def test_up_is_0_and_nothing_is_told_of_the_host_before_the_first_turn(metrics: Metrics) -> None:
    found = values(metrics)
    assert found["xcpmem_up"] == 0
    assert found["xcpmem_sessions"] == 7
    assert not [name for name in found if name.startswith(("xcpmem_host", "xcpmem_domain"))]


def test_build_is_described(metrics: Metrics) -> None:
    (sample,) = families(metrics)["xcpmem_build_info"].samples
    assert sample.labels["version"] == __version__
    assert sample.labels["driver"] == "simulated"


def test_host_is_shown_in_bytes(metrics: Metrics) -> None:
    metrics.observe_cycle(REPORT)
    found = values(metrics)
    assert found["xcpmem_up"] == 1
    assert found["xcpmem_host_memory_total_bytes"] == kib_to_bytes(10_000)
    assert found["xcpmem_host_memory_free_bytes"] == kib_to_bytes(1_000)
    assert found["xcpmem_host_memory_reserved_bytes"] == kib_to_bytes(300)
    assert found["xcpmem_host_memory_reclaimed_bytes"] == kib_to_bytes(4_000 - 2_500)
    assert found["xcpmem_host_memory_reclaimable_bytes"] == kib_to_bytes(2_500 - 1_000)
    assert found["xcpmem_host_memory_overhead_bytes"] == 4_096_000
    assert found["xcpmem_cycle_last_success_timestamp_seconds"] == 1_700_000_000.5


def test_domain_is_shown_in_bytes(metrics: Metrics) -> None:
    metrics.observe_cycle(REPORT)
    assert of_domain(metrics, 3) == {
        "memory_actual_bytes": kib_to_bytes(2_600),
        "memory_target_bytes": kib_to_bytes(2_500),
        "memory_static_min_bytes": 1_024_000,
        "memory_dynamic_min_bytes": kib_to_bytes(1_000),
        "memory_dynamic_max_bytes": kib_to_bytes(4_000),
        "memory_static_max_bytes": 5_120_000,
        "memory_maxmem_bytes": kib_to_bytes(2_700),
        "balloon_stuck": 1,
    }


def test_what_a_guest_said_is_shown_and_when(metrics: Metrics) -> None:
    sample = Sample(seen_s=2.0, period_s=10.0, used_kib=900, swapped_kib=30, stall_us=1_500_000)
    domains = (replace(HOST.domains[0], sample=sample), *HOST.domains[1:])
    look = Look(replace(HOST, domains=domains), dropped_reports={"absurd": 2, "malformed": 0})
    metrics.observe_cycle(replace(REPORT, look=look))
    found = of_domain(metrics, 3)
    assert found["memory_guest_used_bytes"] == kib_to_bytes(900)
    assert found["memory_guest_swapped_bytes"] == kib_to_bytes(30)
    assert found["guest_stall_seconds"] == 1.5
    assert found["guest_report_timestamp_seconds"] == 1_700_000_000 - 3
    assert not [name for name in of_domain(metrics, 4) if "guest" in name]
    assert values(metrics)["xcpmem_guest_reports_dropped_total reason=absurd"] == 2


def test_a_heartbeat_alone_moves_only_the_time_of_the_report(metrics: Metrics) -> None:
    sample = Sample(seen_s=2.0, period_s=10.0, used_kib=900)
    for seen_s in (2.0, 5.0):
        domains = (replace(HOST.domains[0], sample=replace(sample, seen_s=seen_s)), *HOST.domains[1:])
        metrics.observe_cycle(replace(REPORT, look=Look(replace(HOST, domains=domains))))
        found = of_domain(metrics, 3)
        assert found["guest_report_timestamp_seconds"] == 1_700_000_000 - 5 + seen_s
        assert "guest_stall_seconds" not in found


def test_domain_without_a_record_shows_what_the_toolstack_says(metrics: Metrics) -> None:
    metrics.observe_cycle(REPORT)
    found = of_domain(metrics, 4)
    assert "memory_static_min_bytes" not in found
    assert found["memory_static_max_bytes"] == kib_to_bytes(600)
    assert found["balloon_stuck"] == 0


def test_domain_is_named_on_its_info_series_alone(metrics: Metrics) -> None:
    metrics.observe_cycle(REPORT)
    labels = [sample.labels for sample in families(metrics)["xcpmem_domain_info"].samples]
    common = {"policy": "proportional", "is_control_domain": "false"}
    assert labels == [
        {"vm_uuid": UUID_3, "domid": "3", "name_label": 'web "1"\n\\', **common},
        {"vm_uuid": UUID_4, "domid": "4", "name_label": "from xl", **common},
    ]


def test_series_of_a_domain_end_with_it(metrics: Metrics) -> None:
    metrics.observe_cycle(REPORT)
    rest = replace(REPORT, number=2, look=Look(replace(HOST, domains=HOST.domains[1:])))
    metrics.observe_cycle(rest)
    assert of_domain(metrics, 3) == {}
    assert of_domain(metrics, 4)["memory_actual_bytes"] == kib_to_bytes(510)


def test_turns_and_actions_are_counted(metrics: Metrics) -> None:
    metrics.observe_cycle(REPORT)
    vanished = Failure.of(SetTarget(3, 2_500), DomainVanished("domain 3 is gone"))
    metrics.observe_cycle(replace(REPORT, number=2, actions=(), failures=(vanished,)))
    found = values(metrics)
    assert found["xcpmem_cycles_total result=ok"] == 1
    assert found["xcpmem_cycles_total result=partial"] == 1
    assert found["xcpmem_cycles_total result=failed"] == 0
    assert found["xcpmem_cycle_duration_seconds_count"] == 2
    assert found["xcpmem_plan_actions_total kind=set_target"] == 2
    assert found["xcpmem_plan_actions_total kind=set_maxmem"] == 1
    assert found["xcpmem_plan_actions_total kind=record_reservation"] == 0
    assert found["xcpmem_action_failures_total kind=set_target reason=domain_vanished"] == 1
    assert found["xcpmem_up"] == 1


def test_host_disappears_and_up_is_0_while_it_cannot_be_seen(metrics: Metrics) -> None:
    metrics.observe_cycle(REPORT)
    blind = replace(REPORT, number=2, actions=(), failures=(Failure.of(None, DriverTimeout("no answer")),))
    metrics.observe_cycle(blind)
    found = values(metrics)
    assert found["xcpmem_up"] == 0
    assert found["xcpmem_cycles_total result=failed"] == 1
    assert found["xcpmem_action_failures_total kind=look reason=driver_timeout"] == 1
    assert found["xcpmem_cycle_last_success_timestamp_seconds"] == 1_700_000_000.5
    assert not [name for name in found if name.startswith(("xcpmem_host", "xcpmem_domain"))]
    metrics.observe_cycle(replace(REPORT, number=3))
    assert values(metrics)["xcpmem_up"] == 1


def test_calls_are_counted_by_method_and_status(metrics: Metrics) -> None:
    metrics.observe_rpc("VM.get_all", "success", 0.001)
    metrics.observe_rpc("VM.get_all", "SESSION_INVALID", 0.0)
    metrics.observe_rpc("event.from", "hung_up", 30.0)
    metrics.observe_rpc("Memory.reserve_memory", "HOST_NOT_ENOUGH_FREE_MEMORY", 59.0)
    found = values(metrics)
    assert found["xcpmem_rpc_requests_total method=VM.get_all status=success"] == 1
    assert found["xcpmem_rpc_requests_total method=VM.get_all status=SESSION_INVALID"] == 1
    assert found["xcpmem_rpc_requests_total method=event.from status=hung_up"] == 1
    assert found["xcpmem_rpc_request_duration_seconds_count method=VM.get_all"] == 2
    assert found["xcpmem_rpc_request_duration_seconds_bucket le=10.0 method=Memory.reserve_memory"] == 0
    assert found["xcpmem_rpc_request_duration_seconds_bucket le=60.0 method=Memory.reserve_memory"] == 1


def test_number_of_series_does_not_grow_with_invented_methods_and_statuses(metrics: Metrics) -> None:
    for number in range(100):
        metrics.observe_rpc(f"VM.invented_{number}", f"INVENTED_{number}", 0.001)
    found = [name for name in values(metrics) if "invented" in name.lower()]
    assert found == []
    assert values(metrics)["xcpmem_rpc_requests_total method=unknown status=unknown"] == 100


def test_exchanges_with_xenstored_are_timed(metrics: Metrics) -> None:
    metrics.observe_exchange(0.0002)
    metrics.observe_exchange(0.3)
    found = values(metrics)
    assert found["xcpmem_xenstore_request_duration_seconds_count"] == 2
    assert found["xcpmem_xenstore_request_duration_seconds_bucket le=0.00025"] == 1
    assert found["xcpmem_xenstore_request_duration_seconds_sum"] == pytest.approx(0.3002)


def test_what_did_not_change_is_not_written_again(metrics: Metrics) -> None:
    metrics.observe_cycle(REPORT)
    first = metrics._domains.write(REPORT)
    later = replace(REPORT, number=2, look=Look(replace(HOST, free_kib=800), REPORT.look.descriptions))
    assert metrics._domains.write(later) is first
    metrics.render()
    of_calls = metrics._rendered.copy()
    metrics.observe_cycle(later)
    metrics.render()
    assert [body for _, body in of_calls.values()]
    assert all(metrics._rendered[form][1] is body for form, (_, body) in of_calls.items())


@pytest.mark.parametrize("accept", [None, PROMETHEUS_ACCEPT])
def test_change_of_anything_shows_at_the_next_scrape(metrics: Metrics, accept: str | None) -> None:
    metrics.observe_cycle(REPORT)
    bodies = [metrics.render(accept)[0]]
    grown = replace(HOST.domains[0], actual_kib=2_601)
    changes = (
        replace(REPORT, look=replace(REPORT.look, host=replace(HOST, domains=(grown, HOST.domains[1])))),
        replace(REPORT, reasons={}),
        replace(REPORT, look=Look(HOST, {})),
        replace(REPORT, look=Look(replace(HOST, domains=()), {})),
    )
    for report in changes:
        metrics.observe_cycle(report)
        bodies.append(metrics.render(accept)[0])
    with_domains = [body.partition(b"# HELP xcpmem_domain_info")[2] for body in bodies]
    assert len(set(with_domains)) == len(with_domains)
    before = metrics.render(accept)[0]
    metrics.observe_rpc("VM.get_all", "success", 0.001)
    assert metrics.render(accept)[0] != before


async def test_scrape_is_rendered_beside_the_loop() -> None:
    threads: list[int] = []

    def look_around() -> int:
        threads.append(threading.get_ident())
        return 0

    metrics = Metrics(Sources(driver="xen", sessions=look_around))
    body, _ = await metrics.scrape()
    metrics.close()
    assert b"xcpmem_sessions 0.0" in body
    assert threads
    assert threading.get_ident() not in threads


def test_counters_of_others_are_read_at_each_scrape(metrics: Metrics) -> None:
    found = values(metrics)
    assert found["xcpmem_login_failures_total"] == 2
    assert found["xcpmem_xenstore_reconnects_total"] == 1


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        (None, "text/plain; version=0.0.4; charset=utf-8"),
        ("*/*", "text/plain; version=0.0.4; charset=utf-8"),
        ("text/plain;version=9.broken", "text/plain; version=0.0.4; charset=utf-8"),
        (PROMETHEUS_ACCEPT, "application/openmetrics-text; version=1.0.0; charset=utf-8"),
        (
            "Application/OpenMetrics-Text;version=x",
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
        ),
    ],
)
def test_form_follows_the_accept_header(metrics: Metrics, accept: str | None, content_type: str) -> None:
    body, said = metrics.render(accept)
    assert said == content_type
    assert body.endswith(b"# EOF\n") == said.startswith("application/")


def test_open_metrics_carries_the_same_samples_as_text(metrics: Metrics) -> None:
    metrics.observe_cycle(REPORT)
    body, _ = metrics.render(PROMETHEUS_ACCEPT)
    samples = {sample for family in parse_open_metrics(body.decode()) for sample in names(family)}  # type: ignore[no-untyped-call]
    ours = {name for name in samples if name.startswith("xcpmem_")}
    plain = {sample for family in families(metrics).values() for sample in names(family)}
    assert ours == {name for name in plain if name.startswith("xcpmem_")}
    assert not [name for name in samples | plain if name.endswith("_created")]


def names(family: Metric) -> set[str]:
    return {sample.name for sample in family.samples}


@settings(deadline=None)
@given(st.text(alphabet=st.characters(exclude_categories=())))
def test_scrape_works_whatever_a_vm_is_called(name_label: str) -> None:
    metrics = Metrics(Sources(driver="xen", vms=lambda: {UUID_3: Record(name_label, 0, 0)}))
    metrics.observe_cycle(REPORT)
    encodable = name_label.encode("utf-8", "replace").decode()
    for accept, parse in ((None, parse_text), (PROMETHEUS_ACCEPT, parse_open_metrics)):
        body, _ = metrics.render(accept)
        found = {family.name: family for family in parse(body.decode())}
        assert found["xcpmem_domain_info"].samples[0].labels["name_label"] == encodable


def test_policies_that_are_not_in_force_show_what_they_would_do(metrics: Metrics) -> None:
    shadows = {
        "shares": ShadowPlan({3: 2_000, 9: 1}),
        "pressure": ShadowPlan({3: 1_500, 4: 500}),
        "rude": ShadowPlan({3: 1_000}, trouble="it erred: this is XCP's rule"),
    }
    metrics.observe_cycle(replace(REPORT, shadows=shadows))
    would = {name: value for name, value in values(metrics).items() if "shadow" in name}
    assert would == {
        f"xcpmem_shadow_target_bytes domid=3 policy=shares vm_uuid={UUID_3}": 2_048_000,
        f"xcpmem_shadow_target_bytes domid=3 policy=pressure vm_uuid={UUID_3}": 1_536_000,
        f"xcpmem_shadow_target_bytes domid=4 policy=pressure vm_uuid={UUID_4}": 512_000,
    }


def test_troubles_and_regrets_of_policies_are_counted(metrics: Metrics) -> None:
    memory = PolicyMemory(failures=3, failures_total=5, trouble="it broke", aside_until_s=60.0)
    stance = replace(REPORT.stance, beliefs=Beliefs(regrets=2, policy=memory))
    metrics.observe_cycle(replace(REPORT, stance=stance))
    shown = values(metrics)
    assert shown["xcpmem_policy_failures_total"] == 5
    assert shown["xcpmem_policy_regrets_total"] == 2
    assert shown["xcpmem_policy_set_aside"] == 1
