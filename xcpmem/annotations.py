"""What clients write on an object and nobody here reads: names, descriptions, tags, other_config.

Values are texts, numbers, flags, tuples of texts and maps of texts, by the field's name in XenAPI. Which
fields there are, and of which type, is the API's business.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from xcpmem.errors import ConfigError
from xcpmem.vm import thaw

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from xcpmem.ledger import Entry, Ledger

    Edit = Callable[[Any], Any]
    """Makes a field's new value of the present one, which is None while nobody has written it."""


class Annotations:
    """Those of an object that there is one of, kept in a named value.

    Args:
        ledger: where they live.
        class_name: XenAPI's, which names the value.
        before: gives those that were kept in another way by an earlier release.
    """

    def __init__(
        self, ledger: Ledger, class_name: str, before: Callable[[], Mapping[str, Any]] = dict
    ) -> None:
        self._ledger = ledger
        self._name = f"{class_name}_annotations"
        self._before = before
        self._read: tuple[str | None, Mapping[str, Any]] = (None, {})

    def check(self) -> None:
        """Raise ConfigError if somebody edited them into nonsense."""
        text = self._ledger.values.get(self._name, "{}")
        try:
            loaded = json.loads(text)
        except ValueError as error:
            raise ConfigError("state", self._name, str(error)) from error
        if not isinstance(loaded, dict):
            raise ConfigError("state", self._name, "expected a map")

    @property
    def fields(self) -> Mapping[str, Any]:
        """What is written, by field; not to be changed."""
        return self._load(self._ledger.values)

    async def edit(self, field: str, edit: Edit, then: Callable[[], None]) -> None:
        """Write a field anew.

        Args:
            field: its name.
            edit: makes the value, or raises.
            then: is called when it is durable.

        Raises:
            HostError: it could not be stored.
        """

        def decide(entry: Entry) -> None:
            present = self._load(entry.values)
            written = {**present, field: edit(present.get(field))}
            entry.put_value(self._name, json.dumps(written))

        await self._ledger.post(decide, then)

    def _load(self, values: Mapping[str, str]) -> Mapping[str, Any]:
        text = values.get(self._name, "")
        if self._read[0] != text:
            self._read = (text, thaw(json.loads(text)) if text else self._before())
        return self._read[1]
