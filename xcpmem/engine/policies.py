"""What a policy is, and the ones that exist.

A policy says who should have how much; it knows nothing of order, speed or stubborn guests. The
planner decides in which order to get there and what to do when somebody does not move.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from xcpmem.engine import proportional
from xcpmem.errors import InvalidValue

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class Claim(NamedTuple):
    """One party that wants memory: a domain, or a reservation that is still to be granted; KiB.

    Args:
        min_kib: the low end of its range: its share is counted from here.
        max_kib: the high end.
        low_kib: the least it can be made to hold: ``min_kib``, or where it was seen to stop shrinking.
        high_kib: the most it can be made to hold: ``max_kib``, or where it was seen to stop growing.
    """

    min_kib: int
    max_kib: int
    low_kib: int
    high_kib: int


class Policy(Protocol):
    """A pure function with a name."""

    @property
    def name(self) -> str:
        """The word people choose it by."""

    def share(self, budget_kib: int, claims: Sequence[Claim]) -> list[int]:
        """Divide a budget.

        Args:
            budget_kib: all that the claims may have together; may be less than the sum of the lows.
            claims: in a stable order.

        Returns:
            KiB per claim, each within its low and high; the sum is at most the budget unless the lows
            alone are more.
        """


@dataclass(frozen=True, slots=True)
class Proportional:
    """XCP's rule: everyone the same proportion of the way from dynamic-min to dynamic-max."""

    name: str = "proportional"

    def share(self, budget_kib: int, claims: Sequence[Claim]) -> list[int]:
        """Divide a budget by one proportion for all; see `proportional.share`."""
        return proportional.share(budget_kib, claims)


POLICIES: Final[Mapping[str, Policy]] = {"proportional": Proportional()}


def find_policy(name: str) -> Policy:
    """Find a policy by its name.

    Raises:
        InvalidValue: there is none of that name.
    """
    policy = POLICIES.get(name)
    if policy is None:
        raise InvalidValue("policy", name)
    return policy
