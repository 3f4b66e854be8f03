"""What was decided: in sentences for ``Memory.get_history``, with all that led to it for a replay."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from xcpmem.errors import HostError, InvalidValue
from xcpmem.journal import Question

if TYPE_CHECKING:
    from collections.abc import Mapping

    from xcpmem.journal import Journal

LIMIT_MOST: Final = 10_000
"""So many entries are told at once at most."""

PAGE: Final = 50
"""So many whole entries are given at once at most: each holds a look at the host."""

FILTERS: Final = ("vm", "since", "until", "limit")
EXPORT_FILTERS: Final = ("since", "until", "after")
_DIGITS_MOST: Final = 18


class History:
    """Reads the journal.

    Args:
        journal: None: none is kept.
    """

    def __init__(self, journal: Journal | None) -> None:
        self._journal = journal

    async def tell(self, filters: Mapping[str, str]) -> dict[str, Any]:
        """Serve ``Memory.get_history``.

        Args:
            filters: ``vm`` (uuid), ``since`` and ``until`` (Unix time, seconds), ``limit`` (100 unless said;
                the newest of those that fit).

        Returns:
            ``entries``, oldest first: ``id``, ``time_s``, ``turn``, ``policy``, ``asked`` (who, for what) and
            ``decisions`` of ``level``, ``kind``, ``vm`` and ``text``; ``lost``: as many entries could not be
            written.

        Raises:
            InvalidValue: names a filter that cannot be understood, and its value.
            HostError: no journal is kept.
        """
        journal = self._find()
        question = replace(_read(filters, FILTERS), is_whole=False)
        vm = filters.get("vm", "")
        entries = await journal.read(question)
        for entry in entries:
            entry["decisions"] = [each for each in entry["decisions"] if _is_wanted(each, vm)]
        return {"entries": entries, "lost": journal.lost}

    async def export(self, filters: Mapping[str, str]) -> dict[str, Any]:
        """Serve ``Memory.get_journal``, page by page.

        Args:
            filters: ``since`` and ``until`` as in `tell`; ``after``: the last ``id`` of the page before.

        Returns:
            ``entries``, oldest first, with all that `Journal.read` gives; none after the last page.

        Raises:
            InvalidValue: names a filter that cannot be understood, and its value.
            HostError: no journal is kept.
        """
        journal = self._find()
        question = replace(
            _read(filters, EXPORT_FILTERS), limit=PAGE, is_newest_first=False, has_decisions=False
        )
        return {"entries": await journal.read(question)}

    def _find(self) -> Journal:
        if self._journal is None:
            raise HostError("no journal of decisions is kept: journal_rows is 0 in the settings")
        return self._journal


def _is_wanted(decision: Mapping[str, Any], vm: str) -> bool:
    """Leave the details of crowds to those who ask for one VM, and other VMs out for them."""
    if vm:
        return bool(decision["vm"] in {vm, ""})
    return bool(decision["level"] >= logging.INFO)


def _read(filters: Mapping[str, str], known: tuple[str, ...]) -> Question:
    for name, text in filters.items():
        if name not in known:
            raise InvalidValue(name, text)
    limit = _number(filters, "limit", 100)
    if not 1 <= limit <= LIMIT_MOST:
        raise InvalidValue("limit", filters["limit"])
    return Question(
        since_s=_number(filters, "since", 0),
        until_s=_number(filters, "until", 10**_DIGITS_MOST),
        vm=filters.get("vm", ""),
        after=int(_number(filters, "after", 0)),
        limit=int(limit),
    )


def _number(filters: Mapping[str, str], name: str, default: int) -> float:
    text = filters.get(name)
    if text is None:
        return default
    whole, _, part = text.partition(".")
    if not (whole + part).isdecimal() or len(text) > _DIGITS_MOST:
        raise InvalidValue(name, text)
    return float(text)
