"""What the log and the journal are told of turns, and what callers are told of the journal."""

from __future__ import annotations

import json
import logging
from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from tests.apistack import GIB, GIB_KIB, HALTED, Stack, running_stack
from tests.builders import a_domain, a_host, uuid_of
from xcpmem.chronicle import KEEP_LOOK_S, Chronicle
from xcpmem.engine.model import Wishes
from xcpmem.errors import HostError, InvalidValue, XcpmemError
from xcpmem.history import History
from xcpmem.journal import Decision, Entry, Journal, Question
from xcpmem.narration import Narrator
from xcpmem.report import CycleReport
from xcpmem.wishbook import CAPACITY, STALE_S, Wishbook
from xcpmem.xen.driver import Look

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

QUIET = CycleReport(1, 1000.0, 0.0, Look(a_host(a_domain())))


@pytest.fixture
async def stack(tmp_path: Path) -> AsyncIterator[Stack]:
    async with running_stack(tmp_path) as opened:
        yield opened


async def history(stack: Stack, **filters: str) -> list[dict[str, Any]]:
    while stack.journal._writing is not None:
        await stack.journal._writing
    session = await stack.login()
    answer = json.loads(str(await stack.call("Memory.get_history", session, filters)))
    assert answer["lost"] == 0
    return list(answer["entries"])


def texts(entries: list[dict[str, Any]]) -> list[str]:
    return [decision["text"] for entry in entries for decision in entry["decisions"]]


async def test_decision_is_told_with_the_user_on_whose_wish_it_was_made(stack: Stack) -> None:
    session = await stack.login()
    await stack.call("VM.set_memory_dynamic_range", session, stack.vm("web1").ref, GIB, GIB)
    await stack.controller.settle(10)
    entries = await history(stack, vm=stack.vm("web1").uuid)
    (entry,) = [entry for entry in entries if entry["asked"]]
    assert entry["asked"] == ["root asked for VM.set_memory_dynamic_range of web1: 1 GiB, 1 GiB"]
    assert [decision["text"] for decision in entry["decisions"]] == [
        "web1 may have 1 GiB to 1 GiB from now on",
        "web1 is to hold 1 GiB instead of 3 GiB: it is pinned: dynamic-min = dynamic-max = 1 GiB",
    ]


async def test_reservation_and_its_end_are_told(stack: Stack) -> None:
    session = await stack.login()
    await stack.call("Memory.reserve_memory", session, GIB_KIB)
    await stack.call("session.logout", session)
    entries = await history(stack)
    assert ["root asked for Memory.reserve_memory: 1 GiB"] in [entry["asked"] for entry in entries]
    assert [text for text in texts(entries) if text.startswith("set aside 1 GiB for ")]
    assert [text for text in texts(entries) if text.startswith("freed the 1 GiB that were set aside")]


async def test_what_the_caller_got_wrong_is_nobodys_wish(stack: Stack) -> None:
    session = await stack.login()
    with pytest.raises(XcpmemError):
        await stack.call("VM.set_memory_dynamic_range", session, stack.vm("web1").ref, 3 * GIB, GIB)
    await stack.call("Memory.reserve_memory", session, 1024)
    asked = [text for entry in await history(stack) for text in entry["asked"]]
    assert asked == ["root asked for Memory.reserve_memory: 1 MiB"]


async def test_what_only_reads_or_names_is_no_wish(stack: Stack) -> None:
    session = await stack.login()
    await stack.call("VM.set_name_label", session, stack.vm("web1").ref, "web")
    await stack.call("Memory.get_diagnostics", session)
    await stack.call("Memory.reserve_memory", session, 0)
    asked = [text for entry in await history(stack) for text in entry["asked"]]
    assert asked == ["root asked for Memory.reserve_memory: 0 KiB"]


async def test_history_is_filtered_by_time_and_count(stack: Stack) -> None:
    session = await stack.login()
    for size in (1024, 2048, 3072):
        await stack.call("Memory.reserve_memory", session, size)
    assert len(await history(stack)) > 2
    assert len(await history(stack, limit="2")) == 2
    assert await history(stack, since="999999") == []
    assert await history(stack, until="0", vm=HALTED) == []


async def test_whole_entries_come_page_by_page(stack: Stack) -> None:
    session = await stack.login()
    for size in (1024, 2048, 3072):
        await stack.call("Memory.reserve_memory", session, size)
    await history(stack)
    seen: list[int] = []
    filters: dict[str, str] = {}
    while page := json.loads(str(await stack.call("Memory.get_journal", session, filters)))["entries"]:
        assert page[0]["host"]["total_kib"] == 16 * GIB_KIB
        seen += [entry["id"] for entry in page]
        filters = {"after": str(seen[-1])}
    assert seen == sorted(set(seen))
    assert len(seen) >= 4


@pytest.mark.parametrize(
    ("method", "filters", "params"),
    [
        ("get_history", {"sinc": "1"}, ("sinc", "1")),
        ("get_history", {"since": "yesterday"}, ("since", "yesterday")),
        ("get_history", {"since": "-1"}, ("since", "-1")),
        ("get_history", {"limit": "0"}, ("limit", "0")),
        ("get_history", {"limit": "10001"}, ("limit", "10001")),
        ("get_history", {"until": "9" * 40}, ("until", "9" * 40)),
        ("get_journal", {"limit": "5"}, ("limit", "5")),
        ("get_journal", {"after": "x"}, ("after", "x")),
    ],
)
async def test_filter_that_cannot_be_understood_is_named(
    stack: Stack, method: str, filters: dict[str, str], params: tuple[str, str]
) -> None:
    session = await stack.login()
    with pytest.raises(InvalidValue) as caught:
        await stack.call(f"Memory.{method}", session, filters)
    assert caught.value.params == params


async def test_without_a_journal_there_is_no_history() -> None:
    with pytest.raises(HostError, match="journal_rows is 0"):
        await History(None).tell({})


async def test_details_of_a_crowd_are_for_those_who_ask_for_one_vm(stack: Stack) -> None:
    decisions = (
        Decision(logging.DEBUG, "goal", uuid_of(1), "a detail"),
        Decision(logging.INFO, "goal", uuid_of(2), "another VM"),
        Decision(logging.INFO, "goals", "", "the sum"),
    )
    host = a_host()
    stack.journal.put(Entry(5e9, 0.0, 1, "proportional", {}, (), decisions, host, Wishes(), {}))
    assert texts(await history(stack, since="4000000000")) == ["another VM", "the sum"]
    assert texts(await history(stack, since="4000000000", vm=uuid_of(1))) == ["a detail", "the sum"]


async def test_look_is_kept_once_in_a_while_though_nothing_is_decided(tmp_path: Path) -> None:
    journal = Journal(tmp_path, rows=10, size_kib=1024)
    chronicle = Chronicle(Narrator(), Wishbook(lambda: 0.0), journal)
    for second in (0.0, 1.0, KEEP_LOOK_S, KEEP_LOOK_S + 1):
        deque(chronicle.absorb(replace(QUIET, monotonic_s=second)), maxlen=0)
    await journal.close()
    again = Journal(tmp_path, rows=10, size_kib=1024)
    kept = await again.read(Question(has_decisions=False))
    assert [entry["monotonic_s"] for entry in kept] == [0.0, KEEP_LOOK_S]
    await again.close()


def test_log_has_the_sentence_and_its_figures_as_fields(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        deque(Chronicle(Narrator(), Wishbook(lambda: 0.0), None).absorb(QUIET), maxlen=0)
    (record,) = caplog.records
    assert record.getMessage().startswith("the host has ")
    assert (record.__dict__["kind"], record.__dict__["turn"]) == ("first_look", 1)
    assert record.__dict__["domains"] == 1


def test_what_cannot_be_told_is_no_harm_to_the_ring(caplog: pytest.LogCaptureFixture) -> None:
    def name_of(_: str) -> str:
        raise RuntimeError("no names today")

    chronicle = Chronicle(Narrator(name_of), Wishbook(lambda: 0.0), None)
    deque(chronicle.absorb(QUIET), maxlen=0)
    deque(chronicle.absorb(replace(QUIET, look=Look(a_host(a_domain(), a_domain(domid=2))))), maxlen=0)
    assert "a turn could not be told of" in caplog.text


def test_wishes_are_handed_out_once_while_they_are_fresh() -> None:
    now_s = 0.0
    book = Wishbook(lambda: now_s)
    book.note("ann", "old things")
    now_s = STALE_S + 1
    struck = book.note("ann", "nothing")
    book.note("bob", "more")
    book.forget(struck)
    book.forget(struck)
    assert [str(wish) for wish in book.take()] == ["bob asked for more"]
    assert book.take() == ()
    for number in range(CAPACITY + 9):
        book.note("ann", str(number))
    assert len(book.take()) == CAPACITY
