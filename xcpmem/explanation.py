"""Why a VM has the target it has, in a sentence or two for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xcpmem.units import format_bytes, format_kib

if TYPE_CHECKING:
    from xcpmem.report import CycleReport
    from xcpmem.vm import Vm


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
        return (
            f"{vm.name_label} does not run. When it starts it gets {format_bytes(vm.memory_dynamic_min)} to "
            f"{format_bytes(vm.memory_dynamic_max)}, as much as its share then is."
        )
    reason = report.reasons[domain.domid]
    sentences = [
        (
            f"{vm.name_label} (domain {domain.domid}) holds {format_kib(domain.actual_kib)}, its target is "
            f"{format_kib(reason.target_kib)}: it {reason.text}."
        )
    ]
    description = report.look.descriptions.get(domain.domid)
    if description is not None and description.balloon_evidence:
        sentences.append(f"Balloon driver: {description.balloon_evidence}.")
    if report.pending:
        wanted_kib = sum(request.min_kib for request in report.pending)
        sentences.append(
            f"{len(report.pending)} reservations of {format_kib(wanted_kib)} or more wait for memory."
        )
    return " ".join(sentences)
