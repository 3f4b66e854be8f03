"""Writes what is to be counted of policies: their failures and regrets, and what the others would do.

The targets of the policies that are not in force are gauges of each domain, a line for each domain and
policy; they are made as text, for the library takes a hundred times as long.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from xcpmem.units import kib_to_bytes

if TYPE_CHECKING:
    from collections.abc import Callable

    from xcpmem.engine.belief import Beliefs
    from xcpmem.report import CycleReport

_SHADOW: Final = "xcpmem_shadow_target_bytes"
_HEAD: Final = (
    f"# HELP {_SHADOW} What a policy that is not in force would have the domain hold.\n"
    f"# TYPE {_SHADOW} gauge\n"
)


COUNTERS: Final[tuple[tuple[str, str, Callable[[Beliefs], int]], ...]] = (
    (
        "xcpmem_policy_failures",
        "Plans that the policy in force did not make, made too late or made badly.",
        lambda beliefs: beliefs.policy.failures_total,
    ),
    (
        "xcpmem_policy_regrets",
        "Times that a domain was shrunk and its guest stalled for memory within 30 s.",
        lambda beliefs: beliefs.regrets,
    ),
)
"""Name, words and reading of what is counted since the daemon started."""

SET_ASIDE: Final = (
    "xcpmem_policy_set_aside",
    "Whether the policy in force failed so often that XCP's rule decides in its place.",
)


def shadow_lines(report: CycleReport) -> bytes:
    """Write the targets of all policies that are not in force; nothing where none is run.

    One that errs has none: what is done in its place is not its own.

    Args:
        report: a turn that saw the host.
    """
    if not report.shadows:
        return b""
    lines = [_HEAD]
    for name, plan in report.shadows.items():
        if plan.trouble:
            continue
        for domain in report.look.host.domains:
            target_kib = plan.targets_kib.get(domain.domid)
            if target_kib is not None:
                labels = f'policy="{name}",domid="{domain.domid}",vm_uuid="{domain.uuid}"'
                lines.append(f"{_SHADOW}{{{labels}}} {kib_to_bytes(target_kib)}\n")
    return "".join(lines).encode()
