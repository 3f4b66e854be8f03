"""Writes the series of the domains: a thousand of them are 10,000 lines, too many to make at each scrape.

Gauges look the same in Prometheus's text and in OpenMetrics, so the lines are made without the library, which
takes a hundred times as long. What a domain's lines say is made again only when something in them changed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from xcpmem.engine.model import BalloonState
from xcpmem.specs import MICROSECONDS_PER_SECOND
from xcpmem.units import kib_to_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from xcpmem.engine.model import DomainState
    from xcpmem.engine.sample import Sample
    from xcpmem.report import CycleReport
    from xcpmem.xen.driver import DomainDescription


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


class _Seen(NamedTuple):
    """All that a domain's lines are made of; equal ones make equal lines."""

    domain: DomainState
    name_label: str
    static_min_bytes: int | None
    static_max_bytes: int | None
    guest_free_bytes: int | None
    reported_s: int | None
    is_stuck: bool
    policy: str


def _kib(read_kib: Callable[[DomainState], int]) -> Callable[[_Seen], int]:
    return lambda seen: kib_to_bytes(read_kib(seen.domain))


def _said(read: Callable[[Sample], float | None]) -> Callable[[_Seen], float | None]:
    return lambda seen: None if seen.domain.sample is None else read(seen.domain.sample)


_GAUGES: Final[tuple[tuple[str, str, Callable[[_Seen], float | None]], ...]] = (
    ("memory_actual_bytes", "Memory the domain holds.", _kib(lambda d: d.actual_kib)),
    ("memory_target_bytes", "Memory the domain was last told to hold.", _kib(lambda d: d.target_kib)),
    (
        "memory_dynamic_min_bytes",
        "Least memory the balancer may leave it.",
        _kib(lambda d: d.dynamic_range.min_kib),
    ),
    (
        "memory_dynamic_max_bytes",
        "Most memory the balancer may give it.",
        _kib(lambda d: d.dynamic_range.max_kib),
    ),
    ("memory_maxmem_bytes", "Most memory Xen lets it hold.", _kib(lambda d: d.maxmem_kib)),
    (
        "memory_static_min_bytes",
        "Least memory the VM may be started with.",
        lambda seen: seen.static_min_bytes,
    ),
    ("memory_static_max_bytes", "Most memory the VM may ever have.", lambda seen: seen.static_max_bytes),
    (
        "memory_guest_free_bytes",
        "Memory that its agent says is free inside.",
        lambda seen: seen.guest_free_bytes,
    ),
    (
        "memory_guest_used_bytes",
        "Memory that its agent said is in use inside.",
        _said(lambda sample: kib_to_bytes(sample.used_kib)),
    ),
    (
        "memory_guest_swapped_bytes",
        "Memory that its agent said is on swap.",
        _said(lambda sample: kib_to_bytes(sample.swapped_kib)),
    ),
    (
        "guest_stall_seconds",
        "Time that its agent said programs have waited for memory since it booted.",
        _said(lambda sample: None if sample.stall_us is None else sample.stall_us / MICROSECONDS_PER_SECOND),
    ),
    (
        "guest_report_timestamp_seconds",
        "When its agent last said anything of its memory, Unix time.",
        lambda seen: seen.reported_s,
    ),
    ("balloon_stuck", "Whether the domain stopped short of its target.", lambda seen: int(seen.is_stuck)),
)
_INFO: Final = ("info", "What a domain is; 1 for each.")
_HEADS: Final = tuple(
    f"# HELP xcpmem_domain_{name} {about}\n# TYPE xcpmem_domain_{name} gauge\n"
    for name, about in (_INFO, *(gauge[:2] for gauge in _GAUGES))
)


class DomainSeries:
    """Writes the domains' lines, and remembers those of the last time.

    Args:
        vms: the VM records by uuid, read at each time of writing.
        policy: name of the policy that divides the memory.
    """

    def __init__(self, vms: Callable[[], Mapping[str, VmFacts]], policy: Callable[[], str]) -> None:
        self._vms = vms
        self._policy = policy
        self._written: dict[int, tuple[_Seen, tuple[str, ...]]] = {}
        self._text = b""

    def write(self, report: CycleReport) -> bytes:
        """Write all families, each with its domains in the order of their domids.

        Args:
            report: a turn that saw the host.
        """
        vms, policy = self._vms(), self._policy()
        before, self._written = self._written, {}
        changed = not self._text
        for domain in report.look.host.domains:
            seen = _see(domain, vms.get(domain.uuid), report, policy)
            known = before.get(domain.domid)
            if known is None or known[0] != seen:
                known, changed = (seen, _lines(seen)), True
            self._written[domain.domid] = known
        if changed or before.keys() != self._written.keys():
            lines = [known[1] for known in self._written.values()]
            families = zip(*lines, strict=True) if lines else ((),) * len(_HEADS)
            self._text = "".join(
                part for head, family in zip(_HEADS, families, strict=True) for part in (head, *family)
            ).encode()
        return self._text


def _see(domain: DomainState, vm: VmFacts | None, report: CycleReport, policy: str) -> _Seen:
    description = report.look.descriptions.get(domain.domid)
    reason = report.reasons.get(domain.domid)
    free_kib = description.guest_free_kib if description else None
    ago_s = None if domain.sample is None else report.monotonic_s - domain.sample.seen_s
    return _Seen(
        domain=domain,
        name_label=vm.name_label if vm else description.name_label if description else "",
        static_min_bytes=vm.memory_static_min if vm else None,
        static_max_bytes=vm.memory_static_max if vm else _booted_bytes(description),
        guest_free_bytes=None if free_kib is None else kib_to_bytes(free_kib),
        reported_s=None if ago_s is None else int(report.time_s - ago_s),
        is_stuck=reason is not None and reason.state is BalloonState.STUCK,
        policy=policy,
    )


def _booted_bytes(description: DomainDescription | None) -> int | None:
    return kib_to_bytes(description.static_max_kib) if description else None


def _lines(seen: _Seen) -> tuple[str, ...]:
    """Write a domain's line of each family, in the order of the heads; empty where nothing is known."""
    labels = f'domid="{seen.domain.domid}",vm_uuid="{seen.domain.uuid}"'
    is_control_domain = "true" if seen.domain.domid == 0 else "false"
    info = (
        f'xcpmem_domain_info{{{labels},is_control_domain="{is_control_domain}",'
        f'name_label="{_escape(seen.name_label)}",policy="{_escape(seen.policy)}"}} 1\n'
    )
    values = ((name, read(seen)) for name, _, read in _GAUGES)
    return (
        info,
        *("" if value is None else f"xcpmem_domain_{name}{{{labels}}} {value}\n" for name, value in values),
    )


def _escape(text: str) -> str:
    """Escape a label's value as both formats ask; lone surrogates, which UTF-8 cannot write, are replaced."""
    plain = text.encode("utf-8", "replace").decode("utf-8")
    return plain.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
