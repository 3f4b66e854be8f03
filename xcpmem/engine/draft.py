"""A plan while it is being written: the actions so far, and the host as it will be after them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from xcpmem.engine.model import RecordReservation, SetMaxmem, SetTarget

if TYPE_CHECKING:
    from collections.abc import Sequence

    from xcpmem.engine.model import Action, DomainState, HostState, Reservation
    from xcpmem.engine.tally import Tally

GROWTH_PORTIONS: Final = 32
"""While memory comes in, a growing guest gets it in portions of at least its range over this: each is a
write, and less would not make it arrive sooner."""


class Draft:
    """Actions in order, with the account of what they leave free and unpromised.

    Args:
        host: the look that the plan starts from.
        tally: of its domains; None: they are counted here.
        actions: what comes first, and moves no memory.
    """

    def __init__(self, host: HostState, tally: Tally | None = None, actions: Sequence[Action] = ()) -> None:
        self.actions: list[Action] = [*actions]
        self.spare_kib = host.spare_kib if tally is None else host.spare_by(tally)
        torn_kib = host.torn_kib if tally is None else host.torn_by(tally)
        self._unusable_kib = host.slush_kib + host.scrub_kib
        self._torn_kib = max(0, torn_kib)
        self._targets_kib: dict[int, int] = {}
        self._maxmems_kib: dict[int, int] = {}

    def target_kib(self, domain: DomainState) -> int:
        """Tell what the domain's target will be, KiB."""
        return self._targets_kib.get(domain.domid, domain.target_kib)

    def maxmem_kib(self, domain: DomainState) -> int:
        """Tell what the domain's maxmem will be, KiB."""
        return self._maxmems_kib.get(domain.domid, domain.maxmem_kib)

    def shrink(self, domain: DomainState, target_kib: int) -> None:
        """Ask for memory back at once; a domain that is to grow is left for `grow`.

        All are asked before the first is capped: the sooner a guest hears of it, the sooner it gives.
        """
        if target_kib < domain.target_kib:
            self._set_target(domain, target_kib)

    def cap(self, domain: DomainState, target_kib: int, *, keeps_maxmem: bool = False) -> None:
        """Lower the maxmem of a domain that is not to grow to its target, so that nothing is taken again.

        Args:
            domain: as seen.
            target_kib: where it is to be, KiB.
            keeps_maxmem: leave the maxmem of a domain at its target as it was found.
        """
        if target_kib > domain.target_kib or (target_kib == domain.target_kib and keeps_maxmem):
            return
        if domain.maxmem_kib > target_kib:
            self._set_maxmem(domain, target_kib)

    @property
    def excess_kib(self) -> int:
        """By how much more is promised than the host has; 0 as long as nobody else takes its memory.

        What a torn look explains is none: guests grew between the counts of their pages and of the free ones.
        If somebody else took so much, the looks that follow are no longer torn, and say so.
        """
        return max(0, -self.spare_kib - self._unusable_kib - self._torn_kib)

    def revoke(self, domains: Sequence[DomainState]) -> None:
        """Take back what more is promised than the host has, from each by its part of what it did not take.

        What they hold already, and what they need for their dynamic-min, stays theirs. While an HVM domain is
        being built, Xen's shadow pool for it counts twice, as others' and as set aside for it, so growing
        guests are held back by so much until it is complete, since nothing here tells one from the other.

        Args:
            domains: whose targets and maxmems may be lowered at once.
        """
        excess_kib = self.excess_kib
        least_kib = [max(domain.actual_kib, domain.bounds_kib[0]) for domain in domains]
        untaken_kib = [
            max(0, self._held_kib(domain) - least) for domain, least in zip(domains, least_kib, strict=True)
        ]
        all_kib = sum(untaken_kib)
        if not excess_kib or not all_kib:
            return
        left_kib = max(0, all_kib - excess_kib)
        kept = [
            (domain, least + untaken * left_kib // all_kib)
            for domain, least, untaken in zip(domains, least_kib, untaken_kib, strict=True)
            if untaken
        ]
        for domain, kept_kib in kept:
            if self.target_kib(domain) > kept_kib:
                self._set_target(domain, kept_kib)
        for domain, kept_kib in kept:
            self._set_maxmem(domain, kept_kib)

    def reserve(self, reservation: Reservation) -> None:
        """Set memory aside; it must be spare."""
        self.actions.append(RecordReservation(reservation))
        self.spare_kib -= reservation.size_kib

    def grow(self, wanted: Sequence[tuple[DomainState, int]], *, kept_kib: int) -> None:
        """Raise targets as far as spare memory reaches, each by its part of what is missing.

        A domain below its dynamic-min is raised at least that far or, if that is more than there is, not
        at all: a target never leaves the dynamic range. All are allowed more before the first is told, so
        that each kind of action can be carried out for all domains together.

        Args:
            wanted: domains and the targets they should end with, KiB.
            kept_kib: spare memory that others wait for.
        """
        growers = [
            (domain, target)
            for domain, target in wanted
            if target > self.target_kib(domain)
            or (target == self.target_kib(domain) and target > self.maxmem_kib(domain))
        ]
        costs_kib = [max(0, target - self._held_kib(domain)) for domain, target in growers]
        total_kib, spare_kib = sum(costs_kib), self.spare_kib - kept_kib
        raised: list[tuple[DomainState, int]] = []
        for (domain, target_kib), cost_kib in zip(growers, costs_kib, strict=True):
            if cost_kib == 0 or total_kib <= spare_kib:
                raised.append((domain, target_kib))
                self._allow(domain, target_kib)
            elif spare_kib > 0:
                low_kib, high_kib = domain.bounds_kib
                least_kib, width_kib = low_kib - self._held_kib(domain), high_kib - low_kib
                part_kib = max(cost_kib * spare_kib // total_kib, least_kib)
                worthwhile = part_kib * GROWTH_PORTIONS >= width_kib or part_kib == least_kib
                if worthwhile and part_kib <= self.spare_kib - kept_kib:
                    raised.append((domain, self._held_kib(domain) + part_kib))
                    self._allow(*raised[-1])
        for domain, target_kib in raised:
            self._tell(domain, target_kib)

    def grow_regardless(self, wanted: Sequence[tuple[DomainState, int]]) -> None:
        """Raise every target at once, whether the memory is there or not."""
        for domain, target_kib in wanted:
            if target_kib > self.target_kib(domain):
                self._allow(domain, target_kib)
                self._tell(domain, target_kib)

    def _allow(self, domain: DomainState, target_kib: int) -> None:
        if self.maxmem_kib(domain) < target_kib:
            self._set_maxmem(domain, target_kib)

    def _tell(self, domain: DomainState, target_kib: int) -> None:
        if self.target_kib(domain) < target_kib:
            self._set_target(domain, target_kib)

    def _held_kib(self, domain: DomainState) -> int:
        return max(domain.actual_kib, self.maxmem_kib(domain))

    def _set_target(self, domain: DomainState, target_kib: int) -> None:
        self.actions.append(SetTarget(domain.domid, target_kib))
        self._targets_kib[domain.domid] = target_kib

    def _set_maxmem(self, domain: DomainState, maxmem_kib: int) -> None:
        self.spare_kib += self._held_kib(domain) - max(domain.actual_kib, maxmem_kib)
        frees = maxmem_kib < self.maxmem_kib(domain)
        self.actions.append(SetMaxmem(domain.domid, maxmem_kib, frees))
        self._maxmems_kib[domain.domid] = maxmem_kib
