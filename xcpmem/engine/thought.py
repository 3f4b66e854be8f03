"""What was thought of each domain in the last turn, to be thought again without effort.

Most domains are as they were at the last look, and what is made of the same by the same rules is the same. So
a turn takes over what it made before, where it was made of the very same objects: it costs little, and
whoever follows the turns sees by identity what is new. Of domains at rest only where they are to be is asked.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from xcpmem.engine.belief import Caution
    from xcpmem.engine.model import DomainState
    from xcpmem.engine.note import Note
    from xcpmem.engine.parties import Party
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

    def holds(self, party: Party, target_kib: int, goal_kib: int, note: str | Note) -> bool:
        """Tell whether a party that rested is to stay there, for the same reason."""
        _, wanted_kib, before_kib, before_note = self.conclusion
        is_same = self.rests and self.party is party
        return is_same and wanted_kib == target_kib and before_kib == goal_kib and before_note == note


@dataclass(frozen=True, slots=True)
class Recollection:
    """The last turn's thoughts.

    Args:
        caution: by which they were thought; others do not count.
        weights: under which, by VM uuid.
        thoughts: by domid.
    """

    caution: Caution | None = None
    weights: Mapping[str, int] = field(default_factory=dict)
    thoughts: Mapping[int, Thought] = field(default_factory=dict)

    def of(self, caution: Caution) -> Mapping[int, Thought]:
        """Give the thoughts if they were thought by these thresholds."""
        return self.thoughts if caution == self.caution else {}

    def awake(self, domains: Iterable[DomainState], caution: Caution) -> list[DomainState]:
        """List the domains that did not rest in the last turn, or have changed since."""
        thoughts = self.of(caution)
        return [
            domain
            for domain in domains
            if (thought := thoughts.get(domain.domid)) is None
            or not thought.rests
            or thought.party.domain is not domain
        ]
