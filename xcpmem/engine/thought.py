"""What was thought of each domain in the last turn, to be thought again without effort.

Most domains are as they were at the last look, and what is made of the same by the same rules is the same. So
a turn takes over what it made before, where it was made of the very same objects: it costs little, and
whoever follows the turns sees by identity what is new. Of domains at rest only where they are to be is asked.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from xcpmem.engine.tally import Tally

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from xcpmem.engine.belief import Caution
    from xcpmem.engine.model import DomainState
    from xcpmem.engine.note import Note
    from xcpmem.engine.parties import Party
    from xcpmem.engine.policy import Division
    from xcpmem.engine.reasons import Reason


class Conclusion(NamedTuple):
    """Where a party is to be, sizes KiB; see `reason_to_move`."""

    target_kib: int
    wanted_kib: int
    goal_kib: int
    note: str | Note


class Thought(NamedTuple):
    """What was thought of one domain that can be moved.

    Args:
        party: as it took part.
        conclusion: what came of it.
        reason: of that.
        rests: whether nothing was to be done about it nor is to be learned of it, as long as it comes as the
            very same object.
    """

    party: Party
    conclusion: Conclusion
    reason: Reason
    rests: bool


Unsettled: TypeAlias = "tuple[Party, int, int]"
"""A party, where it is to be once memory is free, and what the policy gives it; KiB."""


@dataclass(frozen=True, slots=True)
class Recollection:
    """The last turn's thoughts.

    Args:
        caution: by which they were thought; others do not count.
        weights: under which, by VM uuid.
        domains: that were seen.
        tally: of them.
        parties: who took part, in the order of the domains.
        wanted_kib: what each party was to be told once memory is free, KiB.
        goals_kib: what the policy gave each, KiB.
        notes: of the policy, by domid.
        thoughts: by domid, of each party.
        restless: domids of those that did not rest.
    """

    caution: Caution | None = None
    weights: Mapping[str, int] = field(default_factory=dict)
    domains: Sequence[DomainState] = ()
    tally: Tally = field(default_factory=Tally)
    parties: Sequence[Party] = ()
    wanted_kib: Sequence[int] = ()
    goals_kib: Sequence[int] = ()
    notes: Mapping[int, str | Note] = field(default_factory=dict)
    thoughts: Mapping[int, Thought] = field(default_factory=dict)
    restless: frozenset[int] = frozenset()

    def of(self, caution: Caution) -> Mapping[int, Thought]:
        """Give the thoughts if they were thought by these thresholds."""
        return self.thoughts if caution == self.caution else {}

    def awake(self, domains: Sequence[DomainState], caution: Caution) -> list[DomainState]:
        """List the domains that did not rest in the last turn, or have changed since."""
        if caution != self.caution or len(domains) != len(self.domains):
            return list(domains)
        return [
            domain
            for domain, before in zip(domains, self.domains, strict=True)
            if domain is not before or domain.domid in self.restless
        ]

    def unsettled(
        self, parties: Sequence[Party], wanted_kib: Sequence[int], division: Division, caution: Caution
    ) -> list[Unsettled]:
        """List the parties that did not rest in the last turn, or are not to be where they rested.

        Args:
            parties: as they take part now.
            wanted_kib: what each is to be told once memory is free, KiB.
            division: what the policy gives them, and why.
            caution: the thresholds.
        """
        goals_kib = division.goals_kib
        if caution != self.caution or len(parties) != len(self.parties) or division.notes != self.notes:
            return list(zip(parties, wanted_kib, goals_kib, strict=False))
        columns = (parties, self.parties, wanted_kib, self.wanted_kib, goals_kib, self.goals_kib)
        return [
            (party, wanted, goal)
            for party, party_then, wanted, wanted_then, goal, goal_then in zip(*columns, strict=False)
            if party is not party_then
            or wanted != wanted_then
            or goal != goal_then
            or party.domain.domid in self.restless
        ]
