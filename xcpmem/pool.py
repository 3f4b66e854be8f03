"""The pool's own record: its uuid and its other_config, in which clients keep notes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final
from uuid import uuid4

from xcpmem.errors import ConfigError, MapDuplicateKey
from xcpmem.refs import opaque_ref

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from xcpmem.ledger import Entry, Ledger

_UUID: Final = "pool_uuid"
_OTHER_CONFIG: Final = "pool_other_config"


class PoolRecord:
    """Keeps the pool's facts.

    Args:
        ledger: where they live.
        uuid: for the record the first time; empty: one is made.
    """

    def __init__(self, ledger: Ledger, uuid: str) -> None:
        self._ledger = ledger
        self._first_uuid = uuid

    async def start(self) -> None:
        """Take up what was kept.

        Raises:
            ConfigError: somebody edited it into nonsense.
            HostError: the uuid could not be stored.
        """
        try:
            _load(self._ledger.values)
        except ValueError as error:
            raise ConfigError("state", _OTHER_CONFIG, str(error)) from error
        if _UUID not in self._ledger.values:
            uuid = self._first_uuid or str(uuid4())
            await self._ledger.post(lambda entry: entry.put_value(_UUID, uuid))

    @property
    def uuid(self) -> str:
        """The pool's uuid, kept for ever."""
        return self._ledger.values[_UUID]

    @property
    def other_config(self) -> Mapping[str, str]:
        """The pool's other_config; a copy."""
        return _load(self._ledger.values)

    async def set_other_config(self, value: Mapping[str, str]) -> None:
        """Replace the map. Raises HostError when it could not be stored."""
        await self._change(lambda _: dict(value))

    async def add_to_other_config(self, key: str, value: str) -> None:
        """Add a key.

        Raises:
            MapDuplicateKey: it is there already.
            HostError: it could not be stored.
        """

        def add(present: dict[str, str]) -> dict[str, str]:
            if key in present:
                raise MapDuplicateKey("pool", "other_config", opaque_ref("pool", self.uuid), key)
            return present | {key: value}

        await self._change(add)

    async def remove_from_other_config(self, key: str) -> None:
        """Remove a key; a missing one is no error. Raises HostError when it could not be stored."""
        await self._change(lambda present: {name: text for name, text in present.items() if name != key})

    async def _change(self, rule: Callable[[dict[str, str]], dict[str, str]]) -> None:
        def decide(entry: Entry) -> None:
            entry.put_value(_OTHER_CONFIG, json.dumps(rule(_load(entry.values))))

        await self._ledger.post(decide, lambda: self._ledger.touch("pool", self.uuid))


def _load(values: Mapping[str, str]) -> dict[str, str]:
    """Read the map. Raises ValueError when it is none."""
    loaded = json.loads(values.get(_OTHER_CONFIG, "{}"))
    if isinstance(loaded, dict) and all(isinstance(text, str) for text in loaded.values()):
        return loaded
    raise ValueError("expected a map of texts")
