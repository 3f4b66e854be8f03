"""What a policy is: a pure function from what is seen to who should have how much.

A policy knows nothing of order, speed or stubborn guests: the planner decides in which order to get there,
what to do when somebody does not move, and who may be touched at all. It has no clock either; what it wants
to remember until the next turn it returns as its state, a value that JSON can hold, so that a plan can be
replayed, compared, and run beside another. The reference is section 9.1 of the peers' study; the page for
people who write their own is ``api-spec/policies.md``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

if TYPE_CHECKING:
    from xcpmem.engine.note import Note
    from xcpmem.engine.parameters import Parameters
    from xcpmem.engine.sample import Sample

DEFAULT_WEIGHT: Final = 1000
"""The weight of a VM that nobody gave one (Proxmox's default for shares); only ratios matter."""

WEIGHTS: Final = (1, 10000)
"""The least and the greatest weight that an administrator may give."""

State = Mapping[str, Any]
"""What a policy remembers: a value that JSON can hold; empty at first."""


class Claim(NamedTuple):
    """One party that wants memory: a domain, or a reservation that is still to be granted; KiB.

    Args:
        min_kib: the low end of its range: its share is counted from here.
        max_kib: the high end.
        low_kib: the least it can be made to hold: ``min_kib``, or where it was seen to stop shrinking.
        high_kib: the most it can be made to hold: ``max_kib``, or where it was seen to stop growing.
        domid: Xen's number; None: a reservation.
        uuid: of the VM: what a state remembers it by; empty for a reservation.
        target_kib: what its guest was last told, 0 for a reservation.
        actual_kib: what it holds, 0 for a reservation.
        weight: its part beside others', 1 or more.
        sample: what its guest said of its own memory and is still fresh; None: it is silent.
        regret_kib: what it held before it was shrunk and then stalled, for as long as that is to be
            remembered; 0: nothing.
    """

    min_kib: int
    max_kib: int
    low_kib: int
    high_kib: int
    domid: int | None = None
    uuid: str = ""
    target_kib: int = 0
    actual_kib: int = 0
    weight: int = DEFAULT_WEIGHT
    sample: Sample | None = None
    regret_kib: int = 0


class Snapshot(NamedTuple):
    """All that a policy is told.

    Args:
        now_s: monotonic seconds; only differences mean anything.
        budget_kib: all that the claims may have together; may be less than the sum of their lows.
        claims: domains in the order of their domids, then reservations in the order of their arrival.
    """

    now_s: float
    budget_kib: int
    claims: Sequence[Claim]


@dataclass(frozen=True, slots=True)
class Division:
    """What a policy answers.

    Args:
        goals_kib: KiB per claim, in the order of the claims, each within its low and high; together at most
            the budget unless the lows alone are more.
        notes: why, by domid, for people; a `Note` is written out only when somebody reads it.
        look_again_s: the policy would decide something else after so many seconds, though nothing
            happens; None: it would not.
    """

    goals_kib: Sequence[int]
    notes: Mapping[int, str | Note] = field(default_factory=dict)
    look_again_s: float | None = None


class Policy(Protocol):
    """The role that every policy plays."""

    @property
    def name(self) -> str:
        """The word people choose it by."""

    @property
    def about(self) -> str:
        """One line for lists."""

    @property
    def parameters(self) -> type[Parameters]:
        """What can be set: a frozen dataclass, see `xcpmem.engine.parameters`."""

    def plan(self, snapshot: Snapshot, state: State, parameters: Any) -> tuple[Division, State]:
        """Divide the budget.

        Args:
            snapshot: what is seen.
            state: as the previous plan returned it; empty the first time.
            parameters: an instance of `parameters`.

        Returns:
            The division, and the state for the next time. The same arguments give the same answer.
        """


@dataclass(frozen=True, slots=True)
class ChosenPolicy:
    """A policy with the parameters that it is to be run with.

    Args:
        policy: the function.
        parameters: an instance of ``policy.parameters``.
    """

    policy: Policy
    parameters: Parameters

    @property
    def name(self) -> str:
        """The policy's name."""
        return self.policy.name

    def plan(self, snapshot: Snapshot, state: State) -> tuple[Division, State]:
        """Run the policy; see `Policy.plan`."""
        return self.policy.plan(snapshot, state, self.parameters)
