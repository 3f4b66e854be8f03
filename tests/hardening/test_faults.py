"""Faults of the world: whatever fails, everybody is where he would be without it once it is over."""

from __future__ import annotations

import asyncio
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import pytest

from tests.faults import CALM, FAULTS, HEALED_WITHIN_S, Outcome, differences, story
from xcpmem import troubles
from xcpmem.xen import domainkeys, storesession

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tests.faults import WorldFault


async def try_all(folder: Path) -> dict[str, Outcome | BaseException]:
    """Act out all stories side by side, each on a host of its own: they wait most of the time."""

    async def act(number: int, fault: WorldFault) -> Outcome:
        place = folder / str(number)
        place.mkdir()
        return await story(place, fault)

    stories = {"undisturbed": CALM, **FAULTS}
    found = await asyncio.gather(
        *(act(number, fault) for number, fault in enumerate(stories.values())), return_exceptions=True
    )
    return dict(zip(stories, found, strict=True))


@pytest.fixture(scope="module")
def outcomes() -> Iterator[Mapping[str, Outcome | BaseException]]:
    with TemporaryDirectory(prefix="xf-") as name:
        yield asyncio.run(try_all(Path(name)))


def outcome_of(outcomes: Mapping[str, Outcome | BaseException], title: str) -> Outcome:
    found = outcomes[title]
    if isinstance(found, BaseException):
        raise found
    return found


@pytest.mark.parametrize("title", FAULTS)
def test_all_is_as_if_nothing_had_happened_after(
    outcomes: Mapping[str, Outcome | BaseException], title: str
) -> None:
    calm = outcome_of(outcomes, "undisturbed")
    assert calm.worst_kib <= 0
    assert calm.refusals == 0
    assert differences(outcome_of(outcomes, title), calm) == []


def test_nobody_pauses_so_long_that_a_fault_outlives_its_end_by_two_seconds() -> None:
    pauses_s = (
        troubles.RETRY_S[1],
        troubles.LEFT_ALONE_S[1],
        domainkeys.ECHO_S,
        storesession._LAST_BACKOFF_S,
    )
    assert max(pauses_s) < HEALED_WITHIN_S
