"""What is shipped for the host fits what is built: the unit, the alerts, the board and their guide."""

from __future__ import annotations

import json
import re
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.builders import a_domain, a_host, uuid_of
from xcpmem.api.cli_catalog import COMMANDS
from xcpmem.api.connections import ConnectionLimits
from xcpmem.assembly import SHUTDOWN_S
from xcpmem.call_tally import HUNG_UP
from xcpmem.client import SYSTEM_SOCKET
from xcpmem.config import DriverKind, parse_command_line
from xcpmem.engine.model import SetTarget
from xcpmem.errors import DriverTimeout, SessionInvalid
from xcpmem.metrics import Metrics, Sources
from xcpmem.notify import watchdog_interval_s
from xcpmem.report import CycleReport, Failure
from xcpmem.sentences import KINDS
from xcpmem.squeezedconf import SOCKET, SWITCH
from xcpmem.vm import Vm
from xcpmem.xen.driver import DomainDescription, Look

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

DEPLOY = Path(__file__).parents[2] / "deploy"
RULES = (DEPLOY / "prometheus/xcpmem.rules.yml").read_text(encoding="utf-8")
RULE_TESTS = (DEPLOY / "prometheus/xcpmem.test.yml").read_text(encoding="utf-8")
BOARD: dict[str, Any] = json.loads((DEPLOY / "grafana/xcpmem.json").read_text(encoding="utf-8"))
UNIT = (DEPLOY / "xcpmemd.service").read_text(encoding="utf-8")
GUIDE = (DEPLOY / "README.md").read_text(encoding="utf-8")

ALERTS = (
    *("XcpmemDown", "XcpmemCycleStale", "XcpmemHostMemoryLow", "XcpmemDomainStuck"),
    *("XcpmemDomainPinnedAtMinimum", "XcpmemActionFailures", "XcpmemPolicySetAside"),
    "XcpmemLoginFailures",
)
# Prometheus adds these itself: to all that it scrapes, and of alerts.
PROMETHEUS_SERIES = {"up", "ALERTS"}
PROMETHEUS_LABELS = {"job", "instance", "alertname", "alertstate"}

OURS = re.compile(r"(?<![\w:\"/.-])(?:xcpmem|process|python)_\w+")
SELECTOR = re.compile(r"([a-zA-Z_]\w*)\{([^}]*)\}")
MATCHER = re.compile(r"(\w+)\s*(=~|!~|!=|=)\s*\"([^\"]*)\"")
GROUPING = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)")


@cache
def registry() -> Mapping[str, Mapping[str, set[str]]]:
    """Every series that there can be, with its labels and their values here."""
    vm = Vm(
        uuid=uuid_of(1),
        name_label="web",
        memory_static_min=0,
        memory_static_max=2,
        memory_dynamic_min=1,
        memory_dynamic_max=1,
        memory_target=1,
    )
    metrics = Metrics(Sources(driver="xen", vms=lambda: {vm.uuid: vm}, methods=("VM.get_all", "event.from")))
    failures = (
        Failure.of(SetTarget(1, 1), DriverTimeout("late")),
        Failure.of(None, DriverTimeout("late")),
    )
    described = DomainDescription(1, uuid_of(1), "web", static_max_kib=2, guest_free_kib=1)
    look = Look(a_host(a_domain()), {1: described})
    metrics.observe_cycle(CycleReport(1, 1.7e9, 1.0, look, failures=failures))
    metrics.observe_cycle(CycleReport(2, 1.7e9, 1.0, look))
    metrics.observe_rpc("VM.get_all", "success", 0.1)
    metrics.observe_rpc("VM.get_all", SessionInvalid.code, 0.1)
    metrics.observe_rpc("event.from", HUNG_UP, 0.1)
    found: dict[str, dict[str, set[str]]] = {}
    for family in text_string_to_metric_families(metrics.render()[0].decode()):
        for sample in family.samples:
            labels = found.setdefault(sample.name, {})
            for key, value in sample.labels.items():
                labels.setdefault(key, set()).add(value)
    return found


def panels() -> list[dict[str, Any]]:
    return [panel for panel in BOARD["panels"] if panel["type"] != "row"]


def board_queries() -> Iterator[str]:
    yield from (target["expr"] for panel in panels() for target in panel["targets"])
    yield from (
        variable["query"]["query"]
        for variable in BOARD["templating"]["list"]
        if isinstance(variable["query"], dict)
    )


def rule_queries() -> list[str]:
    """The expressions, on one line or indented below."""
    return re.findall(r"^ +expr: (?:\|-\n)?((?:.+\n)(?:^ {10,}.+\n)*)", RULES, flags=re.MULTILINE)


def queries() -> list[str]:
    return [*rule_queries(), *board_queries()]


def alerts() -> dict[str, str]:
    """The text of each alert's rule, by its name."""
    _, *texts = re.split(r"^ +- alert: ", RULES, flags=re.MULTILINE)
    return {text.partition("\n")[0]: text for text in texts}


# Users' own boards and alerts rely on these.
PROMISED = """
xcpmem_build_info xcpmem_up xcpmem_sessions xcpmem_login_failures_total
xcpmem_host_memory_{total,free,reserved,overhead,reclaimed,reclaimable}_bytes
xcpmem_domain_info xcpmem_domain_balloon_stuck
xcpmem_domain_memory_{actual,target,static_min,dynamic_min,dynamic_max,static_max,maxmem,guest_free}_bytes
xcpmem_cycles_total xcpmem_cycle_duration_seconds_{bucket,sum,count}
xcpmem_cycle_last_success_timestamp_seconds xcpmem_plan_actions_total xcpmem_action_failures_total
xcpmem_policy_failures_total xcpmem_policy_regrets_total xcpmem_policy_set_aside
xcpmem_rpc_requests_total xcpmem_rpc_request_duration_seconds_{bucket,sum,count}
xcpmem_xenstore_reconnects_total xcpmem_xenstore_request_duration_seconds_{bucket,sum,count}
"""


def promised() -> Iterator[str]:
    for name in PROMISED.split():
        head, _, rest = name.partition("{")
        choices, _, tail = rest.partition("}")
        yield from (f"{head}{choice}{tail}" for choice in choices.split(","))


def test_every_promised_series_is_there() -> None:
    assert len(set(promised())) == 38
    assert set(promised()) <= registry().keys()


def test_registry_for_these_tests_has_what_is_made_in_all_ways() -> None:
    assert {"set_target", "look"} <= registry()["xcpmem_action_failures_total"]["kind"]
    assert registry()["xcpmem_domain_info"]["name_label"] == {"web"}
    assert {"xcpmem_host_memory_free_bytes", "xcpmem_domain_memory_static_min_bytes"} <= registry().keys()
    assert "process_resident_memory_bytes" in registry()


def test_expressions_of_the_rules_are_all_found() -> None:
    assert len(rule_queries()) == RULES.count("expr:") == len(ALERTS) + 2


def test_rules_and_board_name_only_series_that_exist() -> None:
    named = {name for text in (RULES, RULE_TESTS, *board_queries()) for name in OURS.findall(text)}
    assert len(named) > 20
    assert named <= registry().keys()


def test_rules_and_board_choose_by_labels_and_values_that_exist() -> None:
    chosen = [selector for query in queries() for selector in SELECTOR.findall(query)]
    assert len(chosen) > 30
    for name, matchers in chosen:
        assert name in registry().keys() | PROMETHEUS_SERIES
        for label, operator, value in MATCHER.findall(matchers):
            if label in PROMETHEUS_LABELS or "$" in value:
                assert label in registry().get(name, {}).keys() | PROMETHEUS_LABELS
            else:
                assert operator in {"=", "!="}
                assert value in registry()[name][label]


def test_rules_and_board_group_by_labels_that_exist() -> None:
    known = {label for labels in registry().values() for label in labels} | PROMETHEUS_LABELS
    groups = [group for query in queries() for group in GROUPING.findall(query)]
    assert len(groups) > 10
    assert {label.strip() for group in groups for label in group.split(",")} <= known


def test_alerts_are_the_agreed_ones_each_with_all_that_somebody_woken_by_it_needs() -> None:
    assert tuple(alerts()) == ALERTS
    for name, text in alerts().items():
        assert re.search(r"^ +for: \d+[mh]$", text, flags=re.MULTILINE), name
        assert re.search(r"^ +severity: (warning|critical)$", text, flags=re.MULTILINE), name
        assert re.search(r"^ +summary: .+\{\{ \$labels\.", text, flags=re.MULTILINE), name
        assert re.search(r"^ +description: >-$", text, flags=re.MULTILINE), name
        assert f"/deploy/README.md#{name.lower()}\n" in text
        assert f"\n### {name}\n" in GUIDE


@pytest.mark.parametrize("name", ALERTS)
def test_rule_tests_see_the_alert_fire_after_it_was_quiet_and_before_it_is_quiet_again(name: str) -> None:
    _, *cases = re.split(r"^  - name: ", RULE_TESTS, flags=re.MULTILINE)
    stories = []
    for case in cases:
        flow = re.findall(
            rf"\{{alertname: {name}, .*(exp_alerts: \[\])\}}|^ +- alertname: ({name})$", case, re.MULTILINE
        )
        stories.append(["fires" if fired else "quiet" for _, fired in flow])
    assert ["quiet", "fires", "quiet"] in stories


def test_board_belongs_to_no_grafana_in_particular() -> None:
    assert BOARD["uid"] == "xcpmem"
    assert BOARD["id"] is None
    assert isinstance(BOARD["schemaVersion"], int)
    assert [panel["title"] for panel in BOARD["panels"] if "id" in panel] == []
    variables = {variable["name"]: variable for variable in BOARD["templating"]["list"]}
    assert list(variables) == ["datasource", "instance", "vm"]
    assert variables["datasource"]["type"] == "datasource"
    assert variables["datasource"]["query"] == "prometheus"
    asked = [variables["instance"], variables["vm"]]
    asked += [asker for panel in panels() for asker in (panel, *panel["targets"])]
    assert [a for a in asked if a["datasource"] != {"type": "prometheus", "uid": "${datasource}"}] == []


def test_board_asks_for_health_then_the_host_then_domains_then_the_api() -> None:
    rows = [panel["title"] for panel in BOARD["panels"] if panel["type"] == "row"]
    assert rows == ["Is it healthy?", "Host memory", "Domains", "API and daemon"]
    stacked = next(panel for panel in panels() if panel["title"] == "Who has what")
    assert stacked["fieldConfig"]["defaults"]["custom"]["stacking"]["mode"] == "normal"
    repeated = next(panel for panel in panels() if panel.get("repeat") == "vm")
    shown = {name for target in repeated["targets"] for name in OURS.findall(target["expr"])}
    assert shown - {"xcpmem_domain_info"} == {
        f"xcpmem_domain_memory_{kind}_bytes" for kind in ("target", "actual", "dynamic_min", "dynamic_max")
    }


def test_board_shows_sizes_as_bytes_and_explains_each_panel() -> None:
    sized = 0
    for panel in panels():
        assert panel["description"], panel["title"]
        names = {name for target in panel["targets"] for name in OURS.findall(target["expr"])}
        if any(name.endswith("_bytes") for name in names):
            sized += 1
            assert panel["fieldConfig"]["defaults"]["unit"] == "bytes", panel["title"]
        refs = [target["refId"] for target in panel["targets"]]
        assert len(set(refs)) == len(refs), panel["title"]
    assert sized > 5


def test_panels_of_the_board_lie_beside_each_other() -> None:
    places = {panel["title"]: panel["gridPos"] for panel in BOARD["panels"]}
    assert len(places) == len(BOARD["panels"])
    assert all(place["x"] + place["w"] <= 24 for place in places.values())
    overlapping = [
        (one, other)
        for (one, a), (other, b) in combinations(places.items(), 2)
        if a["x"] < b["x"] + b["w"]
        and b["x"] < a["x"] + a["w"]
        and a["y"] < b["y"] + b["h"]
        and b["y"] < a["y"] + a["h"]
    ]
    assert overlapping == []


def unit_setting(name: str) -> str:
    (value,) = re.findall(rf"^{name}=(.*)$", UNIT, flags=re.MULTILINE)
    return str(value)


def test_unit_starts_the_daemon_on_this_host_where_the_client_looks_for_it() -> None:
    program, *words = unit_setting("ExecStart").split()
    assert program == "/usr/bin/xcpmemd"
    words[words.index("/etc/xcpmem/xcpmem.toml")] = str(DEPLOY / "xcpmem.toml")
    settings = parse_command_line(words, environ={}, euid=0)
    assert settings.driver is DriverKind.XEN
    assert (
        str(settings.socket_path) == SYSTEM_SOCKET == f"/run/{unit_setting('RuntimeDirectory')}/xcpmem.sock"
    )
    assert str(settings.state_dir) == f"/var/lib/{unit_setting('StateDirectory')}"


def test_unit_waits_for_xenstored_and_stands_alone() -> None:
    assert unit_setting("Type") == "notify"
    assert "xenstored.service" in unit_setting("After").split()
    assert unit_setting("Conflicts").split() == [
        "squeezed.service",
        "xcpmem.service",
        "qubes-qmemman.service",
    ]


def test_unit_gives_the_daemon_the_time_and_the_descriptors_that_it_counts_on() -> None:
    limit_us = int(unit_setting("WatchdogSec")) * 1_000_000
    assert watchdog_interval_s({"WATCHDOG_USEC": str(limit_us)}) == 15
    assert float(unit_setting("TimeoutStopSec")) > 2 * SHUTDOWN_S
    assert int(unit_setting("LimitNOFILE")) >= 2 * ConnectionLimits().connections
    assert unit_setting("RestartPreventExitStatus") == "2"
    assert unit_setting("ExecReload") == "/bin/kill -HUP $MAINPID"
    assert int(unit_setting("OOMScoreAdjust")) == -900


def test_guide_names_only_commands_and_files_that_exist() -> None:
    commands = set(re.findall(r"\bxcpmem ((?:vm|host|pool)-[a-z-]+|explain)", GUIDE))
    assert len(commands) > 3
    assert commands <= COMMANDS.keys()
    files = re.findall(r"^\| `([\w./]+)` \|", GUIDE, flags=re.MULTILINE)
    assert len(files) > 3
    assert [name for name in files if not (DEPLOY / name).exists()] == []


def test_guide_explains_every_kind_of_sentence_in_the_log() -> None:
    table = re.findall(r"^\| (?:error|warning|info|debug) \|[^|]*\|([^|]*)\|$", GUIDE, flags=re.MULTILINE)
    assert len(table) == 4
    assert set(re.findall(r"`(\w+)`", "".join(table))) == KINDS


def test_units_differ_only_in_where_they_serve_and_write() -> None:
    def service(name: str) -> list[str]:
        text = (DEPLOY / name).read_text(encoding="utf-8")
        section = text.partition("[Service]\n")[2].partition("[Install]")[0]
        lines = [line for line in section.splitlines() if line and not line.startswith("#")]
        return [line for line in lines if not line.startswith(("ExecStart=", "ReadWritePaths="))]

    assert service("xapi/xcpmem.service") == service("xcpmemd.service")


def test_unit_under_xapi_serves_where_squeezed_did() -> None:
    text = (DEPLOY / "xapi/xcpmem.service").read_text(encoding="utf-8")
    assert f"--squeezed-socket {SOCKET} --message-switch {SWITCH}" in text
    assert "Alias=squeezed.service" in text
    conflicts = next(line for line in text.splitlines() if line.startswith("Conflicts="))
    assert "squeezed.service" not in conflicts
