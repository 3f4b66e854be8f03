"""Our columns of the comparison: each policy with the agents of today, and with ours."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tests.bench.policies.marks import PRESSURE, PROPORTIONAL, SHARES
from tests.bench.policies.ours import Ours
from tests.bench.policies.rig import Circumstances
from tests.bench.policies.runs import BOUNDS, PEERS, Column
from xcpmem.specs import AgentKind

if TYPE_CHECKING:
    from collections.abc import Mapping

STOCK: Final = Circumstances(agents=AgentKind.MEMINFO)
"""What guests run today: what is available, every minute or two."""

OURS: Final[Mapping[str, Column]] = {
    PROPORTIONAL: Column(lambda _, __: Ours("proportional")),
    "shares, stock": Column(lambda _, __: Ours("shares"), STOCK),
    "pressure, stock": Column(lambda _, __: Ours("pressure"), STOCK),
    SHARES: Column(lambda _, __: Ours("shares")),
    PRESSURE: Column(lambda _, __: Ours("pressure")),
}

COLUMNS: Final[Mapping[str, Column]] = {**PEERS, **OURS, **BOUNDS}
"""Everybody, in the order of the tables."""
