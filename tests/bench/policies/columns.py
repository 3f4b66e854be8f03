"""Our columns of the comparison: each policy with the agents of today, and with ours."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from tests.bench.policies.marks import PRESSURE, PROPORTIONAL, SHARES
from tests.bench.policies.ours import Ours
from tests.bench.policies.rig import Circumstances
from tests.bench.policies.runs import BOUNDS, PEERS, Column
from xcpmem.specs import AgentKind

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.bench.policies.cases import Case
    from tests.bench.policies.rig import Controller

STOCK: Final = Circumstances(agents=AgentKind.MEMINFO)
"""What guests run today: what is available, every minute or two."""


def _ours(policy: str, _case: Case, _seed: int) -> Controller:
    return Ours(policy)


OURS: Final[Mapping[str, Column]] = {
    PROPORTIONAL: Column(partial(_ours, "proportional")),
    "shares, stock": Column(partial(_ours, "shares"), STOCK),
    "pressure, stock": Column(partial(_ours, "pressure"), STOCK),
    SHARES: Column(partial(_ours, "shares")),
    PRESSURE: Column(partial(_ours, "pressure")),
}

COLUMNS: Final[Mapping[str, Column]] = {**PEERS, **OURS, **BOUNDS}
"""Everybody, in the order of the tables."""
