"""What Prometheus sees: the latest report and a few counters, rendered when it asks.

The only importer of prometheus_client. Host and domain series are made from the last `CycleReport` at the
moment of the scrape, so none can outlive its domain; while the host cannot be seen they are absent and
``xcpmem_up`` is 0. Sizes are bytes. Label values that come from outside are either escaped (names) or
replaced by ``unknown`` (methods, statuses), so that nobody can grow the number of series.
Notes are taken in the loop, a scrape is rendered in a thread of its own (`Metrics.scrape`), and what nothing
was noted of since the last one is not rendered again.
"""

from __future__ import annotations

import asyncio
import platform
import re
from collections import Counter as Numbers
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, get_args

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from xcpmem import __version__
from xcpmem.call_tally import HUNG_UP, SUCCESS, CallTally
from xcpmem.domain_series import DomainSeries
from xcpmem.engine.model import Action
from xcpmem.errors import XcpmemError
from xcpmem.policy_series import COUNTERS, SET_ASIDE, shadow_lines
from xcpmem.units import kib_to_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping

    from prometheus_client import Metric

    from xcpmem.domain_series import VmFacts
    from xcpmem.engine.model import HostState
    from xcpmem.report import CycleReport

_OPEN_METRICS: Final = "application/openmetrics-text"
_END: Final = b"# EOF\n"
_UNKNOWN: Final = "unknown"
_LOOK: Final = "look"
_TURN_BUCKETS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
_EXCHANGE_BUCKETS_S: Final = (0.0001, 0.00025, 0.0005, *_TURN_BUCKETS_S)  # xenstored answers in 0.1 ms
_CALL_BUCKETS_S: Final = (*_TURN_BUCKETS_S, 10.0, 60.0)  # a reservation may wait 60 s for its guests

_HOST_GAUGES: Final[tuple[tuple[str, str, Callable[[HostState], int]], ...]] = (
    ("total", "Physical memory that xcpmem may count.", lambda host: host.total_kib),
    (
        "free",
        "Memory that is free, what Xen still cleans included.",
        lambda host: host.free_kib + host.scrub_kib,
    ),
    ("reserved", "Memory set aside by reservations for domains to come.", lambda host: host.reserved_kib),
    (
        "reclaimed",
        "Memory that domains would have at dynamic-max and were asked to do without.",
        lambda host: sum(max(0, d.dynamic_range.max_kib - d.target_kib) for d in host.domains),
    ),
    (
        "reclaimable",
        "Memory that domains could still be asked for before all are at dynamic-min.",
        lambda host: sum(max(0, d.target_kib - d.dynamic_range.min_kib) for d in host.domains),
    ),
)


def _spoken(name: str) -> str:
    """Turn a class's name into a label value: ``SetMaxmem`` to ``set_maxmem``."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


def _codes(root: type[XcpmemError]) -> Iterator[str]:
    yield root.code
    for child in root.__subclasses__():
        yield from _codes(child)


_ACTION_KINDS: Final = {kind.__name__: _spoken(kind.__name__) for kind in get_args(Action)}
_STATUSES: Final = frozenset({SUCCESS, HUNG_UP, *_codes(XcpmemError)})


def _no_vms() -> Mapping[str, VmFacts]:
    return {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """Where the numbers come from that no report carries; each is called at a scrape.

    Args:
        driver: ``simulated`` or ``xen``.
        policy: name of the policy that divides the memory.
        vms: the VM records by uuid.
        host_overhead_bytes: what Xen and the toolstack keep for themselves.
        sessions: open XenAPI sessions.
        login_failures: since the daemon started.
        xenstore_reconnects: since the daemon started.
        methods: names of the messages that are served; others are counted as ``unknown``.
    """

    driver: str
    policy: Callable[[], str] = str
    vms: Callable[[], Mapping[str, VmFacts]] = _no_vms
    host_overhead_bytes: Callable[[], int] = int
    sessions: Callable[[], int] = int
    login_failures: Callable[[], int] = int
    xenstore_reconnects: Callable[[], int] = int
    methods: Collection[str] = frozenset()


class Metrics:
    """Takes note of turns and calls, and renders everything for Prometheus.

    Args:
        sources: the rest of the numbers.
    """

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._methods = frozenset(sources.methods)
        self._thread = ThreadPoolExecutor(1, "scrape")  # one: what is remembered has one reader and writer
        self._domains = DomainSeries(sources.vms, sources.policy)
        self._state = _StateCollector(sources)
        self._registry = CollectorRegistry()
        self._registry.register(self._state)
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        self._calls = CallTally(_CALL_BUCKETS_S)
        self._of_calls = CollectorRegistry()  # 16 lines for each method: apart from what each turn changes
        self._of_calls.register(_CallCollector(self._calls))
        self._rendered: dict[str, tuple[int, bytes]] = {}
        self._cycles = Counter(
            "xcpmem_cycles",
            "Turns of the ring: ok, partial (an action failed) or failed (the host could not be seen).",
            ["result"],
            registry=self._registry,
        )
        for result in ("ok", "partial", "failed"):
            self._cycles.labels(result)
        self._cycle_duration = Histogram(
            "xcpmem_cycle_duration_seconds",
            "How long a turn took, from look to publication.",
            buckets=_TURN_BUCKETS_S,
            registry=self._registry,
        )
        self._actions = Counter(
            "xcpmem_plan_actions",
            "Actions that were carried out on the host.",
            ["kind"],
            registry=self._registry,
        )
        for kind in _ACTION_KINDS.values():
            self._actions.labels(kind)
        self._failures = Counter(
            "xcpmem_action_failures",
            "Looks and actions that the host refused or did not answer.",
            ["kind", "reason"],
            registry=self._registry,
        )
        self._exchange_duration = Histogram(
            "xcpmem_xenstore_request_duration_seconds",
            "How long xenstored took to answer what was asked of it at once: one request or a batch.",
            buckets=_EXCHANGE_BUCKETS_S,
            registry=self._registry,
        )

    def observe_cycle(self, report: CycleReport) -> None:
        """Take note of a turn; to be subscribed to the controller."""
        self._state.report = report
        result = "ok"
        for failure in report.failures:
            kind = _ACTION_KINDS.get(failure.kind, _LOOK)
            result = "failed" if kind == _LOOK else "partial"
            self._failures.labels(kind, _spoken(failure.reason)).inc()
        self._cycles.labels(result).inc()
        self._cycle_duration.observe(report.duration_s)
        for kind, number in Numbers(type(action).__name__ for action in report.actions).items():
            self._actions.labels(_ACTION_KINDS[kind]).inc(number)

    def observe_rpc(self, method: str, status: str, duration_s: float) -> None:
        """Take note of an answered call.

        Args:
            method: as the client spelled it, ``VM.get_all``.
            status: ``success`` or the error's code, ``SESSION_INVALID``.
            duration_s: seconds, 0 or more.
        """
        self._calls.note(
            method if method in self._methods else _UNKNOWN,
            status if status in _STATUSES else _UNKNOWN,
            duration_s,
        )

    def observe_exchange(self, duration_s: float) -> None:
        """Take note of an exchange with xenstored, answered or not; seconds."""
        self._exchange_duration.observe(duration_s)

    async def scrape(self, accept: str | None = None) -> tuple[bytes, str]:
        """Render in the thread for it: as `render`."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self.render, accept)

    def close(self) -> None:
        """End the thread; scrapes that are under way are finished."""
        self._thread.shutdown()

    def render(self, accept: str | None = None) -> tuple[bytes, str]:
        """Write all series.

        Args:
            accept: the request's Accept header; OpenMetrics is written if it is named there.

        Returns:
            The body and its Content-Type.
        """
        names = {part.partition(";")[0].strip().lower() for part in (accept or "").split(",")}
        encode, content_type = choose_encoder(_OPEN_METRICS if _OPEN_METRICS in names else "")
        report = self._state.visible_report
        body = encode(self._registry)
        end = _END if body.endswith(_END) else b""
        domains = b"" if report is None else self._domains.write(report)
        shadows = b"" if report is None else shadow_lines(report)
        parts = (body.removesuffix(_END), self._render_calls(encode, content_type), domains, shadows, end)
        return b"".join(parts), content_type

    def _render_calls(self, encode: Callable[[CollectorRegistry], bytes], content_type: str) -> bytes:
        """Write the series of calls, or give what was written when there was no call since."""
        noted = self._calls.noted
        rendered_at, body = self._rendered.get(content_type, (-1, b""))
        if rendered_at != noted:
            body = encode(self._of_calls).removesuffix(_END)
            self._rendered[content_type] = noted, body
        return body


class _CallCollector(Collector):
    """Makes the series of calls, at each scrape before which there were some."""

    def __init__(self, tally: CallTally) -> None:
        self._tally = tally

    def describe(self) -> Iterator[Metric]:
        """Name nothing before the first scrape."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """Make both."""
        requests = CounterMetricFamily(
            "xcpmem_rpc_requests",
            "Calls that ended: success, the XenAPI error's code, or hung_up where the client had gone.",
            labels=["method", "status"],
        )
        for answer, number in self._tally.answers().items():
            requests.add_metric(answer, number)
        yield requests
        took = HistogramMetricFamily(
            "xcpmem_rpc_request_duration_seconds",
            "How long a call took, its waiting included.",
            labels=["method"],
        )
        for method, durations in self._tally.durations().items():
            buckets = list(zip((*map(str, _CALL_BUCKETS_S), "+Inf"), durations.cumulated(), strict=True))
            took.add_metric([method], buckets, durations.sum_s)
        yield took


class _StateCollector(Collector):
    """Makes the series of daemon and host from the last report and the sources, at each scrape."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        self.report: CycleReport | None = None

    @property
    def visible_report(self) -> CycleReport | None:
        """The last report, if its turn saw the host."""
        if self.report is None or any(failure.kind not in _ACTION_KINDS for failure in self.report.failures):
            return None
        return self.report

    def describe(self) -> Iterator[Metric]:
        """Name nothing before the first scrape: the sources may not be ready."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """Make everything that is no counter of `Metrics` itself."""
        sources, report = self._sources, self.report
        facts = {"version": __version__, "python": platform.python_version(), "driver": sources.driver}
        yield InfoMetricFamily("xcpmem_build", "What is running.", facts)
        yield _gauge(
            "xcpmem_up", "Whether the last look at the host worked.", int(self.visible_report is not None)
        )
        yield _gauge("xcpmem_sessions", "Open XenAPI sessions.", sources.sessions())
        yield CounterMetricFamily(
            "xcpmem_login_failures", "Logins with a wrong user or password.", sources.login_failures()
        )
        yield CounterMetricFamily(
            "xcpmem_xenstore_reconnects",
            "Times the connection to xenstored was lost and made again.",
            sources.xenstore_reconnects(),
        )
        if report is not None:
            yield _gauge(
                "xcpmem_cycle_last_success_timestamp_seconds",
                "When the host was last seen, Unix time.",
                report.time_s,
            )
            dropped = CounterMetricFamily(
                "xcpmem_guest_reports_dropped",
                "Guests' own reports that could not be read (malformed) or not be true (absurd).",
                labels=["reason"],
            )
            for reason, number in report.look.dropped_reports.items():
                dropped.add_metric([reason], number)
            yield dropped
            beliefs = report.stance.beliefs
            for name, about, read in COUNTERS:
                yield CounterMetricFamily(name, about, read(beliefs))
            yield _gauge(*SET_ASIDE, int(beliefs.policy.is_set_aside))
        if self.visible_report is not None:
            yield from self._host_series(self.visible_report.look.host)

    def _host_series(self, host: HostState) -> Iterator[Metric]:
        for name, about, read_kib in _HOST_GAUGES:
            yield _gauge(f"xcpmem_host_memory_{name}_bytes", about, kib_to_bytes(read_kib(host)))
        yield _gauge(
            "xcpmem_host_memory_overhead_bytes",
            "Memory that Xen and its toolstack keep for themselves.",
            self._sources.host_overhead_bytes(),
        )


def _gauge(name: str, about: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, about, value)
