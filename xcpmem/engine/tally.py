"""What all domains hold together, followed from look to look by what changed."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from xcpmem.engine.model import DomainState


class Tally(NamedTuple):
    """Sums over the domains of a look, KiB.

    Args:
        actual_kib: of what they hold.
        held_kib: of what nobody else can have, see `DomainState.held_kib`.
    """

    actual_kib: int = 0
    held_kib: int = 0

    @classmethod
    def of(cls, domains: Sequence[DomainState]) -> Tally:
        """Count all."""
        return cls(sum([each.actual_kib for each in domains]), sum([each.held_kib for each in domains]))

    def after(self, before: Sequence[DomainState], domains: Sequence[DomainState]) -> Tally:
        """Count a later look.

        Args:
            before: the domains that this was counted of.
            domains: as they are now; those that did not change are the very same objects.
        """
        if len(before) != len(domains):
            return Tally.of(domains)
        changes = [pair for pair in zip(before, domains, strict=True) if pair[0] is not pair[1]]
        return Tally(
            self.actual_kib + sum([now.actual_kib - then.actual_kib for then, now in changes]),
            self.held_kib + sum([now.held_kib - then.held_kib for then, now in changes]),
        )
