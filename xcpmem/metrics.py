"""What Prometheus sees: the latest report and a few counters, rendered when it asks.

The only importer of prometheus_client. Host and domain series are made from the last `CycleReport` at the
moment of the scrape, so none can outlive its domain; while the host cannot be seen they are absent and
``xcpmem_up`` is 0. Sizes are bytes. Label values that come from outside are either escaped (names) or
replaced by ``unknown`` (methods, statuses), so that nobody can grow the number of series.
"""

from __future__ import annotations

import platform
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol, get_args

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from xcpmem import __version__
from xcpmem.engine.model import Action, BalloonState
from xcpmem.errors import XcpmemError
from xcpmem.units import kib_to_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

    from prometheus_client import Metric

    from xcpmem.engine.model import DomainState, HostState
    from xcpmem.report import CycleReport

_OPEN_METRICS: Final = "application/openmetrics-text"
_END: Final = b"# EOF\n"
_UNKNOWN: Final = "unknown"
_SUCCESS: Final = "success"
_LOOK: Final = "look"
_TURN_BUCKETS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
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

_DOMAIN_GAUGES: Final[tuple[tuple[str, str, Callable[[DomainState], int]], ...]] = (
    ("actual", "Memory the domain holds.", lambda domain: domain.actual_kib),
    ("target", "Memory the domain was last told to hold.", lambda domain: domain.target_kib),
    ("dynamic_min", "Least memory the balancer may leave it.", lambda domain: domain.dynamic_range.min_kib),
    ("dynamic_max", "Most memory the balancer may give it.", lambda domain: domain.dynamic_range.max_kib),
    ("maxmem", "Most memory Xen lets it hold.", lambda domain: domain.maxmem_kib),
)


def _spoken(name: str) -> str:
    """Turn a class's name into a label value: ``SetMaxmem`` to ``set_maxmem``."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


def _codes(root: type[XcpmemError]) -> Iterator[str]:
    yield root.code
    for child in root.__subclasses__():
        yield from _codes(child)


_ACTION_KINDS: Final = {kind.__name__: _spoken(kind.__name__) for kind in get_args(Action)}
_STATUSES: Final = frozenset({_SUCCESS, *_codes(XcpmemError)})


class VmFacts(Protocol):
    """What the series show of a VM record; sizes bytes."""

    @property
    def name_label(self) -> str:
        """The name that the administrator gave it."""

    @property
    def memory_static_min(self) -> int:
        """Least memory it may be started with."""

    @property
    def memory_static_max(self) -> int:
        """Most memory it may ever have."""


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
        self._registry = CollectorRegistry()
        self._state = _StateCollector(sources)
        self._registry.register(self._state)
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
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
        self._calls = Counter(
            "xcpmem_rpc_requests",
            "Calls that were answered: success, or the XenAPI error's code.",
            ["method", "status"],
            registry=self._registry,
        )
        self._call_duration = Histogram(
            "xcpmem_rpc_request_duration_seconds",
            "How long a call took, its waiting included.",
            ["method"],
            buckets=_CALL_BUCKETS_S,
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
        for action in report.actions:
            self._actions.labels(_ACTION_KINDS[type(action).__name__]).inc()

    def observe_rpc(self, method: str, status: str, duration_s: float) -> None:
        """Take note of an answered call.

        Args:
            method: as the client spelled it, ``VM.get_all``.
            status: ``success`` or the error's code, ``SESSION_INVALID``.
            duration_s: seconds, 0 or more.
        """
        known = method if method in self._methods else _UNKNOWN
        self._calls.labels(known, status if status in _STATUSES else _UNKNOWN).inc()
        self._call_duration.labels(known).observe(duration_s)

    def render(self, accept: str | None = None) -> tuple[bytes, str]:
        """Write all series.

        Args:
            accept: the request's Accept header; OpenMetrics is written if it is named there.

        Returns:
            The body and its Content-Type.
        """
        names = {part.partition(";")[0].strip().lower() for part in (accept or "").split(",")}
        encode, content_type = choose_encoder(_OPEN_METRICS if _OPEN_METRICS in names else "")
        body, report = encode(self._registry), self._state.visible_report
        if report is None:
            return body, content_type
        end = _END if body.endswith(_END) else b""
        lines = _DomainLines(self._sources, report).write().encode()
        return b"".join((body.removesuffix(_END), lines, end)), content_type


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


class _DomainLines:
    """Writes the domain series itself: a thousand domains are 8,000 lines, at which the library takes 0.1 s.

    Gauges look the same in Prometheus's text and in OpenMetrics.

    Args:
        sources: for the VM records and the policy's name.
        report: a turn that saw the host.
    """

    def __init__(self, sources: Sources, report: CycleReport) -> None:
        self._report = report
        self._policy = _escape(sources.policy())
        self._vms = sources.vms()
        self._labels = {d.domid: f'domid="{d.domid}",vm_uuid="{d.uuid}"' for d in report.look.host.domains}

    def write(self) -> str:
        """Write all families, each with its domains in the order of their domids."""
        domains = self._report.look.host.domains
        lines = list(_head("info", "What a domain is; 1 for each."))
        lines += [f"xcpmem_domain_info{{{self._info(domain)}}} 1" for domain in domains]
        for name, about, read_kib in _DOMAIN_GAUGES:
            sizes = ((domain, kib_to_bytes(read_kib(domain))) for domain in domains)
            lines += self._family(f"memory_{name}_bytes", about, sizes)
        for name, about, read_bytes in (
            ("static_min", "Least memory the VM may be started with.", self._static_min),
            ("static_max", "Most memory the VM may ever have.", self._static_max),
        ):
            known = ((domain, read_bytes(domain)) for domain in domains)
            lines += self._family(f"memory_{name}_bytes", about, known)
        free = ((domain, self._guest_free(domain)) for domain in domains)
        lines += self._family("memory_guest_free_bytes", "Memory that its agent says is free inside.", free)
        stuck = ((domain, self._is_stuck(domain)) for domain in domains)
        lines += self._family("balloon_stuck", "Whether the domain stopped short of its target.", stuck)
        return "\n".join(lines) + "\n"

    def _family(
        self, name: str, about: str, values: Iterable[tuple[DomainState, int | None]]
    ) -> Iterator[str]:
        yield from _head(name, about)
        for domain, value in values:
            if value is not None:
                yield f"xcpmem_domain_{name}{{{self._labels[domain.domid]}}} {value}"

    def _info(self, domain: DomainState) -> str:
        vm = self._vms.get(domain.uuid)
        description = self._report.look.descriptions.get(domain.domid)
        name_label = vm.name_label if vm else description.name_label if description else ""
        is_control_domain = "true" if domain.domid == 0 else "false"
        return (
            f'{self._labels[domain.domid]},is_control_domain="{is_control_domain}",'
            f'name_label="{_escape(name_label)}",policy="{self._policy}"'
        )

    def _static_min(self, domain: DomainState) -> int | None:
        vm = self._vms.get(domain.uuid)
        return vm.memory_static_min if vm else None

    def _static_max(self, domain: DomainState) -> int | None:
        vm = self._vms.get(domain.uuid)
        if vm is not None:
            return vm.memory_static_max
        description = self._report.look.descriptions.get(domain.domid)
        return kib_to_bytes(description.static_max_kib) if description else None

    def _guest_free(self, domain: DomainState) -> int | None:
        description = self._report.look.descriptions.get(domain.domid)
        if description is None or description.guest_free_kib is None:
            return None
        return kib_to_bytes(description.guest_free_kib)

    def _is_stuck(self, domain: DomainState) -> int:
        reason = self._report.reasons.get(domain.domid)
        return int(reason is not None and reason.state is BalloonState.STUCK)


def _head(name: str, about: str) -> tuple[str, str]:
    return f"# HELP xcpmem_domain_{name} {about}", f"# TYPE xcpmem_domain_{name} gauge"


def _escape(text: str) -> str:
    """Escape a label's value as both formats ask; lone surrogates, which UTF-8 cannot write, are replaced."""
    plain = text.encode("utf-8", "replace").decode("utf-8")
    return plain.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
