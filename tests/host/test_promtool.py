"""Prometheus's own checker on what we render."""

from __future__ import annotations

import subprocess

from xcpmem.engine.model import DomainState, DynamicRange, HostState, SetTarget
from xcpmem.errors import DriverTimeout
from xcpmem.metrics import Metrics, Sources
from xcpmem.report import CycleReport, Failure
from xcpmem.xen.driver import DomainDescription, Look

UUID = "33333333-3333-3333-3333-333333333333"


def used_metrics() -> Metrics:
    metrics = Metrics(Sources(driver="simulated", policy=lambda: "proportional", methods=("VM.get_all",)))
    host = HostState(
        total_kib=10_000,
        free_kib=900,
        scrub_kib=0,
        slush_kib=50,
        domains=(DomainState(3, UUID, DynamicRange(1_000, 4_000), 2_500, 2_600, 2_700),),
    )
    look = Look(host, {3: DomainDescription(3, UUID, 'a "name" with \\ and\nbreak', static_max_kib=4_000)})
    failure = Failure.of(SetTarget(3, 2_500), DriverTimeout("no answer"))
    metrics.observe_cycle(
        CycleReport(1, 1.7e9, 1.0, look, actions=(SetTarget(3, 2_500),), failures=(failure,))
    )
    metrics.observe_rpc("VM.get_all", "success", 0.01)
    metrics.observe_rpc("VM.none", "MESSAGE_METHOD_UNKNOWN", 0.01)
    return metrics


def test_promtool_finds_nothing_to_say_about_the_metrics() -> None:
    body, _ = used_metrics().render()
    assert b"xcpmem_domain_memory_actual_bytes" in body
    checked = subprocess.run(
        ["promtool", "check", "metrics"], input=body, capture_output=True, timeout=60, check=False
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")
