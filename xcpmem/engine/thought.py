"""What was thought of each domain in the last turn, to be thought again without effort.

Most domains are as they were at the last look, and what is made of the same by the same rules is the same. So
a turn takes over what it made before, where it was made of the very same objects: it costs little, and
whoever follows the turns sees by identity what is new.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

    from xcpmem.engine.belief import Belief, Caution
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
    """

    party: Party
    conclusion: Conclusion
    reason: Reason


@dataclass(frozen=True, slots=True)
class Recollection:
    """The last turn's thoughts.

    Args:
        caution: by which they were thought; others do not count.
        thoughts: by domid.
    """

    caution: Caution | None = None
    thoughts: Mapping[int, Thought] = field(default_factory=dict)

    def of(self, caution: Caution) -> Mapping[int, Thought]:
        """Give the thoughts if they were thought by these thresholds."""
        return self.thoughts if caution == self.caution else {}


def is_resting(thought: Thought | None, domain: DomainState, belief: Belief | None) -> bool:
    """Tell whether another look at a domain teaches nothing: the same one was at its target already."""
    if thought is None or belief is None:
        return False
    party = thought.party
    return party.domain is domain and party.belief is belief and belief.direction == 0
