"""Events and tasks on both wires: the official Python SDK as a foreign client, and a thousand long polls."""

from __future__ import annotations

import asyncio
import json
import resource
from itertools import count
from typing import TYPE_CHECKING, Any, Final

import aiohttp
import pytest
import XenAPI

from tests.apistack import GIB, PASSWORD, Stack, listening, no_delay, running_stack
from xcpmem.api.events import EventClock
from xcpmem.api.feed import followed_classes
from xcpmem.api.journal import DELETIONS_KEPT

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

DEADLINE_S: Final = 60
LONG_S: Final = 60.1
THOUSAND: Final = 1000


class Mirror:
    """All objects as a client of the SDK knows them, kept up to date by event.from alone."""

    def __init__(self, session: Any) -> None:
        self.session = session
        self.token = ""
        self.objects: dict[str, dict[str, Any]] = {name.lower(): {} for name in followed_classes()}

    def poll(self, timeout_s: float = LONG_S) -> list[dict[str, Any]]:
        batch = self.session.xenapi.event_from(["*"], self.token, timeout_s)
        self.token = batch["token"]
        for event in batch["events"]:
            known = self.objects[event["class"]]
            if event["operation"] == "del":
                del known[event["ref"]]
            else:
                assert (event["operation"] == "add") == (event["ref"] not in known)
                known[event["ref"]] = event["snapshot"]
        assert batch["valid_ref_counts"] == {name: len(known) for name, known in self.objects.items()}
        events: list[dict[str, Any]] = batch["events"]
        return events

    def until(self, is_so: Callable[[], bool]) -> None:
        while not is_so():
            assert self.poll()

    def finish(self, task: str) -> None:
        self.until(lambda: self.objects["task"].get(task, {}).get("status") not in {None, "pending"})

    def catch_up(self) -> None:
        while self.poll(0.0):
            pass

    def assert_true(self) -> None:
        for name in followed_classes():
            assert self.objects[name.lower()] == getattr(self.session.xenapi, name).get_all_records()


class Waiting(dict[str, set[Any]]):
    """Stands where events keep who waits, and notices when so many wait under a key."""

    def __init__(self, key: str, number: int) -> None:
        super().__init__()
        self._key = key
        self._left = number
        self.enough = asyncio.Event()

    def setdefault(self, key: str, default: set[Any] | None = None) -> set[Any]:
        self._left -= key == self._key
        if not self._left:
            self.enough.set()
        return super().setdefault(key, default or set())


class Served:
    """A running server, and a way to use blocking clients against it."""

    def __init__(self, stack: Stack, url: str) -> None:
        self.stack = stack
        self.url = url

    async def use(self, script: Callable[[Any], object]) -> Any:
        """Run a script in a thread, with a logged-in ``XenAPI.Session``."""

        def run() -> object:
            session = XenAPI.Session(self.url)
            session.xenapi.login_with_password("root", PASSWORD, "1.0", "test")
            try:
                return script(session)
            finally:
                session("close")()

        async with asyncio.timeout(DEADLINE_S):
            return await asyncio.to_thread(run)

    async def quiet(self) -> None:
        """Let the guests come to rest."""
        assert await self.stack.controller.settle(DEADLINE_S)


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    clock = EventClock(monotonic_s=count(step=10).__next__, sleep=no_delay)
    async with running_stack(tmp_path, event_clock=clock) as stack, listening(stack.app()) as url:
        yield Served(stack, url)


@pytest.fixture
def many_files() -> Iterator[None]:
    """Let this process have both ends of more than a thousand connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 8192)), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_sdk_mirrors_all_objects_by_events(served: Served) -> None:
    await served.quiet()

    def script(session: Any) -> None:
        mirror = Mirror(session)
        mirror.catch_up()
        mirror.assert_true()
        (web,) = session.xenapi.VM.get_by_name_label("web1")
        session.xenapi.VM.set_memory_dynamic_range(web, str(GIB), str(2 * GIB))
        metrics = session.xenapi.VM.get_metrics(web)
        mirror.until(lambda: int(mirror.objects["vm_metrics"][metrics]["memory_actual"]) <= 2 * GIB + 4096)
        assert mirror.objects["vm"][web]["memory_target"] == str(2 * GIB)

    await served.use(script)


async def test_sdk_follows_an_asynchronous_call_to_its_end(served: Served) -> None:
    def script(session: Any) -> None:
        xenapi = session.xenapi
        (halted,) = xenapi.VM.get_by_name_label("halted")
        for size, status in ((3 * GIB, "success"), (1, "failure")):
            task = xenapi.Async.VM.set_memory(halted, str(size))
            batch = xenapi.event_from(["task"], "", LONG_S)
            while xenapi.task.get_status(task) == "pending":
                batch = xenapi.event_from([f"task/{task}"], batch["token"], LONG_S)
            record = xenapi.task.get_record(task)
            assert record["status"] == status
            assert record["result"] == ("<value></value>" if status == "success" else "")
            xenapi.task.destroy(task)
            (gone,) = xenapi.event_from(["task"], batch["token"], LONG_S)["events"][-1:]
            assert (gone["operation"], gone["ref"], "snapshot" in gone) == ("del", task, False)
        assert record["error_info"] == ["MEMORY_CONSTRAINT_VIOLATION_ORDER"]
        assert xenapi.task.get_all() == []

    await served.use(script)


async def test_sdk_waits_in_vain_and_is_answered_on_time(served: Served) -> None:
    await served.quiet()

    def script(session: Any) -> dict[str, Any]:
        answer: dict[str, Any] = session.xenapi.event_from(["task"], "", 0.05)
        return answer

    loop = asyncio.get_running_loop()
    started_s = loop.time()
    answer = await served.use(script)
    assert loop.time() - started_s >= 0.05
    assert answer["events"] == []
    assert answer["valid_ref_counts"]["vm"] == 4


async def test_sdk_that_waits_is_told_that_its_session_has_ended_and_logs_in_again(
    served: Served,
) -> None:
    await served.quiet()
    stack, first = served.stack, await served.stack.login()
    stack.events._waiting = waiting = Waiting("~*", 1)

    def script(session: Any) -> None:
        mirror = Mirror(session)
        mirror.catch_up()
        second, session._session = session.handle, first
        assert mirror.poll(1.0) == []
        assert session.handle not in {first, second}

    call = asyncio.create_task(served.use(script))
    async with asyncio.timeout(DEADLINE_S):
        await waiting.enough.wait()
    await stack.sessions.logout(stack.sessions.find(first))
    await call
    assert ("event.from", "SESSION_INVALID") in stack.observed
    assert len(stack.sessions) == 2


async def test_sdk_uses_the_older_calls(served: Served) -> None:
    await served.quiet()

    def script(session: Any) -> None:
        xenapi = session.xenapi
        (halted,) = xenapi.VM.get_by_name_label("halted")
        with pytest.raises(XenAPI.Failure) as failure:
            xenapi.event.next()
        assert failure.value.details == ["SESSION_NOT_REGISTERED", session.handle]
        assert xenapi.event.register(["vm"]) == ""
        number = int(xenapi.event.get_current_id())
        xenapi.VM.set_name_label(halted, "named")
        (event,) = xenapi.event.next()
        assert (event["class"], event["operation"], event["ref"]) == ("vm", "mod", halted)
        assert (event["snapshot"]["name_label"], int(event["id"]) >= number) == ("named", True)
        assert float(event["timestamp"]) > 1.5e9
        xenapi.event.unregister(["vm"])

    await served.use(script)


async def test_sdk_mirrors_for_ten_minutes_without_a_resync_or_a_leak(served: Served) -> None:
    """Ten minutes of a change each second, as fast as they go."""
    await served.quiet()

    def script(session: Any) -> None:
        xenapi, mirror = session.xenapi, Mirror(session)
        mirror.catch_up()
        (halted,) = xenapi.VM.get_by_name_label("halted")
        (pool,) = xenapi.pool.get_all()
        for second in range(600):
            match second % 4:
                case 0:
                    xenapi.VM.set_name_label(halted, str(second))
                case 1:
                    xenapi.pool.add_to_other_config(pool, "xo:barrier:1", str(second))
                    mirror.until(lambda: "xo:barrier:1" in mirror.objects["pool"][pool]["other_config"])
                    xenapi.pool.remove_from_other_config(pool, "xo:barrier:1")
                case 2:
                    task = xenapi.Async.VM.set_memory(halted, str(GIB + second))
                case 3:
                    mirror.finish(task)
                    xenapi.task.destroy(task)
            assert mirror.poll()
            if second % 60 == 0:
                mirror.catch_up()
                mirror.assert_true()
        mirror.catch_up()
        mirror.assert_true()

    await served.use(script)
    stack = served.stack
    assert len(stack.sessions) == 1
    assert stack.events._waiting == {}
    assert stack.tasks.refs() == ()
    assert len(stack.events._journal._dead["task"]) == 150 <= DELETIONS_KEPT


async def test_json_has_numbers_and_records_as_its_getters_do(served: Served) -> None:
    session = await served.stack.login()
    async with aiohttp.ClientSession() as http:

        async def call(method: str, *params: object) -> Any:
            body = json.dumps({"jsonrpc": "2.0", "id": 0, "method": method, "params": [session, *params]})
            async with http.post(f"{served.url}/jsonrpc", data=body) as answer:
                assert answer.headers["Content-Type"] == "application/json"
                return (await answer.json())["result"]

        batch = await call("event.from", ["VM"], "", 0)
        assert {event["ref"]: event["snapshot"] for event in batch["events"]} == await call(
            "VM.get_all_records"
        )
        assert batch["valid_ref_counts"]["vm"] == 4
        assert isinstance(await call("event.get_current_id"), int)


async def test_thousand_long_polls_over_http_end_on_time_and_wake_together(
    served: Served, many_files: None
) -> None:
    await served.quiet()
    stack, loop = served.stack, asyncio.get_running_loop()
    session = await stack.login()
    (pool,) = await _direct(stack, session, "pool.get_all")
    connector = aiohttp.TCPConnector(limit=THOUSAND + 5)
    async with aiohttp.ClientSession(connector=connector) as http, asyncio.timeout(DEADLINE_S):

        async def poll(token: str, timeout_s: float) -> tuple[float, Any]:
            body = {"jsonrpc": "2.0", "id": 0, "method": "event.from"}
            params = [session, ["pool"], token, timeout_s]
            async with http.post(
                f"{served.url}/jsonrpc", data=json.dumps({**body, "params": params})
            ) as sent:
                return loop.time(), (await sent.json())["result"]

        _, first = await poll("", 1.0)
        started_s = loop.time()
        ended = await asyncio.gather(*(poll(first["token"], 3.0) for _ in range(THOUSAND)))
        assert {len(batch["events"]) for _, batch in ended} == {0}
        took_s = [ended_s - started_s for ended_s, _ in ended]
        assert min(took_s) >= 3.0
        stack.events._waiting = waiting = Waiting("~pool", THOUSAND)
        polls = [asyncio.create_task(poll(first["token"], LONG_S)) for _ in range(THOUSAND)]
        await waiting.enough.wait()
        await _direct(stack, session, "event.inject", "pool", pool)
        answers = [batch for _, batch in await asyncio.gather(*polls)]
    assert [event["ref"] for event in answers[0]["events"]] == [pool]
    assert all(batch == answers[0] for batch in answers)
    assert stack.events._waiting == {}


async def _direct(stack: Stack, session: str, method: str, *params: object) -> Any:
    return await stack.call(method, session, *params)
