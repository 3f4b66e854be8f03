"""The pool's own record: its uuid, and what clients write on it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

from xcpmem.annotations import Annotations
from xcpmem.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from xcpmem.annotations import Edit
    from xcpmem.ledger import Ledger

_UUID: Final = "pool_uuid"
_OTHER_CONFIG: Final = "pool_other_config"  # where the first release kept that field alone


class PoolRecord:
    """Keeps the pool's facts.

    Args:
        ledger: where they live.
        uuid: for the record the first time; empty: one is made.
    """

    def __init__(self, ledger: Ledger, uuid: str) -> None:
        self._ledger = ledger
        self._first_uuid = uuid
        self._annotations = Annotations(ledger, "pool", self._load_first)

    async def start(self) -> None:
        """Take up what was kept.

        Raises:
            ConfigError: somebody edited it into nonsense.
            HostError: the uuid could not be stored.
        """
        try:
            self._load_first()
        except ValueError as error:
            raise ConfigError("state", _OTHER_CONFIG, str(error)) from error
        self._annotations.check()
        if _UUID not in self._ledger.values:
            uuid = self._first_uuid or str(uuid4())
            await self._ledger.post(lambda entry: entry.put_value(_UUID, uuid))

    @property
    def uuid(self) -> str:
        """The pool's uuid, kept for ever."""
        return self._ledger.values[_UUID]

    @property
    def annotations(self) -> Mapping[str, Any]:
        """What clients wrote on it, by field; a new map after each change."""
        return self._annotations.fields

    async def edit(self, field: str, edit: Edit) -> None:
        """Write one of the fields that are the clients' own. Raises HostError when it could not be stored."""
        await self._annotations.edit(field, edit, lambda: self._ledger.touch("pool", self.uuid))

    def _load_first(self) -> Mapping[str, Any]:
        """Read what the first release kept. Raises ValueError when it is no map of texts."""
        text = self._ledger.values.get(_OTHER_CONFIG)
        if text is None:
            return {}
        loaded = json.loads(text)
        if isinstance(loaded, dict) and all(isinstance(note, str) for note in loaded.values()):
            return {"other_config": loaded}
        raise ValueError("expected a map of texts")
