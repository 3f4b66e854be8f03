"""Prometheus's own checker on what we render and ship."""

from __future__ import annotations

import subprocess
from pathlib import Path

from xcpmem.engine.model import DomainState, DynamicRange, HostState, SetTarget
from xcpmem.errors import DriverTimeout
from xcpmem.metrics import Metrics, Sources
from xcpmem.report import CycleReport, Failure
from xcpmem.xen.driver import DomainDescription, Look

RULES = Path(__file__).parents[2] / "deploy/prometheus"
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


def promtool(*words: str) -> tuple[int, str]:
    """Run it on the shipped rules; give its status and all that it says."""
    done = subprocess.run(
        ["promtool", *words], cwd=RULES, capture_output=True, text=True, timeout=60, check=False
    )
    return done.returncode, done.stdout + done.stderr


def test_promtool_finds_nothing_to_say_about_the_rules() -> None:
    status, said = promtool("check", "rules", "--lint=all", "--lint-fatal", "xcpmem.rules.yml")
    rules = (RULES / "xcpmem.rules.yml").read_text(encoding="utf-8").count(" expr: ")
    assert rules >= 10
    assert (status, said) == (0, f"Checking xcpmem.rules.yml\n  SUCCESS: {rules} rules found\n\n")


def test_each_alert_fires_and_resolves_in_its_rule_test() -> None:
    status, said = promtool("test", "rules", "xcpmem.test.yml")
    assert status == 0, said
    assert "SUCCESS" in said
