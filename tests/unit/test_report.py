"""How a report is published."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from tests.builders import a_host
from xcpmem.report import Bulletin, CycleReport
from xcpmem.xen.driver import Look

if TYPE_CHECKING:
    from collections.abc import Iterator

REPORT = CycleReport(number=1, time_s=0.0, monotonic_s=0.0, look=Look(a_host()))


async def test_report_is_the_latest_once_the_records_know_it_and_who_waits_is_told_with_the_last() -> None:
    bulletin, told = Bulletin(), list[str]()

    def absorb(_: CycleReport) -> Iterator[None]:
        for part in ("half of the records", "records"):
            told.append(part)
            yield

    bulletin.subscribe(absorb)
    bulletin.subscribe(lambda _: told.append("metrics"))
    reader = asyncio.create_task(bulletin.next(0, timeout_s=60))
    await asyncio.sleep(0)
    assert bulletin.latest is None
    seen = []
    for _ in bulletin.spread(REPORT):
        await asyncio.sleep(0)
        seen.append((bulletin.latest is REPORT, told[-1], reader.done()))
    assert seen == [
        (False, "half of the records", False),
        (False, "records", False),
        (True, "records", False),
        (True, "metrics", False),
    ]
    assert await reader is REPORT


async def test_publishing_at_one_go_tells_everyone() -> None:
    bulletin, told = Bulletin(), list[CycleReport]()
    bulletin.subscribe(told.append)
    reader = asyncio.create_task(bulletin.next(0, timeout_s=60))
    await asyncio.sleep(0)
    bulletin.publish(REPORT)
    assert told == [REPORT]
    assert await reader is REPORT
