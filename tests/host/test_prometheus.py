"""A real Prometheus: it scrapes a running daemon, answers the board, and tells of alerts that come and go."""

from __future__ import annotations

import asyncio
import json
import re
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import ClientSession, web
from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.programs import Daemon, workshop

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping

    from pytest_aiohttp import AiohttpServer

DEPLOY = Path(__file__).parents[2] / "deploy"
DEADLINE_S = 60
ALERTS_MOST = 1000

# Scrapes time out after an interval: a second is enough also for a machine that is busy.
CONFIG = """\
global:
  scrape_interval: 1s
  evaluation_interval: 1s
scrape_configs:
  - job_name: xcpmem
    static_configs: [{{targets: ['{target}']}}]
rule_files: [rules.yml]
alerting:
  alertmanagers:
    - static_configs: [{{targets: ['{alertmanager}']}}]
"""
# The last rule of the last group: once it fires, a scrape is stored and every rule was evaluated on it.
SEEN = """
      - alert: Seen
        expr: xcpmem:host_memory_available:ratio > 0
"""


class Alertmanager:
    """Takes what Prometheus sends to its Alertmanager, and waits for one alert among it."""

    def __init__(self) -> None:
        self._alerts: asyncio.Queue[Mapping[str, Any]] = asyncio.Queue(ALERTS_MOST)

    async def take(self, request: web.Request) -> web.Response:
        for alert in await request.json():
            self._alerts.put_nowait(alert)
        return web.Response()

    async def wait_for(self, name: str, *, resolved: bool = False) -> Mapping[str, Any]:
        """Take alerts until one of this name fires or, if so told, is over."""
        async with asyncio.timeout(DEADLINE_S):
            while True:
                alert = await self._alerts.get()
                is_over = datetime.fromisoformat(alert["endsAt"]) <= datetime.now(UTC)
                if alert["labels"]["alertname"] == name and is_over == resolved:
                    return alert


@dataclass(frozen=True)
class Prometheus:
    """A running server."""

    url: str
    client: ClientSession

    async def ask(self, path: str, **params: str) -> Any:
        async with self.client.get(f"{self.url}/api/v1/{path}", params=params) as answer:
            told = await answer.json()
        assert told["status"] == "success", (params, told)
        return told["data"]


@asynccontextmanager
async def prometheus(folder: Path, target: str, alertmanager: str) -> AsyncIterator[Prometheus]:
    """Run Prometheus with the shipped rules, in which no alert waits before it fires."""
    rules = (DEPLOY / "prometheus/xcpmem.rules.yml").read_text(encoding="utf-8")
    hasty = re.sub(r"\bfor: \d+[mh]\b", "for: 0s", rules)
    (folder / "rules.yml").write_text(hasty.rstrip() + SEEN, encoding="utf-8")
    config = folder / "prometheus.yml"
    config.write_text(CONFIG.format(target=target, alertmanager=alertmanager), encoding="utf-8")
    process = await asyncio.create_subprocess_exec(
        *("prometheus", f"--config.file={config}", f"--storage.tsdb.path={folder / 'data'}"),
        *("--web.listen-address=127.0.0.1:0", "--rules.alert.resend-delay=5s"),
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    try:
        async with asyncio.timeout(DEADLINE_S):
            said, address = "", None
            while address is None or "Server is ready" not in said:
                line = await process.stderr.readline()
                assert line, said
                said += line.decode()
                address = re.search(r'msg="Listening on" address=(\S+)', said)
        async with ClientSession() as client:
            yield Prometheus(f"http://{address[1]}", client)
    finally:
        with suppress(ProcessLookupError):
            process.terminate()
        await asyncio.wait_for(process.communicate(), DEADLINE_S)


@pytest.fixture
def folder() -> Iterator[Path]:
    with workshop() as shop:
        yield shop.folder


@pytest.fixture
async def alertmanager(aiohttp_server: AiohttpServer) -> tuple[Alertmanager, str]:
    """An Alertmanager and its address."""
    manager = Alertmanager()
    app = web.Application()
    app.router.add_post("/api/v2/alerts", manager.take)
    server = await aiohttp_server(app)
    return manager, f"127.0.0.1:{server.port}"


def daemon(folder: Path, port: int = 0) -> closing[Daemon]:
    words = ("--scenario", "quiet", "--state-dir", str(folder / "d"), "--listen", f"127.0.0.1:{port}")
    return closing(Daemon(folder, *words))


def names(samples: str) -> set[str]:
    return {sample.name for family in text_string_to_metric_families(samples) for sample in family.samples}


def board_queries(instance: str) -> Iterator[str]:
    """What Grafana would ask for a host, with all VMs chosen."""
    board = json.loads((DEPLOY / "grafana/xcpmem.json").read_text(encoding="utf-8"))
    for panel in board["panels"]:
        for target in panel.get("targets", ()):
            query = target["expr"].replace("$instance", instance).replace("$vm", "guest-1|guest-2")
            yield query.replace("$__rate_interval", "4s")


async def test_scrape_holds_every_series_and_rules_and_board_are_answered(
    folder: Path, alertmanager: tuple[Alertmanager, str]
) -> None:
    manager, address = alertmanager
    with daemon(folder) as served:
        instance = f"127.0.0.1:{served.port}"
        async with prometheus(folder, instance, address) as server:
            await manager.wait_for("Seen")
            stored = await server.ask("label/__name__/values", **{"match[]": '{job="xcpmem"}'})
            rendered = names(served.fetch("/metrics"))
            assert {"xcpmem_up", "xcpmem_cycles_total", "xcpmem_domain_memory_actual_bytes"} <= rendered
            assert rendered <= set(stored)

            rules = [rule for group in (await server.ask("rules"))["groups"] for rule in group["rules"]]
            assert [(rule["name"], rule["lastError"]) for rule in rules if rule["health"] != "ok"] == []
            firing = {rule["name"] for rule in rules if rule.get("state", "inactive") != "inactive"}
            assert firing == {"Seen"}

            for query in board_queries(instance):
                answer = await server.ask("query", query=query)
                assert answer["result"] or "[" in query, query  # a rate takes two scrapes and an event


async def test_alert_fires_when_the_daemon_is_killed_and_resolves_when_it_is_back(
    folder: Path, alertmanager: tuple[Alertmanager, str]
) -> None:
    manager, address = alertmanager
    with daemon(folder) as first:
        port = first.port
        async with prometheus(folder, f"127.0.0.1:{port}", address):
            await manager.wait_for("Seen")
            first.kill()
            fired = await manager.wait_for("XcpmemDown")
            assert fired["labels"]["severity"] == "critical"
            assert fired["annotations"]["summary"] == f"Nobody balances the memory of 127.0.0.1:{port}"
            with daemon(folder, port):
                resolved = await manager.wait_for("XcpmemDown", resolved=True)
            assert resolved["startsAt"] == fired["startsAt"]
