"""The journal keeps decisions within its bounds; what happens to its file is none of the ring's business."""

from __future__ import annotations

import asyncio
import sqlite3
from typing import TYPE_CHECKING

import pytest

from tests.builders import a_domain, a_host, a_request, uuid_of, wanting
from xcpmem.journal import BACKLOG, Decision, Entry, Journal, Question
from xcpmem.snapshot import host_of, to_plain, wishes_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

HOST = a_host(a_domain(), a_domain(domid=2))
WISHES = wanting(a_request(5))
ROOMY = 10**6


def entry(turn: int, *, vm: str = "", text: str = "it was so", asked: tuple[str, ...] = ()) -> Entry:
    decisions = (Decision(20, "goal", vm, text),) if text else ()
    return Entry(
        time_s=1000.0 + turn,
        monotonic_s=float(turn),
        turn=turn,
        policy="proportional",
        parameters={},
        asked=asked,
        decisions=decisions,
        host=HOST,
        wishes=WISHES,
        names={uuid_of(1): "web"},
    )


async def written(journal: Journal) -> None:
    """Wait until all that was put is written or lost."""
    while journal._writing is not None:
        await journal._writing


@pytest.fixture
async def journal(tmp_path: Path) -> AsyncIterator[Journal]:
    opened = Journal(tmp_path, rows=ROOMY, size_kib=ROOMY)
    yield opened
    await opened.close()


async def test_entry_comes_back_with_all_that_led_to_it(journal: Journal) -> None:
    journal.put(entry(7, vm=uuid_of(1), asked=("root asked for much",)))
    await written(journal)
    (found,) = await journal.read(Question())
    assert (found["turn"], found["time_s"], found["policy"]) == (7, 1007.0, "proportional")
    assert found["asked"] == ["root asked for much"]
    assert found["decisions"] == [{"level": 20, "kind": "goal", "vm": uuid_of(1), "text": "it was so"}]
    assert host_of(found["host"]) == HOST
    assert wishes_of(found["wishes"]) == WISHES
    assert found["names"] == {uuid_of(1): "web"}


async def test_what_led_to_an_entry_is_not_even_read_for_those_who_want_its_words(journal: Journal) -> None:
    journal.put(entry(7, vm=uuid_of(1)))
    await written(journal)
    assert journal._connection is not None
    journal._connection.execute("UPDATE entry SET inputs = x'00'")
    (found,) = await journal.read(Question(is_whole=False))
    assert set(found) == {"id", "time_s", "turn", "policy", "asked", "decisions"}
    assert found["decisions"][0]["text"] == "it was so"
    assert await journal.read(Question()) == []


async def test_questions_choose_by_time_vm_number_and_count(journal: Journal) -> None:
    for turn in range(1, 6):
        journal.put(entry(turn, vm=uuid_of(turn % 2)))
        await written(journal)

    async def turns(**question: object) -> list[int]:
        return [found["turn"] for found in await journal.read(Question(**question))]  # type: ignore[arg-type]

    assert await turns() == [1, 2, 3, 4, 5]
    assert await turns(since_s=1003.0, until_s=1004.0) == [3, 4]
    assert await turns(vm=uuid_of(1)) == [1, 3, 5]
    assert await turns(limit=2) == [4, 5]
    assert await turns(limit=2, is_newest_first=False) == [1, 2]
    assert await turns(after=3, is_newest_first=False) == [4, 5]


async def test_look_without_a_decision_is_only_for_those_who_want_all(journal: Journal) -> None:
    journal.put(entry(1, text=""))
    await written(journal)
    assert await journal.read(Question()) == []
    assert len(await journal.read(Question(has_decisions=False))) == 1


async def test_oldest_entries_go_when_there_are_too_many(tmp_path: Path) -> None:
    journal = Journal(tmp_path, rows=10, size_kib=ROOMY)
    for turn in range(35):
        journal.put(entry(turn))
        await written(journal)
    turns = [found["turn"] for found in await journal.read(Question())]
    await journal.close()
    assert turns == list(range(25, 35))


async def test_oldest_entries_go_when_they_take_too_much_space(tmp_path: Path) -> None:
    journal = Journal(tmp_path, rows=ROOMY, size_kib=8)
    for turn in range(60):
        journal.put(entry(turn))
        await written(journal)
    kept = await journal.read(Question())
    await journal.close()
    assert 5 < len(kept) < 20
    assert kept[-1]["turn"] == 59
    with sqlite3.connect(journal.path) as connection:
        (size,) = connection.execute("SELECT SUM(size) FROM entry").fetchone()
    connection.close()
    assert size <= 8 * 1024


async def test_limits_count_what_an_earlier_daemon_wrote(tmp_path: Path) -> None:
    for turns in (range(8), range(8, 12)):
        journal = Journal(tmp_path, rows=10, size_kib=ROOMY)
        for turn in turns:
            journal.put(entry(turn))
        await written(journal)
        await journal.close()
    journal = Journal(tmp_path, rows=10, size_kib=ROOMY)
    assert [found["turn"] for found in await journal.read(Question())] == list(range(2, 12))
    await journal.close()


async def test_closing_writes_what_waits(tmp_path: Path) -> None:
    journal = Journal(tmp_path, rows=ROOMY, size_kib=ROOMY)
    journal.put(entry(1))
    await journal.close()
    again = Journal(tmp_path, rows=ROOMY, size_kib=ROOMY)
    assert len(await again.read(Question())) == 1
    await again.close()


async def test_locked_file_costs_entries_and_one_warning_and_is_written_again(
    journal: Journal, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xcpmem.journal.LOCK_WAIT_S", 0.0)
    journal.put(entry(1))
    await written(journal)
    other = sqlite3.connect(journal.path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    journal._close()
    for turn in (2, 3):
        journal.put(entry(turn))
        await written(journal)
    other.execute("ROLLBACK")
    other.close()
    with caplog.at_level("INFO"):
        journal.put(entry(4))
        await written(journal)
    assert journal.lost == 2
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 1
    assert "database is locked; memory is balanced as before" in warnings[0]
    assert "the journal is written again; 2 entries were lost so far" in caplog.messages
    assert [found["turn"] for found in await journal.read(Question())] == [1, 4]


async def test_full_disk_costs_entries_and_nothing_else(journal: Journal) -> None:
    journal.put(entry(1))
    await written(journal)
    assert journal._connection is not None
    journal._connection.execute("PRAGMA max_page_count = 1")
    for turn in range(200):
        journal.put(entry(turn, text="x" * 4000 + str(turn)))
        if turn % BACKLOG == BACKLOG - 1:
            await written(journal)
    await written(journal)
    assert journal.lost > 0
    journal.put(entry(999))
    await written(journal)
    assert (await journal.read(Question()))[-1]["turn"] == 999


async def test_disk_that_is_too_slow_loses_what_does_not_fit_the_backlog(tmp_path: Path) -> None:
    journal = Journal(tmp_path, rows=ROOMY, size_kib=ROOMY)
    for turn in range(BACKLOG + 5):
        journal.put(entry(turn))
    assert journal.lost == 5
    await journal.close()


@pytest.mark.parametrize("content", [b"this is no database, whatever its name says" * 100, None])
async def test_damaged_or_foreign_file_is_set_aside_and_a_new_one_begun(
    tmp_path: Path, content: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "journal.db"
    if content is None:
        with sqlite3.connect(path) as connection:
            connection.execute("CREATE TABLE other (x)")
        connection.close()
    else:
        path.write_bytes(content)
        path.with_name("journal.db-wal").write_bytes(b"left over")
    journal = Journal(tmp_path, rows=ROOMY, size_kib=ROOMY)
    journal.put(entry(1))
    await written(journal)
    assert [found["turn"] for found in await journal.read(Question())] == [1]
    await journal.close()
    assert (tmp_path / "journal.damaged").exists()
    assert "set aside" in caplog.text


async def test_directory_that_is_gone_is_counted_and_read_as_nothing(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "gone", rows=ROOMY, size_kib=ROOMY)
    journal.put(entry(1))
    await written(journal)
    assert journal.lost == 1
    assert await journal.read(Question()) == []
    await asyncio.wait_for(journal.close(), 10)


def test_plain_data_of_an_entry_is_small_for_resting_domains() -> None:
    host = a_host(*(a_domain(domid=domid) for domid in range(1, 1001)))
    assert len(str(to_plain(host))) < 300_000
