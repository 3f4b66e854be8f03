"""How a report is published."""

from __future__ import annotations

import asyncio

from tests.builders import a_host
from xcpmem.report import Bulletin, CycleReport
from xcpmem.xen.driver import Look

REPORT = CycleReport(number=1, time_s=0.0, monotonic_s=0.0, look=Look(a_host()))


async def test_report_is_the_latest_with_the_first_step_and_who_waits_is_told_with_the_last() -> None:
    bulletin, told = Bulletin(), list[str]()
    bulletin.subscribe(lambda _: told.append("records"))
    bulletin.subscribe(lambda _: told.append("metrics"))
    reader = asyncio.create_task(bulletin.next(0, timeout_s=60))
    await asyncio.sleep(0)
    assert bulletin.latest is None
    seen = []
    for _ in bulletin.spread(REPORT):
        await asyncio.sleep(0)
        seen.append((bulletin.latest is REPORT, list(told), reader.done()))
    assert seen == [(True, ["records"], False), (True, ["records", "metrics"], False)]
    assert await reader is REPORT


async def test_publishing_at_one_go_tells_everyone() -> None:
    bulletin, told = Bulletin(), list[CycleReport]()
    bulletin.subscribe(told.append)
    reader = asyncio.create_task(bulletin.next(0, timeout_s=60))
    await asyncio.sleep(0)
    bulletin.publish(REPORT)
    assert told == [REPORT]
    assert await reader is REPORT
