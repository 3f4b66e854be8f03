"""Tasks: their life, who may touch them, how long they are kept, and the work behind them."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from tests.apistack import GIB, NETWORK, PASSWORD, OneUser, Stack, a_guest, no_delay, running_stack
from tests.builders import uuid_of
from tests.startstack import attached, guest, simulated
from xcpmem.api import tasks as tasks_module
from xcpmem.api.dispatch import Caller
from xcpmem.api.lifecycle import LifecycleMethods
from xcpmem.api.records import Records
from xcpmem.api.sessions import Peer, Session, SessionClock, Sessions
from xcpmem.api.task import LONGEST_PARAM, TEXT_MOST_BYTES
from xcpmem.api.tasks import FINISHED_MOST, KEPT_FOR_MASTERS, UNFINISHED_MOST, Tasks
from xcpmem.api.typenames import EPOCH
from xcpmem.errors import (
    ConnectionLost,
    HandleInvalid,
    InternalError,
    InvalidValue,
    TaskCancelled,
    TooBusy,
    XcpmemError,
)
from xcpmem.refs import CURRENT_TASK, NULL_REF
from xcpmem.specs import BalloonSpec

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping
    from pathlib import Path

HOST = "OpaqueRef:22222222-2222-4222-8222-222222222222"
NOBODY = "OpaqueRef:11111111-1111-4111-8111-111111111111"
NOON = datetime(2024, 1, 1, 12, tzinfo=UTC)
DEADLINE_S = 30


def a_session(uname: str = "root", role: str = "pool-admin") -> Session:
    return Session("OpaqueRef:secret", "public", uname, "", role, ("default", ""), NOON, NOON, 0.0)


ROOT = a_session()
READER = a_session("reader", "read-only")


@dataclass
class Bench:
    """Tasks on a clock that moves when told, and what they told of: each change, and who was there then."""

    now: datetime = NOON
    told: list[tuple[str, bool]] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.tasks = Tasks(HOST, lambda: self.now)
        self.tasks.on_change(self._note)

    def _note(self, ref: str) -> None:
        self.told.append((ref, ref in self.tasks))
        self.changed.set()

    def __getitem__(self, ref: str) -> Mapping[str, Any]:
        return self.tasks.record(ref)

    async def ended(self, ref: str) -> Mapping[str, Any]:
        """The record once the task is finished."""
        async with asyncio.timeout(DEADLINE_S):
            while self[ref]["finished"] == EPOCH:
                self.changed.clear()
                await self.changed.wait()
        return self[ref]


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    bench = Bench()
    yield bench
    await bench.tasks.close()


async def answer(value: object) -> object:
    return value


async def test_new_task_is_pending_with_xapis_first_values(bench: Bench) -> None:
    ref = bench.tasks.create(ROOT, "import", "a disk")
    assert dict(bench[ref]) == {
        "uuid": bench[ref]["uuid"],
        "name_label": "import",
        "name_description": "a disk",
        "allowed_operations": (),
        "current_operations": {},
        "created": NOON,
        "finished": EPOCH,
        "status": "pending",
        "resident_on": HOST,
        "progress": 0.0,
        "type": "<none/>",
        "result": "",
        "error_info": (),
        "other_config": {},
        "subtask_of": NULL_REF,
        "subtasks": (),
        "backtrace": "()",
    }
    assert bench.tasks.refs() == (ref,)
    assert bench.told == [(ref, True)]


@pytest.mark.parametrize(
    ("value", "result"),
    [
        (None, "<value></value>"),
        ("OpaqueRef:x", "<value>OpaqueRef:x</value>"),
        (8589934592, "<value>8589934592</value>"),
        (True, "<value><boolean>1</boolean></value>"),
        ((), "<value><array><data></data></array></value>"),
    ],
)
async def test_result_is_the_fragment_that_a_synchronous_call_would_give(
    bench: Bench, value: object, result: str
) -> None:
    ref = bench.tasks.start(ROOT, "Async.VM.start", lambda _: answer(value))
    assert (bench[ref]["status"], bench[ref]["progress"], bench[ref]["finished"]) == ("pending", 0.0, EPOCH)
    bench.now += timedelta(seconds=5)
    record = await bench.ended(ref)
    assert (record["status"], record["progress"], record["result"]) == ("success", 1.0, result)
    assert (record["created"], record["finished"]) == (NOON, NOON + timedelta(seconds=5))
    assert record["error_info"] == ()
    assert bench.told == [(ref, True), (ref, True)]


async def test_failure_is_told_with_code_and_parameters(bench: Bench) -> None:
    async def fail(_: str) -> None:
        raise HandleInvalid("VM", NOBODY)

    record = await bench.ended(bench.tasks.start(ROOT, "Async.VM.start", fail))
    assert (record["status"], record["progress"], record["result"]) == ("failure", 1.0, "")
    assert record["error_info"] == ("HANDLE_INVALID", "VM", NOBODY)


async def test_failure_that_nobody_expected_is_an_internal_error(bench: Bench) -> None:
    async def fail(_: str) -> None:
        raise KeyError("x")

    record = await bench.ended(bench.tasks.start(ROOT, "Async.VM.start", fail))
    assert record["error_info"] == ("INTERNAL_ERROR", "KeyError")


async def test_work_knows_its_task_and_so_does_what_it_starts(bench: Bench) -> None:
    seen: list[str] = []

    async def work(task: str) -> None:
        seen.extend([task, CURRENT_TASK.get()])
        await asyncio.create_task(deeper())

    async def deeper() -> None:
        seen.append(CURRENT_TASK.get())

    ref = bench.tasks.start(ROOT, "Async.VM.start", work)
    await bench.ended(ref)
    assert seen == [ref] * 3
    assert CURRENT_TASK.get() == NULL_REF


async def test_cancel_ends_work_where_it_waits(bench: Bench) -> None:
    cleaned_up = asyncio.Event()

    async def wait(task: str) -> None:
        bench.tasks.allow_cancel(task)
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            cleaned_up.set()

    ref = bench.tasks.start(ROOT, "Async.VM.wait_memory_target_live", wait)
    await asyncio.sleep(0)
    assert bench[ref]["allowed_operations"] == ("cancel",)
    bench.tasks.cancel(ROOT, ref, NULL_REF)
    assert bench[ref]["current_operations"] == {NULL_REF: "cancel"}
    record = await bench.ended(ref)
    assert cleaned_up.is_set()
    assert (record["status"], record["progress"]) == ("cancelled", 1.0)
    assert record["error_info"] == ("TASK_CANCELLED", ref)
    assert record["allowed_operations"] == ()


async def test_cancel_asks_work_that_knows_better_how_to_end(bench: Bench) -> None:
    unwanted = asyncio.Event()

    def give_up() -> bool:
        unwanted.set()
        return True

    async def work(task: str) -> None:
        bench.tasks.allow_cancel(task, give_up)
        await unwanted.wait()
        raise TaskCancelled(task)

    ref = bench.tasks.start(ROOT, "Async.VM.clean_shutdown", work)
    await asyncio.sleep(0)
    bench.tasks.cancel(ROOT, ref, NULL_REF)
    assert (await bench.ended(ref))["status"] == "cancelled"


async def test_work_that_cannot_be_cancelled_goes_on(bench: Bench) -> None:
    go_on = asyncio.Event()

    async def work(_: str) -> str:
        await go_on.wait()
        return "done"

    ref = bench.tasks.start(ROOT, "Async.VM.start", work)
    bench.tasks.cancel(ROOT, ref, NOBODY)
    assert bench[ref]["current_operations"] == {NOBODY: "cancel"}
    go_on.set()
    assert (await bench.ended(ref))["status"] == "success"
    before = bench[ref]
    bench.tasks.cancel(ROOT, ref, NOBODY)
    assert bench[ref] is before


async def test_cancel_is_allowed_to_no_call_that_somebody_waits_for(bench: Bench) -> None:
    bench.tasks.allow_cancel(NULL_REF)
    assert bench.told == []


async def test_finished_task_is_destroyed_and_a_pending_one_marked(bench: Bench) -> None:
    ref = bench.tasks.create(ROOT, "mine", "")
    bench.tasks.destroy(ROOT, ref)
    assert bench[ref]["current_operations"] == {"task": "destroy"}
    bench.tasks.change(ROOT, ref, status="success")
    bench.tasks.destroy(ROOT, ref)
    assert bench.tasks.refs() == ()
    assert bench.told[-1] == (ref, False)
    with pytest.raises(HandleInvalid) as refusal:
        bench.tasks.destroy(ROOT, ref)
    assert refusal.value.params == ("task", ref)


async def test_task_that_others_declare_finished_stays_so_when_its_work_ends(bench: Bench) -> None:
    go_on = asyncio.Event()

    async def work(_: str) -> None:
        await go_on.wait()

    kept = bench.tasks.start(ROOT, "Async.VM.start", work)
    gone = bench.tasks.start(ROOT, "Async.VM.start", work)
    for ref in (kept, gone):
        bench.tasks.change(ROOT, ref, status="failure")
    bench.tasks.destroy(ROOT, gone)
    go_on.set()
    last = bench.tasks.start(ROOT, "Async.VM.start", work)
    await bench.ended(last)
    assert bench[kept]["status"] == "failure"
    assert bench.tasks.refs() == (kept, last)


async def test_client_keeps_its_own_task_up_to_date(bench: Bench) -> None:
    ref = bench.tasks.create(ROOT, "mine", "")
    bench.tasks.change(ROOT, ref, progress=0.5)
    bench.tasks.change(ROOT, ref, result="<value>x</value>")
    bench.tasks.change(ROOT, ref, error_info=("A", "b"))
    bench.tasks.change(ROOT, ref, other_config={"a": "b"})
    assert bench[ref]["finished"] == EPOCH
    bench.now += timedelta(minutes=1)
    bench.tasks.change(ROOT, ref, status="success")
    bench.now += timedelta(minutes=1)
    bench.tasks.change(ROOT, ref, status="failure")
    record = bench[ref]
    assert (record["progress"], record["result"], record["error_info"]) == (
        *(0.5, "<value>x</value>", ("A", "b")),
    )
    assert (record["status"], record["finished"]) == ("failure", NOON + timedelta(minutes=1))
    assert record["other_config"] == {"a": "b"}
    assert len(bench.told) == 7


async def test_notes_are_added_once_and_removed(bench: Bench) -> None:
    ref = bench.tasks.create(ROOT, "mine", "")
    bench.tasks.add_to_other_config(ROOT, ref, "k", "v")
    with pytest.raises(XcpmemError) as refusal:
        bench.tasks.add_to_other_config(ROOT, ref, "k", "w")
    assert [refusal.value.code, *refusal.value.params] == [
        *("MAP_DUPLICATE_KEY", "task", "other_config", ref, "k"),
    ]
    assert bench[ref]["other_config"] == {"k": "v"}
    bench.tasks.remove_from_other_config(ROOT, ref, "k")
    bench.tasks.remove_from_other_config(ROOT, ref, "k")
    assert bench[ref]["other_config"] == {}


async def test_no_more_is_written_on_a_task_than_is_kept(bench: Bench) -> None:
    much = "x" * (TEXT_MOST_BYTES - len("label"))
    with pytest.raises(InvalidValue, match="at most 16384 are kept"):
        bench.tasks.create(ROOT, "label", f"{much}y")
    ref = bench.tasks.create(ROOT, "label", much)
    writings: list[Callable[[], None]] = [
        lambda: bench.tasks.add_to_other_config(ROOT, ref, "k", ""),
        lambda: bench.tasks.change(ROOT, ref, other_config={"": "v"}),
        lambda: bench.tasks.change(ROOT, ref, result="r"),
        lambda: bench.tasks.change(ROOT, ref, error_info=("e",)),
    ]
    for write in writings:
        with pytest.raises(InvalidValue):
            write()
    bench.tasks.change(ROOT, ref, status="success")
    assert (bench[ref]["status"], bench[ref]["other_config"]) == ("success", {})


async def test_value_as_long_as_a_call_is_cut_in_the_error_of_a_task(bench: Bench) -> None:
    async def fail(_: str) -> None:
        raise HandleInvalid("VM", "x" * 290_000)

    ref = bench.tasks.start(ROOT, "Async.VM.start", fail)
    code, class_name, handle = (await bench.ended(ref))["error_info"]
    assert (code, class_name) == ("HANDLE_INVALID", "VM")
    assert handle == f"{'x' * LONGEST_PARAM}…"
    bench.tasks.change(ROOT, ref, other_config={"k": "v"})


async def test_what_the_work_said_leaves_all_the_room_to_clients(bench: Bench) -> None:
    async def fail(_: str) -> None:
        raise InternalError(*["x" * LONGEST_PARAM] * 20)

    async def answer_much(_: str) -> object:
        return "x" * TEXT_MOST_BYTES

    for work in (fail, answer_much):
        ref = bench.tasks.start(ROOT, "Async.VM.start", work)
        await bench.ended(ref)
        bench.tasks.add_to_other_config(ROOT, ref, "k", "v" * 8192)
        with pytest.raises(InvalidValue):
            bench.tasks.change(ROOT, ref, result="r" * 8192)
        with pytest.raises(InvalidValue):
            bench.tasks.change(ROOT, ref, error_info=("e" * 8192,))


async def test_task_of_somebody_else_needs_a_role(bench: Bench) -> None:
    roots, readers = (bench.tasks.create(session, "t", "") for session in (ROOT, READER))
    attempts: list[Callable[[], None]] = [
        lambda: bench.tasks.cancel(READER, roots, NULL_REF),
        lambda: bench.tasks.destroy(READER, roots),
        lambda: bench.tasks.change(READER, roots, status="success"),
        lambda: bench.tasks.add_to_other_config(READER, roots, "k", "v"),
        lambda: bench.tasks.remove_from_other_config(READER, roots, "k"),
    ]
    for attempt in attempts:
        with pytest.raises(XcpmemError) as refusal:
            attempt()
        assert [refusal.value.code, refusal.value.params[0]] == ["RBAC_PERMISSION_DENIED", "task.destroy/any"]
    operator = a_session("op", "pool-operator")
    for session in (READER, ROOT, operator):
        bench.tasks.change(session, readers, progress=0.1)
    assert bench[readers]["progress"] == 0.1


async def test_finished_tasks_beyond_200_make_room_the_oldest_first(bench: Bench) -> None:
    refs = [bench.tasks.create(ROOT, str(number), "") for number in range(FINISHED_MOST + 2)]
    pending, second, *_ = refs
    for ref in (*refs[2:], second):
        bench.tasks.change(ROOT, ref, status="success")
    assert len(bench.tasks.refs()) == FINISHED_MOST + 1
    assert refs[2] not in bench.tasks
    assert pending in bench.tasks
    assert second in bench.tasks


async def test_finished_work_makes_room_too(bench: Bench) -> None:
    first, *_, last = (
        bench.tasks.start(ROOT, "Async.VM.start", lambda _: answer(None)) for _ in range(FINISHED_MOST + 1)
    )
    await bench.ended(last)
    assert len(bench.tasks.refs()) == FINISHED_MOST
    assert first not in bench.tasks


async def test_tasks_are_forgotten_after_a_day_unless_somebody_works_on_them(bench: Bench) -> None:
    async def wait(_: str) -> None:
        await asyncio.get_running_loop().create_future()

    worked_on = bench.tasks.start(ROOT, "Async.VM.start", wait)
    finished, abandoned = (bench.tasks.create(ROOT, label, "") for label in ("finished", "abandoned"))
    bench.now += timedelta(hours=12)
    bench.tasks.change(ROOT, finished, status="success")
    bench.now += timedelta(hours=12)
    bench.tasks.expire()
    assert bench.tasks.refs() == (worked_on, finished)
    assert bench.told[-1] == (abandoned, False)
    bench.now += timedelta(hours=12)
    bench.tasks.expire()
    assert bench.tasks.refs() == (worked_on,)


async def test_old_tasks_are_looked_for_though_nobody_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks_module, "TIDY_S", 0.001)
    bench = Bench()
    gone = asyncio.Event()
    bench.tasks.on_change(lambda ref: gone.set() if ref not in bench.tasks else None)
    bench.tasks.create(ROOT, "abandoned", "")
    bench.now += timedelta(hours=24)
    async with asyncio.timeout(DEADLINE_S):
        await gone.wait()
    await bench.tasks.close()


async def test_too_many_unfinished_tasks_are_refused_and_nothing_is_begun(bench: Bench) -> None:
    begun: list[str] = []

    async def work(task: str) -> None:
        begun.append(task)

    first, *_ = (bench.tasks.create(ROOT, "", "") for _ in range(UNFINISHED_MOST))
    with pytest.raises(TooBusy):
        bench.tasks.start(ROOT, "Async.VM.start", work)
    bench.tasks.change(ROOT, first, status="cancelled")
    await bench.ended(bench.tasks.start(ROOT, "Async.VM.start", work))
    assert len(begun) == 1


async def test_readers_tasks_leave_room_for_those_who_may_end_them(bench: Bench) -> None:
    first, *_ = (bench.tasks.create(READER, "", "") for _ in range(UNFINISHED_MOST - KEPT_FOR_MASTERS))
    with pytest.raises(TooBusy):
        bench.tasks.create(READER, "", "")
    with pytest.raises(TooBusy):
        bench.tasks.start(READER, "Async.VM.wait_memory_target_live", keep)
    bench.tasks.start(ROOT, "Async.VM.start", keep)
    bench.tasks.change(ROOT, first, status="failure")
    bench.tasks.destroy(ROOT, first)


async def test_close_ends_all_work() -> None:
    bench = Bench()
    ended = asyncio.Event()

    async def wait(_: str) -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            ended.set()

    ref = bench.tasks.start(ROOT, "Async.VM.start", wait)
    await asyncio.sleep(0)
    await bench.tasks.close()
    assert ended.is_set()
    assert bench[ref]["status"] == "cancelled"


async def test_close_leaves_work_behind_that_does_not_end(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tasks_module, "CLOSE_S", 0.001)
    bench = Bench()
    let_go = asyncio.Event()

    async def stay(_: str) -> None:
        while not let_go.is_set():
            try:
                await let_go.wait()
            except asyncio.CancelledError:
                logging.getLogger(__name__).info("not yet")

    ref = bench.tasks.start(ROOT, "Async.VM.start", stay)
    await asyncio.sleep(0)
    await bench.tasks.close()
    assert "did not end in time" in caplog.text
    let_go.set()
    assert (await bench.ended(ref))["status"] == "success"


# Over the whole line


class Client:
    """A logged-in caller."""

    def __init__(self, stack: Stack, session: str) -> None:
        self.stack = stack
        self.session = session

    async def __call__(self, method: str, *params: object) -> Any:
        return await self.stack.call(method, self.session, *params)

    async def failure(self, method: str, *params: object) -> list[str]:
        with pytest.raises(XcpmemError) as refusal:
            await self(method, *params)
        return [refusal.value.code, *refusal.value.params]

    async def until(self, task: str, is_so: Callable[[Mapping[str, Any]], bool]) -> Mapping[str, Any]:
        """Wait for a task as xe does: by its events."""
        token = ""
        async with asyncio.timeout(DEADLINE_S):
            while True:
                batch = await self("event.from", [f"task/{task}"], token, 30.0)
                token, record = batch["token"], batch["events"][-1]["snapshot"]
                if is_so(record):
                    return dict(record)

    async def ended(self, task: str) -> Mapping[str, Any]:
        """The record of a task once it is no longer pending."""
        return await self.until(task, lambda record: record["status"] != "pending")


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[Client]:
    async with running_stack(tmp_path) as stack:
        yield Client(stack, await stack.login())


async def test_asynchronous_call_answers_with_a_task_that_succeeds(client: Client) -> None:
    ref = client.stack.vm("halted").ref
    task = await client("Async.VM.set_memory", ref, 3 * GIB)
    record = await client.ended(task)
    assert (record["name_label"], record["status"], record["result"]) == (
        *("Async.VM.set_memory", "success", "<value></value>"),
    )
    assert await client("VM.get_memory_static_max", ref) == 3 * GIB
    assert await client("task.get_by_name_label", "Async.VM.set_memory") == (task,)
    assert await client("task.get_by_uuid", record["uuid"]) == task
    assert await client("task.get_resident_on", task) == (await client("host.get_all"))[0]
    await client("task.destroy", task)
    assert await client("task.get_all_records") == {}
    assert await client.failure("task.get_status", task) == ["HANDLE_INVALID", "task", task]


async def test_asynchronous_call_fails_in_its_task_for_what_the_message_itself_says(client: Client) -> None:
    halted = client.stack.vm("halted").ref
    record = await client.ended(await client("Async.VM.set_memory", halted, 1))
    assert (record["status"], record["error_info"]) == ("failure", ("MEMORY_CONSTRAINT_VIOLATION_ORDER",))
    record = await client.ended(await client("Async.VM.set_memory", NOBODY, GIB))
    assert record["error_info"] == ("HANDLE_INVALID", "VM", NOBODY)


async def test_asynchronous_call_fails_at_once_for_what_is_checked_before(client: Client) -> None:
    halted = client.stack.vm("halted").ref
    reader = Client(client.stack, await client.stack.login("reader"))
    assert (await client.failure("Async.VM.set_memory", halted))[0] == "MESSAGE_PARAMETER_COUNT_MISMATCH"
    assert (await client.failure("Async.VM.set_memory", halted, "4GiB"))[0] == "INTERNAL_ERROR"
    assert (await client.failure("Async.VM_set_memory", halted, GIB))[0] == "MESSAGE_METHOD_UNKNOWN"
    assert (await reader.failure("Async.VM.set_memory", halted, GIB))[0] == "RBAC_PERMISSION_DENIED"
    assert await client("task.get_all") == ()


async def test_numbers_and_references_come_back_as_text_of_xml_rpc(client: Client) -> None:
    (host,) = await client("host.get_all")
    free = await client("host.compute_free_memory", host)
    record = await client.ended(await client("Async.host.compute_free_memory", host))
    assert record["result"] == f"<value>{free}</value>"
    ref = client.stack.vm("web1").ref
    record = await client.ended(await client("Async.VM.get_cooperative", ref))
    assert record["result"] == "<value><boolean>1</boolean></value>"


async def test_logout_does_not_end_the_work(client: Client) -> None:
    halted = client.stack.vm("halted").ref
    task = await client("Async.VM.set_memory", halted, 3 * GIB)
    await client("session.logout")
    other = Client(client.stack, await client.stack.login())
    assert (await other.ended(task))["status"] == "success"


async def test_wait_for_a_guest_can_be_cancelled(tmp_path: Path) -> None:
    hung = replace(a_guest(1, "web1"), balloon=BalloonSpec(stuck=True))
    async with running_stack(tmp_path, [hung]) as stack:
        client = Client(stack, await stack.login())
        ref = stack.vm("web1").ref
        await client("VM.set_memory_dynamic_range", ref, GIB, GIB)
        task = await client("Async.VM.wait_memory_target_live", ref)
        await client.until(task, lambda record: record["allowed_operations"] == ("cancel",))
        canceller = await client("Async.task.cancel", task)
        record = await client.ended(task)
        assert (record["status"], record["error_info"]) == ("cancelled", ("TASK_CANCELLED", task))
        assert record["current_operations"] == {canceller: "cancel"}
        assert (await client.ended(canceller))["status"] == "success"


async def test_wait_for_a_guest_goes_on_as_a_task_though_its_client_hangs_up(tmp_path: Path) -> None:
    hung = replace(a_guest(1, "web1"), balloon=BalloonSpec(stuck=True))
    async with running_stack(tmp_path, [hung]) as stack:
        client = Client(stack, await stack.login())
        ref = stack.vm("web1").ref
        await client("VM.set_memory_dynamic_range", ref, GIB, GIB)
        peer = Peer("192.0.2.1")
        task = str(await stack.call("Async.VM.wait_memory_target_live", client.session, ref, peer=peer))
        await client.until(task, lambda record: record["allowed_operations"] == ("cancel",))
        peer.presence.end()
        with pytest.raises(ConnectionLost):
            await stack.call("VM.wait_memory_target_live", client.session, ref, peer=peer)
        assert (await client("task.get_record", task))["status"] == "pending"


async def test_every_message_of_class_task_is_served(client: Client) -> None:
    task = await client("task.create", "mine", "of a client")
    assert await client("task.get_name_description", task) == "of a client"
    for name, sent, kept in (
        ("progress", "0.25", 0.25),
        ("result", "r", "r"),
        ("error_info", ["A"], ("A",)),
        ("other_config", {"a": "b"}, {"a": "b"}),
        ("status", "cancelling", "cancelling"),
    ):
        assert await client(f"task.set_{name}", task, sent) is None
        assert await client(f"task.get_{name}", task) == kept
    await client("task.add_to_other_config", task, "c", "d")
    await client("task.remove_from_other_config", task, "a")
    assert await client("task.get_other_config", task) == {"c": "d"}
    assert (await client.failure("task.set_status", task, "done"))[0] == "INTERNAL_ERROR"
    await client("task.cancel", task)
    assert (await client("task.get_record", task))["current_operations"] == {NULL_REF: "cancel"}
    await client("task.set_status", task, "success")
    await client("task.destroy", task)
    for name in ("destroy", "cancel", "get_record", "get_status"):
        assert await client.failure(f"task.{name}", task) == ["HANDLE_INVALID", "task", task]


async def test_reader_makes_tasks_and_touches_no_others(client: Client) -> None:
    roots = await client("task.create", "root's", "")
    reader = Client(client.stack, await client.stack.login("reader"))
    own = await reader("task.create", "own", "")
    await reader("task.set_status", own, "success")
    await reader("task.destroy", own)
    assert (await reader.failure("task.destroy", roots))[:2] == ["RBAC_PERMISSION_DENIED", "task.destroy/any"]
    assert await reader("task.get_name_label", roots) == "root's"


async def test_shutdown_goes_by_its_task_and_ends_when_that_is_cancelled(tmp_path: Path) -> None:
    sessions = Sessions(OneUser(), keep, clock=SessionClock(sleep=no_delay))
    session = await sessions.login("root", PASSWORD, NETWORK)
    bench, uuid = Bench(), uuid_of(1)
    async with simulated(tmp_path, guest(1)) as host, attached(host, tmp_path) as daemon:
        host.set_balloon(1, {"stuck": True})
        records = Records(daemon.service, sessions, bench.tasks)
        handlers = LifecycleMethods(daemon.service, records, bench.tasks).handlers()
        ambush = daemon.lie_in_wait("shutdown")

        async def shut_down(task: str) -> None:
            await handlers["VM.clean_shutdown"](Caller(NETWORK, session, task), daemon.vm(uuid).ref)

        first = bench.tasks.start(session, "Async.VM.clean_shutdown", shut_down)
        await ambush.reached.wait()
        assert daemon.vm(uuid).current_operations == {first: "clean_shutdown"}
        second = bench.tasks.start(session, "Async.VM.clean_shutdown", shut_down)
        await asyncio.sleep(0)
        bench.tasks.cancel(session, second, NULL_REF)
        assert (await bench.ended(second))["status"] == "cancelled"
        assert bench[first]["status"] == "pending"
        bench.tasks.cancel(session, first, NULL_REF)
        ambush.released.set()
        record = await bench.ended(first)
        assert (record["status"], record["error_info"]) == ("cancelled", ("TASK_CANCELLED", first))
        assert (daemon.vm(uuid).power_state, daemon.vm(uuid).current_operations) == ("Running", {})
    await bench.tasks.close()
    await sessions.close()


async def keep(_: str) -> None:
    """Give nothing back."""
