"""The messages that read the journal of decisions; answers are JSON."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from xcpmem.api.dispatch import Caller, Handler
    from xcpmem.history import History


class HistoryMethods:
    """What was decided, and from what.

    Args:
        history: reads the journal.
    """

    def __init__(self, history: History) -> None:
        self._history = history

    def handlers(self) -> dict[str, Handler]:
        """Give the handlers by ``Class.message``."""
        return {"Memory.get_history": self._get_history, "Memory.get_journal": self._get_journal}

    async def _get_history(self, _: Caller, filters: Mapping[str, str]) -> str:
        return json.dumps(await self._history.tell(filters), ensure_ascii=False)

    async def _get_journal(self, _: Caller, filters: Mapping[str, str]) -> str:
        return json.dumps(await self._history.export(filters), ensure_ascii=False)
