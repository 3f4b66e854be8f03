"""event.from, inject, and the older register and next, over the whole line and a simulated host."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest

from tests.apistack import GIB, GIB_KIB, NETWORK, Stack, a_guest, no_delay, running_stack
from xcpmem.api import codec, jsonrpc
from xcpmem.api import events as events_module
from xcpmem.api.dispatch import Caller
from xcpmem.api.events import BATCH_S, EventClock, Events
from xcpmem.api.feed import followed_classes
from xcpmem.api.journal import DELETIONS_KEPT, SUBSCRIPTIONS_MOST
from xcpmem.api.sessions import Peer
from xcpmem.errors import XcpmemError
from xcpmem.refs import NULL_REF

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
    from pathlib import Path

NOBODY = "OpaqueRef:11111111-1111-4111-8111-111111111111"
DEADLINE_S = 30
SHORT_S = 0.01
LONG_S = 3000.0


class Client:
    """A logged-in caller with a mirror, as Xen Orchestra keeps one."""

    def __init__(self, stack: Stack, session: str) -> None:
        self.stack = stack
        self.session = session
        self.token = ""

    async def __call__(self, method: str, *params: object) -> Any:
        return await self.stack.call(method, self.session, *params)

    async def failure(self, method: str, *params: object) -> list[str]:
        return await failure_of(self(method, *params))

    async def poll(self, *classes: str, timeout_s: float = LONG_S) -> list[Mapping[str, Any]]:
        """Ask on from the last token; the events."""
        async with asyncio.timeout(DEADLINE_S):
            batch = await self("event.from", list(classes or ("*",)), self.token, timeout_s)
        self.token = batch["token"]
        return list(batch["events"])

    async def names(self, *classes: str, timeout_s: float = LONG_S) -> list[str]:
        """The same in short: ``mod vm web1``, ``add task Async.VM.set_memory``."""
        return [
            " ".join(
                (event["operation"], event["class"], str(event["snapshot"].get("name_label", "")))
            ).strip()
            for event in await self.poll(*classes, timeout_s=timeout_s)
        ]

    async def quiet(self) -> None:
        """Let the guests come to rest, and know all that happened until then."""
        assert await self.stack.controller.settle(DEADLINE_S)
        while await self.poll(timeout_s=0.0):
            pass

    async def waiting(self, *classes: str) -> asyncio.Task[Any]:
        """Ask on from the last token, and let the call come to where it waits."""
        return await self.let_wait("event.from", list(classes or ("*",)), self.token, LONG_S)

    async def let_wait(self, method: str, *params: object) -> asyncio.Task[Any]:
        """Make a call, and let it come to where it waits."""
        call = asyncio.create_task(self(method, *params))
        await asyncio.sleep(0)
        assert not call.done()
        return call


def hasty(sleep: Callable[[float], Awaitable[None]] = no_delay) -> EventClock:
    """A clock on which nothing has to wait for its turn."""
    return EventClock(monotonic_s=count(step=10).__next__, sleep=sleep)


async def failure_of(call: Awaitable[object]) -> list[str]:
    async with asyncio.timeout(DEADLINE_S):
        with pytest.raises(XcpmemError) as refusal:
            await call
    return [refusal.value.code, *refusal.value.params]


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[Client]:
    async with running_stack(tmp_path, event_clock=hasty()) as stack:
        yield Client(stack, await stack.login())


def ref_of(client: Client, name: str) -> str:
    return client.stack.vm(name).ref


async def test_first_answer_has_every_object_as_new_with_its_record(client: Client) -> None:
    batch = await client("event.from", ["*"], "", 0)
    assert list(batch) == ["events", "valid_ref_counts", "token"]
    mirror: dict[str, dict[str, Any]] = {}
    for event in batch["events"]:
        assert list(event) == ["id", "timestamp", "class", "operation", "ref", "snapshot"]
        assert (event["operation"], event["timestamp"]) == ("add", "0.0")
        assert event["id"].isdigit()
        mirror.setdefault(event["class"], {})[event["ref"]] = event["snapshot"]
    for name in followed_classes():
        assert mirror.get(name.lower(), {}) == await client(f"{name}.get_all_records")
        assert batch["valid_ref_counts"][name.lower()] == len(await client(f"{name}.get_all"))
    assert len(batch["token"]) == 41
    generation, comma, message = batch["token"].partition(",")
    assert (comma, message, generation.isdigit()) == (",", "0" * 20, True)


async def test_counts_are_numbers_on_both_wires(client: Client) -> None:
    batch = await client("event.from", ["nothing"], "", 0)
    assert b"<name>vm</name><value><i4>4</i4></value>" in codec.encode_success(batch)
    assert b'"valid_ref_counts":{"pool":1,"host":1,"host_metrics":1,"vm":4,' in jsonrpc.encode_value(batch)
    assert b'"task":0}' in jsonrpc.encode_value(batch)


async def test_tokens_begin_at_the_time_of_day_so_that_a_restart_goes_on_above(client: Client) -> None:
    before_us = time.time() * 1e6
    batch = await client("event.from", [], "", 0)
    assert before_us - 60e6 < int(batch["token"][:20]) <= time.time() * 1e6 + 1000


async def test_answer_comes_when_something_changes(client: Client) -> None:
    await client.quiet()
    call = await client.waiting()
    await client("VM.set_memory", ref_of(client, "halted"), 3 * GIB)
    async with asyncio.timeout(DEADLINE_S):
        batch = await call
    (event,) = batch["events"]
    assert (event["class"], event["operation"], event["ref"]) == ("vm", "mod", ref_of(client, "halted"))
    assert event["snapshot"]["memory_static_max"] == 3 * GIB
    assert batch["token"] > client.token
    assert int(event["id"]) == int(batch["token"][:20])


async def test_nothing_is_told_twice_and_nothing_twice_in_one_answer(client: Client) -> None:
    await client.quiet()
    ref = ref_of(client, "halted")
    for size in (2, 3, 4):
        await client("VM.set_memory", ref, size * GIB)
    (event,) = await client.poll("vm")
    assert event["snapshot"]["memory_static_max"] == 4 * GIB
    assert await client.poll(timeout_s=0.0) == []


async def test_setting_what_is_set_already_is_told(client: Client) -> None:
    await client.quiet()
    for _ in range(2):
        await client("VM.set_memory_static_min", ref_of(client, "halted"), GIB)
        assert await client.names() == ["mod vm halted"]


async def test_each_kind_of_change_is_told(client: Client) -> None:
    await client.quiet()
    halted, web = ref_of(client, "halted"), ref_of(client, "web1")
    (pool,) = await client("pool.get_all")
    for method, *params in (
        ("VM.set_memory_dynamic_range", halted, GIB, 2 * GIB),
        ("VM.set_VCPUs_max", halted, 4),
        ("VM.set_HVM_shadow_multiplier", halted, 2.0),
        ("VM.set_name_label", halted, "halted"),
        ("VM.add_to_other_config", halted, "a", "b"),
    ):
        await client(method, *params)
        assert await client.names() == ["mod vm halted"]
    await client("pool.add_to_other_config", pool, "xo:barrier:1", "")
    (event,) = await client.poll("pool")
    assert event["snapshot"]["other_config"] == {"xo:barrier:1": ""}
    task = await client("task.create", "mine", "")
    assert await client.names("task") == ["add task mine"]
    await client("task.set_progress", task, 0.5)
    assert await client.names("task") == ["mod task mine"]
    await client("task.set_status", task, "success")
    await client("task.destroy", task)
    (event,) = await client.poll("task")
    assert (event["operation"], event["ref"], "snapshot" in event) == ("del", task, False)
    await client("VM.set_memory_dynamic_range", web, GIB, 2 * GIB)
    told: dict[str, Mapping[str, Any]] = {}
    while told.get("vm_metrics", {}).get("memory_actual", 0) > 2 * GIB + 4096 or "host_metrics" not in told:
        told |= {event["class"]: event["snapshot"] for event in await client.poll()}
    assert told["vm"]["memory_target"] == 2 * GIB
    assert told["host_metrics"]["memory_free"] == 7 * GIB


async def test_subscription_to_one_object_leaves_out_all_others(client: Client) -> None:
    await client.quiet()
    halted = ref_of(client, "halted")
    call = await client.waiting(f"Vm/{halted}")
    await client("pool.set_other_config", (await client("pool.get_all"))[0], {})
    await client("VM.set_name_label", ref_of(client, "web1"), "web2")
    assert not call.done()
    await client("VM.set_name_label", halted, "named")
    async with asyncio.timeout(DEADLINE_S):
        batch = await call
    assert [event["ref"] for event in batch["events"]] == [halted]


async def test_time_that_is_over_is_answered_with_no_events_and_a_token_to_go_on_from(client: Client) -> None:
    loop = asyncio.get_running_loop()
    await client.quiet()
    started_s = loop.time()
    assert await client.poll("task", timeout_s=SHORT_S) == []
    assert SHORT_S <= loop.time() - started_s < 5
    assert client.stack.events._waiting == {}
    await client("VM.set_name_label", ref_of(client, "halted"), "named")
    old = client.token
    assert await client.poll("task", timeout_s=0) == []
    assert client.token > old
    assert await client.poll("vm", timeout_s=-1) == []


@pytest.mark.parametrize("given", ["0", 0, 0.0, "0.0"])
async def test_timeout_may_be_an_integer_or_text(client: Client, given: object) -> None:
    assert (await client("event.from", ["task"], "", given))["events"] == ()


async def test_longest_wait_has_a_bound(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events_module, "LONGEST_WAIT_S", SHORT_S)
    assert await client.poll("task", timeout_s=1e18) == []


async def test_first_change_waits_a_moment_for_others_unless_only_tasks_are_wanted(tmp_path: Path) -> None:
    slept_s: list[float] = []

    async def meanwhile(seconds: float) -> None:
        slept_s.append(seconds)
        await stack.rename(stack.vm("db1").uuid, "db2")

    async with running_stack(tmp_path, event_clock=hasty(meanwhile)) as stack:
        client = Client(stack, await stack.login())
        await client.quiet()
        slept_s.clear()
        call = await client.waiting()
        await client("VM.set_name_label", ref_of(client, "web1"), "web2")
        async with asyncio.timeout(DEADLINE_S):
            batch = await call
        assert [event["snapshot"]["name_label"] for event in batch["events"]] == ["web2", "db2"]
        assert slept_s == [BATCH_S]
        client.token = batch["token"]
        call = await client.waiting("task")
        await client("task.create", "mine", "")
        async with asyncio.timeout(DEADLINE_S):
            await call
        assert slept_s == [BATCH_S]


@pytest.mark.parametrize("token", ["x", "1", "1,2,3", ",", "1,", ",1", "1.5,0", " 1,0", "9" * 30 + ",0"])
async def test_token_that_is_none_is_refused(client: Client, token: str) -> None:
    assert await client.failure("event.from", ["*"], token, 0) == ["EVENT_FROM_TOKEN_PARSE_FAILURE", token]
    assert (await client.failure("event.from", ["a/b/c"], token, 0))[1] == token


async def test_subscription_that_is_none_is_refused(client: Client) -> None:
    refusal = ["EVENT_SUBSCRIPTION_PARSE_FAILURE", "vm/a/b"]
    assert await client.failure("event.from", ["*", "vm/a/b"], "", 0) == refusal
    assert await client.failure("event.register", ["vm/a/b"]) == refusal
    assert await client.failure("event.unregister", ["vm/a/b"]) == refusal


async def test_zero_and_tokens_of_the_future_mean_that_nothing_is_known(client: Client) -> None:
    everything = await client("event.from", ["*"], "", 0)
    for token in (f"{0:020d},{0:020d}", f"{2**62:020d},{0:020d}", "-5,0"):
        batch = await client("event.from", ["*"], token, 0)
        assert [event["operation"] for event in batch["events"]] == ["add"] * len(everything["events"])


async def test_token_of_a_daemon_that_ended_gets_everything_as_changed(tmp_path: Path) -> None:
    async with running_stack(tmp_path) as stack:
        first = Client(stack, await stack.login())
        objects = len(await first.poll())
    async with running_stack(tmp_path) as stack:
        second = Client(stack, await stack.login())
        assert await stack.controller.settle(DEADLINE_S)
        second.token = first.token
        events = await second.poll()
        assert [event["operation"] for event in events] == ["mod"] * objects
        assert second.token > first.token
        assert await second.poll(timeout_s=0.0) == []


async def test_many_calls_of_one_session_wait_side_by_side(client: Client) -> None:
    await client.quiet()
    calls = [await client.waiting(name) for name in ("vm", "pool", "task")]
    await client("task.create", "mine", "")
    async with asyncio.timeout(DEADLINE_S):
        assert [event["class"] for event in (await calls[2])["events"]] == ["task"]
        assert not calls[0].done()
        await client("VM.set_name_label", ref_of(client, "halted"), "named")
        assert [event["class"] for event in (await calls[0])["events"]] == ["vm"]
    assert not calls[1].done()
    await client("session.logout")
    assert await failure_of(calls[1]) == ["SESSION_INVALID", client.session]


async def test_logout_ends_the_calls_of_its_session_alone(client: Client) -> None:
    await client.quiet()
    other = Client(client.stack, await client.stack.login())
    await other.quiet()
    calls = [await client.waiting(), await client.waiting()]
    await client("event.register", ["task"])
    calls.append(await client.let_wait("event.next"))
    others = await other.waiting("task")
    await client("session.logout")
    for call in calls:
        assert await failure_of(call) == ["SESSION_INVALID", client.session]
    assert not others.done()
    await other("task.create", "mine", "")
    async with asyncio.timeout(DEADLINE_S):
        assert len((await others)["events"]) == 1
    assert client.stack.events._waiting == {}
    assert client.stack.events._registrations == {}


async def test_session_that_ends_while_changes_are_gathered_gets_no_answer(tmp_path: Path) -> None:
    async def log_out(_: float) -> None:
        await stack.call("session.logout", session)

    async with running_stack(tmp_path, event_clock=hasty(log_out)) as stack:
        session = await stack.login()
        client = Client(stack, session)
        await client.quiet()
        call = await client.waiting("vm")
        await client("VM.set_name_label", ref_of(client, "web1"), "web2")
        assert await failure_of(call) == ["SESSION_INVALID", client.session]


async def test_inject_gives_the_token_before_a_change_that_it_pretends(client: Client) -> None:
    (pool,) = await client("pool.get_all")
    client.token = await client("event.inject", "pool", pool)
    assert await client.names("pool") == ["mod pool"]
    await client.quiet()
    call = await client.waiting(f"vm/{ref_of(client, 'web1')}")
    injected = await client("event.inject", "VM", ref_of(client, "web1"))
    async with asyncio.timeout(DEADLINE_S):
        batch = await call
    assert batch["token"] > injected >= client.token
    assert batch["events"][0]["snapshot"] == await client("VM.get_record", ref_of(client, "web1"))


async def test_inject_takes_a_class_as_it_is_spelled_and_an_object_of_it(client: Client) -> None:
    (pool,) = await client("pool.get_all")
    for class_name, ref in (
        *(("Pool", pool), ("VM", pool), ("pool", NOBODY), ("pool", NULL_REF), ("SR", pool), ("", "")),
        ("session", client.session),
    ):
        assert await client.failure("event.inject", class_name, ref) == ["HANDLE_INVALID", class_name, ref]


async def test_number_of_the_next_change_is_told(client: Client) -> None:
    number = await client("event.get_current_id")
    (pool,) = await client("pool.get_all")
    client.token = await client("event.inject", "pool", pool)
    (event,) = await client.poll("pool")
    assert int(event["id"]) >= number
    assert await client("event.get_current_id") == int(client.token[:20]) + 1


async def test_next_tells_what_was_registered_for_since_the_last_call(client: Client) -> None:
    await client.quiet()
    await client("event.register", ["vm"])
    await client("event.register", ["TASK"])
    await client("VM.set_name_label", ref_of(client, "halted"), "named")
    await client("pool.set_other_config", (await client("pool.get_all"))[0], {"a": "b"})
    (event,) = await client("event.next")
    assert (event["class"], event["operation"], event["snapshot"]["name_label"]) == ("vm", "mod", "named")
    assert abs(float(event["timestamp"]) - time.time()) < 60
    call = await client.let_wait("event.next")
    task = await client("task.create", "mine", "")
    async with asyncio.timeout(DEADLINE_S):
        (event,) = await call
    assert (event["class"], event["operation"], event["ref"]) == ("task", "add", task)
    await client("event.unregister", ["task"])
    await client("task.set_progress", task, 1)
    await client("VM.set_name_label", ref_of(client, "named"), "again")
    assert [event["class"] for event in await client("event.next")] == ["vm"]


async def test_next_without_register_is_refused(client: Client) -> None:
    assert await client.failure("event.next") == ["SESSION_NOT_REGISTERED", client.session]
    await client("event.register", ["vm"])
    other = Client(client.stack, await client.stack.login())
    assert (await other.failure("event.next"))[0] == "SESSION_NOT_REGISTERED"


async def test_classes_registered_for_do_not_pile_up(client: Client) -> None:
    words = [f"vm/{number}" for number in range(SUBSCRIPTIONS_MOST - 1)]
    await client("event.register", words)
    await client("event.register", ["task", *words])
    assert await client.failure("event.register", ["pool"]) == [
        *("INVALID_VALUE", "classes", "257 of them; at most 256 are taken"),
    ]
    task = await client("task.create", "mine", "")
    assert [event["ref"] for event in await client("event.next")] == [task]
    await client("event.unregister", words)
    await client("event.register", ["pool"])


async def test_next_that_waits_already_heeds_a_class_registered_later(client: Client) -> None:
    await client("event.register", [])
    call = await client.let_wait("event.next")
    await client("event.register", ["pool"])
    await asyncio.sleep(0)
    (pool,) = await client("pool.get_all")
    await client("event.inject", "pool", pool)
    async with asyncio.timeout(DEADLINE_S):
        assert [event["class"] for event in await call] == ["pool"]


async def test_calls_of_next_side_by_side_share_the_events(client: Client) -> None:
    await client("event.register", ["task"])
    calls = [asyncio.create_task(client("event.next")) for _ in range(2)]
    await asyncio.sleep(0)
    refs = {await client("task.create", str(number), "") for number in range(1)}
    async with asyncio.timeout(DEADLINE_S):
        done, (left,) = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
    assert {event["ref"] for call in done for event in call.result()} == refs
    refs = {await client("task.create", "another", "")}
    async with asyncio.timeout(DEADLINE_S):
        assert {event["ref"] for event in await left} == refs


async def test_next_of_a_client_that_hung_up_leaves_the_events_to_the_next_call(
    client: Client,
) -> None:
    await client("event.register", ["task"])
    peer = Peer("192.0.2.1")
    left = asyncio.create_task(client.stack.call("event.next", client.session, peer=peer))
    await asyncio.sleep(0)
    following = await client.let_wait("event.next")
    task = await client("task.create", "mine", "")
    peer.presence.end()
    assert await failure_of(left) == ["INTERNAL_ERROR", "connection lost"]
    async with asyncio.timeout(DEADLINE_S):
        assert [event["ref"] for event in await following] == [task]


async def test_call_of_a_client_that_hung_up_before_does_not_wait(client: Client) -> None:
    await client.quiet()
    peer = Peer("192.0.2.1")
    peer.presence.end()
    call = client.stack.call("event.from", client.session, ["task"], client.token, LONG_S, peer=peer)
    assert await failure_of(call) == ["INTERNAL_ERROR", "connection lost"]
    assert client.stack.events._waiting == {}


async def test_next_answers_that_nothing_happened_when_it_has_waited_long(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events_module, "NEXT_WAIT_S", SHORT_S)
    await client("event.register", ["task"])
    assert await client("event.next") == ()


async def test_next_says_when_it_cannot_tell_all(client: Client) -> None:
    await client("event.register", ["task"])
    for _ in range(DELETIONS_KEPT + 1):
        task = await client("task.create", "brief", "")
        await client("task.set_status", task, "success")
        await client("task.destroy", task)
    assert await client.failure("event.next") == ["EVENTS_LOST"]
    await client("task.create", "kept", "")
    assert len(await client("event.next")) == 1


async def test_end_of_the_daemon_is_told_to_all_who_wait(client: Client) -> None:
    await client.quiet()
    calls = [await client.waiting()]
    await client("event.register", ["task"])
    calls.append(await client.let_wait("event.next"))
    client.stack.events.close()
    for call in calls:
        assert await failure_of(call) == ["INTERNAL_ERROR", "connection lost"]
    assert await client.failure("event.from", ["*"], "", 0) == ["INTERNAL_ERROR", "connection lost"]


async def test_nothing_is_followed_before_the_first_client_asks(tmp_path: Path) -> None:
    async with running_stack(tmp_path) as stack:
        client = Client(stack, await stack.login())
        await client("VM.set_name_label", ref_of(client, "halted"), "named")
        assert not stack.events._feed.is_open
        assert stack.events._journal.counts["vm"] == 0
        await client.poll()
        assert stack.events._feed.is_open


async def test_thousand_who_wait_share_one_answer_and_are_left_alone_until_then(client: Client) -> None:
    await client.quiet()
    waiting = client.stack.events._waiting
    callers = [Client(client.stack, await client.stack.login()) for _ in range(300)]
    params = (["vm", "pool"], client.token, LONG_S)
    calls = [await callers[number % 300].let_wait("event.from", *params) for number in range(1000)]
    async with asyncio.timeout(DEADLINE_S):
        untouched = {key: set(futures) for key, futures in waiting.items()}
        assert len(untouched["~vm"]) == 1000
        await client("task.create", "not theirs", "")
        assert waiting == untouched
        await client("VM.set_name_label", ref_of(client, "halted"), "named")
        answers = await asyncio.gather(*calls)
    assert {id(answer) for answer in answers} == {id(answers[0])}
    assert [event["ref"] for event in answers[0]["events"]] == [ref_of(client, "named")]
    assert waiting == {}


async def test_all_who_wait_for_a_change_let_the_same_moment_pass_and_share_one_encoding(
    tmp_path: Path,
) -> None:
    slept_s: list[float] = []

    async def count_sleeps(seconds: float) -> None:
        slept_s.append(seconds)

    async with running_stack(tmp_path, event_clock=hasty(count_sleeps)) as stack:
        client = Client(stack, await stack.login())
        await client.quiet()
        slept_s.clear()
        calls = [await client.waiting("vm") for _ in range(50)]
        await client("VM.set_name_label", ref_of(client, "halted"), "named")
        async with asyncio.timeout(DEADLINE_S):
            answers = await asyncio.gather(*calls)
        assert slept_s == [BATCH_S]
        encoded = {id(codec.encode_value(answer)) for answer in answers}
        assert len(encoded) == 1


async def test_answers_kept_for_others_are_few_and_forgotten_with_the_next_change(client: Client) -> None:
    tokens = []
    for number in range(40):
        tokens.append(client.token)
        await client("task.create", str(number), "")
        await client.poll("task")
    for token in tokens:
        await client("event.from", ["task"], token, 0)
    assert 0 < len(client.stack.events._answers) <= events_module.ANSWERS_KEPT
    await client("task.create", "last", "")
    assert client.stack.events._answers == {}


async def test_vm_whose_domain_is_gone_is_told_of_while_the_report_is_still_being_taken_up(
    client: Client,
) -> None:
    await client.quiet()
    report, service = client.stack.controller.report, client.stack.service
    assert report is not None
    gone, moved = report.look.host.domains
    host = replace(report.look.host, domains=(replace(moved, actual_kib=moved.actual_kib - 4),))
    steps = service.absorb(replace(report, look=replace(report.look, host=host)))
    next(steps)
    assert not service.vm(gone.uuid).is_resident
    told = [(event["operation"], event["class"]) for event in await client.poll(timeout_s=0)]
    assert ("del", "vm_guest_metrics") in told
    assert ("mod", "vm") in told
    whole = await client("event.from", ["*"], "", 0)
    assert sum(event["class"] == "vm_guest_metrics" for event in whole["events"]) == 1
    assert list(steps) == []


async def test_object_that_is_gone_and_of_which_nobody_was_told_yet_spoils_no_answer(client: Client) -> None:
    await client.quiet()
    ledger, vm = client.stack.service._ledger, client.stack.vm("web1")
    guest_metrics = (await client("VM.get_record", vm.ref))["guest_metrics"]
    await client("event.register", ["*"])
    await client("event.inject", "VM_guest_metrics", guest_metrics)
    await client("VM.set_name_label", vm.ref, "renamed")
    ledger.overlay(vm.uuid, None)
    assert await client.names(timeout_s=0) == ["mod vm renamed"]
    assert [(event["operation"], event["class"]) for event in await client("event.next")] == [("mod", "vm")]
    ledger.publish()
    for events in (await client.poll(timeout_s=0), await client("event.next")):
        assert ("del", guest_metrics) in [(event["operation"], event["ref"]) for event in events]


async def test_fleet_that_moves_wakes_who_waits_once(tmp_path: Path) -> None:
    guests = [a_guest(number, f"g{number}") for number in (1, 2, 3, 4)]
    async with running_stack(tmp_path, guests, event_clock=hasty()) as stack:
        client = Client(stack, await stack.login())
        await client.quiet()
        mirror = dict(await client("VM.get_all_records"))
        await client("Memory.reserve_memory", 6 * GIB_KIB)
        assert await stack.controller.settle(10)
        while events := await client.poll("vm", timeout_s=0):
            mirror |= {event["ref"]: event["snapshot"] for event in events}
        assert mirror == await client("VM.get_all_records")
        assert {vm["memory_target"] for vm in mirror.values()} != {3 * GIB}


async def test_events_of_another_clock_start_at_its_time(tmp_path: Path) -> None:
    async with running_stack(tmp_path) as stack:
        late = Events(stack.service, stack.tasks, stack.records, stack.sessions, EventClock(lambda: 5e9))
        caller = Caller(NETWORK, stack.sessions.find(await stack.login()))
        answer = await late.wait_from(caller, ["pool"], "", 0.0)
        assert answer["token"] == f"{5 * 10**15:020d},{0:020d}"
        late.close()
