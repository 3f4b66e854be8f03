"""Reservations that wait: which can be had at all, and which can be granted now."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xcpmem.engine.model import Granted, Refused, Reservation
from xcpmem.errors import DomainsUncooperative, NotEnoughMemory
from xcpmem.units import kib_to_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from xcpmem.engine.belief import Caution
    from xcpmem.engine.draft import Draft
    from xcpmem.engine.model import DomainState, MemoryRequest, Verdict
    from xcpmem.engine.parties import Party
    from xcpmem.engine.policy import Claim


def admit(
    requests: Sequence[MemoryRequest],
    budget_kib: int,
    parties: Sequence[tuple[DomainState, Claim]],
    verdicts: list[Verdict],
) -> list[MemoryRequest]:
    """Refuse what cannot be had even with everyone at the least that they can be made to hold.

    Args:
        requests: by arrival; an earlier one is served before a later one.
        budget_kib: what domains and requests can have together.
        parties: the domains that can be moved, with their claims.
        verdicts: refusals are added here; no target has moved for them.

    Returns:
        The requests that are possible together.
    """
    left_kib = budget_kib - sum(claim.low_kib for _, claim in parties)
    limited = [(domain, claim) for domain, claim in parties if claim.low_kib > claim.min_kib]
    withheld_kib = sum(claim.low_kib - claim.min_kib for _, claim in limited)
    possible = []
    for request in requests:
        if request.min_kib <= left_kib:
            possible.append(request)
            left_kib -= request.min_kib
        elif request.min_kib <= left_kib + withheld_kib:
            verdicts.append(_refuse(request, left_kib, [domain for domain, _ in limited]))
        else:
            verdicts.append(_refuse(request, left_kib, []))
    return possible


def grant(
    requests: Sequence[MemoryRequest],
    goals_kib: Sequence[int],
    draft: Draft,
    *,
    now_s: float,
    coming: bool,
    owing: Sequence[Party],
    caution: Caution,
    verdicts: list[Verdict],
) -> list[tuple[MemoryRequest, int]]:
    """Grant, by arrival, what is free now; end the wait of those for whom nothing more will come.

    Args:
        requests: the possible ones, by arrival.
        goals_kib: what the policy gives each of them.
        draft: where reservations are written.
        now_s: monotonic seconds.
        coming: whether memory is still on its way.
        owing: who still owes memory; who had time enough to give it is blamed when the wait is in vain.
        caution: how long guests are given.
        verdicts: grants and refusals are added here.

    Returns:
        The requests that wait on, each with what is kept for it, KiB.
    """
    waiting: list[tuple[MemoryRequest, int]] = []
    kept_kib = 0
    for request, goal_kib in zip(requests, goals_kib, strict=True):
        spare_kib = draft.spare_kib - kept_kib
        over = not coming or now_s >= request.deadline_s
        if spare_kib >= goal_kib or (over and spare_kib >= request.min_kib):
            size_kib = min(goal_kib, spare_kib)
            draft.reserve(
                Reservation(request.request_id, request.owner, size_kib, vm_uuid=request.vm_uuid),
            )
            verdicts.append(Granted(request.request_id, size_kib))
        elif over:
            blamed = [party.domain for party in owing if party.belief.is_in_debt(caution, request.wait_s)]
            verdicts.append(_refuse(request, spare_kib, blamed))
        else:
            waiting.append((request, goal_kib))
            kept_kib += goal_kib
    return waiting


def _refuse(request: MemoryRequest, available_kib: int, blamed: Sequence[DomainState]) -> Refused:
    """Refuse with those to blame; domain 0 is never blamed alone (squeezed does the same)."""
    domids = [domain.domid for domain in blamed]
    if domids and domids != [0]:
        return Refused(request.request_id, DomainsUncooperative(*map(str, domids)))
    error = NotEnoughMemory(kib_to_bytes(request.min_kib), kib_to_bytes(max(0, available_kib)))
    return Refused(request.request_id, error)
