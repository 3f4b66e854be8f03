"""Why a VM has the target it has, in a sentence or two for people."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from xcpmem.engine.model import SetTarget
from xcpmem.units import format_bytes, format_kib

if TYPE_CHECKING:
    from xcpmem.engine.belief import Belief
    from xcpmem.engine.model import DomainState
    from xcpmem.report import CycleReport
    from xcpmem.vm import Vm

TELLING_PAUSE_S: Final = 1.0
"""A pause on the way that is not longer by this than the delay before is not worth a word."""


def explain(vm: Vm, report: CycleReport | None) -> str:
    """Explain a target.

    Args:
        vm: the record.
        report: the latest turn of the ring; None before the first.

    Returns:
        What is held and asked, the reason, what is known of the balloon driver, and who waits for memory.
    """
    domain = report.domain_by_uuid(vm.uuid) if report else None
    if report is None or domain is None:
        if vm.is_control_domain:
            return f"{vm.name_label} holds {format_bytes(vm.memory_actual)} and is not balanced."
        if vm.memory_suspended >= 0:
            held = format_bytes(vm.memory_suspended)
            return f"{vm.name_label} is suspended. When it is resumed it gets the {held} that it held."
        return (
            f"{vm.name_label} does not run. When it starts it gets {format_bytes(vm.memory_dynamic_min)} to "
            f"{format_bytes(vm.memory_dynamic_max)}, as much as its share then is."
        )
    reason = report.reasons[domain.domid]
    target_kib = _target_kib(domain, report)
    intent = ""
    if reason.target_kib != target_kib:
        who = "xcpmem only observes and would tell it" if report.observes else "it is yet to be told"
        intent = f"; {who} to hold {format_kib(reason.target_kib)}"
    sentences = [
        (
            f"{vm.name_label} (domain {domain.domid}) holds {format_kib(domain.actual_kib)}, its target is "
            f"{format_kib(target_kib)}{intent}: it {reason.text}."
        )
    ]
    description = report.look.descriptions.get(domain.domid)
    if description is not None and description.balloon_evidence:
        sentences.append(f"Balloon driver: {description.balloon_evidence}.")
    if domain.domid in report.beliefs:
        sentences += _habits(report.beliefs[domain.domid])
    if report.pending:
        wanted_kib = sum(request.min_kib for request in report.pending)
        sentences.append(
            f"{len(report.pending)} reservations of {format_kib(wanted_kib)} or more wait for memory."
        )
    return " ".join(sentences)


def _target_kib(domain: DomainState, report: CycleReport) -> int:
    """Give the target that stands: what the turn really told the domain, else what it was found with."""
    told = [each for each in report.actions if isinstance(each, SetTarget) and each.domid == domain.domid]
    return told[-1].target_kib if told else domain.target_kib


def _habits(belief: Belief) -> list[str]:
    """Tell how a guest was seen to behave, and what it says of itself."""
    habits = []
    if belief.rate_kib_s:
        habits.append(f"moves {format_kib(round(belief.rate_kib_s))} a second")
        habits.append(f"begins {belief.delay_s:.1f} s after it is asked")
    if belief.pause_s >= belief.delay_s + TELLING_PAUSE_S:
        habits.append(f"has paused for {belief.pause_s:.1f} s on the way")
    if belief.floor_kib is not None:
        habits.append(f"has stopped shrinking at {format_kib(belief.floor_kib)}")
    if belief.ceiling_kib is not None:
        habits.append(f"has stopped growing at {format_kib(belief.ceiling_kib)}")
    sentences = [f"The guest {', '.join(habits)}."] if habits else []
    if belief.is_ballooning is not None:
        sentences.append(f"Its driver says it is {'at work' if belief.is_ballooning else 'at rest'}.")
    return sentences
