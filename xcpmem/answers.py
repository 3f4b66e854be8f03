"""Answers that were given, or were about to be, to callers who may ask the same again.

A transport that delivers at least once brings a call again when the daemon died before it was acknowledged.
Only what is not acknowledged yet stands here.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from xcpmem.errors import ConfigError

if TYPE_CHECKING:
    from xcpmem.ledger import Entry, Ledger

_VALUE: Final = "answers"

ANSWERS_MOST: Final = 256
"""As many are kept at most; more unacknowledged calls are never under way."""


class Answers:
    """Keeps answers in the ledger, durable before they are given.

    Args:
        ledger: where they are kept.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def start(self) -> None:
        """Check what was kept.

        Raises:
            ConfigError: somebody edited it into nonsense.
        """
        try:
            kept = json.loads(self._ledger.values.get(_VALUE, "{}"))
        except ValueError as error:
            raise ConfigError("state", _VALUE, str(error)) from error
        if not isinstance(kept, dict) or not all(isinstance(text, str) for text in kept.values()):
            raise ConfigError("state", _VALUE, "is no table of texts")

    def find(self, name: str) -> str | None:
        """Give the answer to a call that was carried out; None if it was not, as far as is known."""
        return self._kept().get(name)

    async def keep(self, name: str, answer: str) -> None:
        """Remember an answer. Raises HostError when it could not be stored."""

        def decide(entry: Entry) -> None:
            kept = {**json.loads(entry.values.get(_VALUE, "{}")), name: answer}
            newest = list(kept.items())[-ANSWERS_MOST:]
            entry.put_value(_VALUE, json.dumps(dict(newest)))

        await self._ledger.post(decide)

    async def forget(self, name: str) -> None:
        """Forget an answer that nobody will ask for again. Raises HostError when that could not be stored."""
        if name not in self._kept():
            return

        def decide(entry: Entry) -> None:
            kept = json.loads(entry.values.get(_VALUE, "{}"))
            kept.pop(name, None)
            entry.put_value(_VALUE, json.dumps(kept))

        await self._ledger.post(decide)

    def _kept(self) -> dict[str, str]:
        kept: dict[str, str] = json.loads(self._ledger.values.get(_VALUE, "{}"))
        return kept
