"""Logins, handles, limits and ends of sessions."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import threading
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest

from tests.virtualtime import VirtualTime
from xcpmem.api.sessions import WRONG_PASSWORD_DELAY_S, Peer, SessionClock, SessionLimits, Sessions
from xcpmem.errors import AuthenticationFailed, ConnectionLost, SessionInvalid

NETWORK = Peer("192.0.2.1")
HOUR_S = 3600.0


class OnePassword:
    def authenticate(self, uname: str, pwd: str) -> str | None:
        return {("root", "right"): "pool-admin", ("eve", "right"): "read-only"}.get((uname, pwd))


@dataclass
class Virtual:
    """A clock that moves when told, and whoever sleeps on it."""

    now_s: float = 1000.0
    slept_s: list[float] = field(default_factory=list)

    def clock(self) -> SessionClock:
        return SessionClock(lambda: self.now_s, self._now, self._sleep)

    def _now(self) -> datetime:
        return datetime(2024, 1, 1, tzinfo=UTC) + timedelta(seconds=self.now_s)

    async def _sleep(self, seconds: float) -> None:
        self.slept_s.append(seconds)


@dataclass
class Released:
    uuids: list[str] = field(default_factory=list)
    seen: asyncio.Event = field(default_factory=asyncio.Event)

    async def __call__(self, uuid: str) -> None:
        self.uuids.append(uuid)
        self.seen.set()


def make_sessions(
    virtual: Virtual | None = None, limits: SessionLimits | None = None
) -> tuple[Sessions, Released]:
    released = Released()
    clock = (virtual or Virtual()).clock()
    return Sessions(OnePassword(), released, limits=limits, clock=clock), released


async def test_login_gives_a_random_handle_that_finds_the_session() -> None:
    sessions, _ = make_sessions()
    first = await sessions.login("root", "right", NETWORK)
    second = await sessions.login("root", "right", NETWORK)
    assert re.fullmatch(
        r"OpaqueRef:[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", first.ref
    )
    assert len({first.ref, second.ref, first.uuid, second.uuid}) == 4
    assert sessions.find(first.ref) is first
    assert (first.uname, first.role, first.originator) == ("root", "pool-admin", "")
    assert len(sessions) == 2
    await sessions.close()


async def test_handle_stands_in_neither_repr_nor_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    sessions, _ = make_sessions(limits=SessionLimits(default_group=1))
    refs = [(await sessions.login("root", "right", NETWORK)).ref for _ in range(3)]
    with pytest.raises(AuthenticationFailed):
        await sessions.login("root", "wrong-secret", NETWORK)
    last = sessions.find(refs[2])
    await sessions.logout(last)
    secrets = [ref.removeprefix("OpaqueRef:") for ref in refs] + ["right", "wrong-secret"]
    shown = repr(last) + "".join(str(record.__dict__) for record in caplog.records)
    assert [secret for secret in secrets if secret in shown] == []
    assert len(caplog.records) >= 6
    await sessions.close()


async def test_log_says_who_logged_in_from_where_and_why_the_session_ended(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    sessions, _ = make_sessions(limits=SessionLimits(default_group=1))
    first = await sessions.login("root", "right", NETWORK)
    await sessions.login("whoever", "whatever", Peer("unix", 0))
    sessions.end_all_of("nobody")
    with pytest.raises(AuthenticationFailed):
        await sessions.login("root", "wrong", NETWORK)
    await sessions.login("root", "right", NETWORK)
    assert caplog.messages == [
        f"root logged in from {NETWORK.address}",
        "root logged in from unix uid 0",
        f"login as 'root' from {NETWORK.address} was refused: wrong user or password",
        f"session {first.uuid} of root ended: too many of its group",
        f"root logged in from {NETWORK.address}",
    ]
    await sessions.close()


async def test_name_that_nobody_has_is_told_in_quotes_on_one_line_and_cut(
    caplog: pytest.LogCaptureFixture,
) -> None:
    sessions, _ = make_sessions()
    with pytest.raises(AuthenticationFailed):
        await sessions.login("root' from 127.0.0.1\nroot logged in" + "x" * 100_000, "wrong", NETWORK)
    (told,) = caplog.messages
    assert told.startswith("login as \"root' from 127.0.0.1\\nroot logged inxxx")
    assert told.endswith(f'xxx" from {NETWORK.address} was refused: wrong user or password')
    assert len(told) < 150
    await sessions.close()


async def test_wrong_password_waits_and_says_no_more_than_that() -> None:
    virtual = Virtual()
    sessions, _ = make_sessions(virtual)
    for uname, pwd in (("root", "wrong"), ("nobody", "right")):
        with pytest.raises(AuthenticationFailed) as refusal:
            await sessions.login(uname, pwd, NETWORK)
        assert refusal.value.params == (uname, "Authentication failure")
    assert virtual.slept_s == [5.0, 5.0]
    assert sessions.login_failures == 2
    assert len(sessions) == 0


class Held:
    """A clock on which two who guessed wrong sleep until they are let go."""

    def __init__(self) -> None:
        self.sleepers = 0
        self.both_sleep = asyncio.Event()
        self.let_go = asyncio.Event()

    async def sleep(self, seconds: float) -> None:
        if seconds < WRONG_PASSWORD_DELAY_S:
            return
        self.sleepers += 1
        if self.sleepers == 2:
            self.both_sleep.set()
        await self.let_go.wait()


async def fail_to_log_in(sessions: Sessions) -> None:
    with pytest.raises(AuthenticationFailed):
        await sessions.login("root", "wrong", NETWORK)


async def test_waiting_for_a_wrong_password_holds_up_nobody_else() -> None:
    held = Held()
    sessions = Sessions(OnePassword(), Released(), clock=SessionClock(sleep=held.sleep))
    async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
        wrong = [tasks.create_task(fail_to_log_in(sessions)) for _ in range(2)]
        await held.both_sleep.wait()
        session = await sessions.login("root", "right", NETWORK)
        assert sessions.find(session.ref) is session
        assert not any(task.done() for task in wrong)
        held.let_go.set()
    await sessions.close()


async def test_flood_of_wrong_passwords_locks_nobody_out_and_says_nothing_else() -> None:
    time = VirtualTime()
    clock = SessionClock(time.monotonic_s, sleep=time.sleep)
    sessions = Sessions(OnePassword(), Released(), clock=clock)
    wrong = [asyncio.create_task(sessions.login("root", "wrong", NETWORK)) for _ in range(200)]
    await time.run(0)
    owner = asyncio.create_task(sessions.login("root", "right", NETWORK))
    assert await sessions.login("root", "", Peer("unix", 0))
    async with asyncio.timeout(20):
        while not owner.done():
            await time.run(0.05)
    assert sessions.find(owner.result().ref)
    async with asyncio.timeout(20):
        while not all(task.done() for task in wrong):
            await time.run(1)
    assert {type(task.exception()) for task in wrong} == {AuthenticationFailed}
    await sessions.close()


async def test_user_who_is_changed_is_logged_out_and_a_login_under_way_comes_to_nothing() -> None:
    gate = threading.Event()

    class Slow(OnePassword):
        def authenticate(self, uname: str, pwd: str) -> str | None:
            assert gate.wait(timeout=20)
            return super().authenticate(uname, pwd)

    sessions = Sessions(Slow(), Released(), clock=Virtual().clock())
    gate.set()
    kept, ended, root = [await sessions.login(uname, "right", NETWORK) for uname in ("eve", "eve", "root")]
    gate.clear()
    late = asyncio.create_task(sessions.login("eve", "right", NETWORK))
    await asyncio.sleep(0)
    sessions.end_all_of("eve", but=kept)
    gate.set()
    with pytest.raises(AuthenticationFailed):
        await late
    with pytest.raises(SessionInvalid):
        sessions.find(ended.ref)
    assert sessions.find(kept.ref) is kept
    assert sessions.find(root.ref) is root
    assert (await sessions.login("eve", "right", NETWORK)).role == "read-only"
    await sessions.close()


def test_source_is_a_user_an_address_or_the_network_of_a_subscriber() -> None:
    sources = {
        Peer("unix", 7): "uid 7",
        Peer("192.0.2.1"): "192.0.2.1",
        Peer("::ffff:192.0.2.1"): "192.0.2.1",
        Peer("2001:db8:1:2:3:4:5:6"): "2001:db8:1:2::/64",
        Peer("fe80::1%eth0"): "fe80::/64",
        Peer("unknown"): "unknown",
    }
    assert {peer: peer.source for peer in sources} == sources


async def test_passwords_are_checked_off_the_loop_two_at_a_time() -> None:
    class Slow:
        def __init__(self) -> None:
            self.lock = threading.Lock()
            self.at_once = self.most = 0
            self.threads: set[int] = set()
            self.pair = threading.Barrier(2)

        def authenticate(self, uname: str, pwd: str) -> str | None:
            assert (uname, pwd) == ("root", "x")
            with self.lock:
                self.at_once += 1
                self.most = max(self.most, self.at_once)
                self.threads.add(threading.get_ident())
            self.pair.wait(timeout=10)
            with self.lock:
                self.at_once -= 1
            return "pool-admin"

    slow = Slow()
    sessions = Sessions(slow, Released())
    await asyncio.gather(*(sessions.login("root", "x", NETWORK) for _ in range(6)))
    assert slow.most == 2
    assert threading.get_ident() not in slow.threads
    await sessions.close()


@pytest.mark.parametrize("uid", [0, os.getuid()])
async def test_root_and_the_daemons_user_on_the_unix_socket_need_no_password(uid: int) -> None:
    sessions, _ = make_sessions()
    session = await sessions.login("whoever", "whatever", Peer("unix", uid))
    assert session.role == "pool-admin"
    await sessions.close()


async def test_other_users_on_the_unix_socket_need_a_password() -> None:
    sessions, _ = make_sessions()
    with pytest.raises(AuthenticationFailed):
        await sessions.login("root", "wrong", Peer("unix", os.getuid() + 1))


async def test_session_ends_after_a_day_without_use() -> None:
    virtual = Virtual()
    sessions, released = make_sessions(virtual)
    idle = await sessions.login("root", "right", NETWORK)
    used = await sessions.login("root", "right", NETWORK)
    virtual.now_s += 23 * HOUR_S
    sessions.find(used.ref)
    virtual.now_s += 1 * HOUR_S
    with pytest.raises(SessionInvalid) as refusal:
        sessions.find(idle.ref)
    assert refusal.value.params == (idle.ref,)
    assert sessions.find(used.ref) is used
    await sessions.close()
    assert released.uuids == [idle.uuid]


async def test_expiry_releases_what_a_session_owned_though_nobody_calls() -> None:
    released = Released()
    sessions = Sessions(OnePassword(), released, idle_limit_s=0.01)
    session = await sessions.login("root", "right", NETWORK)
    async with asyncio.timeout(10):
        await released.seen.wait()
    assert released.uuids == [session.uuid]
    assert len(sessions) == 0
    await sessions.close()


async def test_logout_releases_before_it_returns_and_only_once() -> None:
    sessions, released = make_sessions()
    session = await sessions.login("root", "right", NETWORK)
    await sessions.logout(session)
    assert released.uuids == [session.uuid]
    with pytest.raises(SessionInvalid):
        sessions.find(session.ref)
    await sessions.logout(session)
    assert released.uuids == [session.uuid]
    await sessions.close()


async def test_each_end_of_a_session_is_told_once_and_when_the_session_is_gone() -> None:
    virtual = Virtual()
    sessions, _ = make_sessions(virtual, SessionLimits(default_group=2))
    ended: list[tuple[str, bool]] = []
    sessions.on_end(lambda session: ended.append((session.uuid, sessions.is_open(session.uuid))))
    evicted, logged_out = [await sessions.login("root", "right", NETWORK) for _ in range(2)]
    expired = await sessions.login("root", "right", NETWORK)
    await sessions.logout(logged_out)
    await sessions.logout(logged_out)
    virtual.now_s += 24 * HOUR_S
    sessions.expire()
    assert ended == [(session.uuid, False) for session in (evicted, logged_out, expired)]
    await sessions.close()


async def test_logout_ends_the_session_even_if_nothing_can_be_released(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def release(_: str) -> None:
        raise ConnectionLost

    sessions = Sessions(OnePassword(), release, clock=Virtual().clock())
    session = await sessions.login("root", "right", NETWORK)
    await sessions.logout(session)
    assert len(sessions) == 0
    assert caplog.messages[-1] == (
        f"what session {session.uuid} of root had reserved could not be given back: connection lost"
    )
    await sessions.close()


async def test_least_recently_used_session_of_the_same_originator_makes_room() -> None:
    sessions, released = make_sessions(limits=SessionLimits(default_group=2, per_originator=2, total=100))
    other = await sessions.login("root", "right", NETWORK, "xo")
    first, second = [await sessions.login("root", "right", NETWORK) for _ in range(2)]
    sessions.find(first.ref)
    third = await sessions.login("root", "right", NETWORK)
    for survivor in (other, first, third):
        assert sessions.find(survivor.ref) is survivor
    with pytest.raises(SessionInvalid):
        sessions.find(second.ref)
    await sessions.close()
    assert released.uuids == [second.uuid]


async def test_inventing_originators_does_not_help_beyond_the_total() -> None:
    sessions, _ = make_sessions(limits=SessionLimits(total=10))
    for number in range(50):
        await sessions.login("root", "right", NETWORK, f"originator {number}" * 100)
    assert len(sessions) == 10
    assert len(sessions._group_sizes) == 10
    await sessions.close()


async def test_session_is_found_by_its_public_name() -> None:
    sessions, _ = make_sessions()
    session = await sessions.login("eve", "right", NETWORK)
    assert session.role == "read-only"
    assert sessions.find_by_uuid(session.uuid) is session
    assert sessions.peek(session.ref) is session
    assert sessions.find_by_uuid(session.ref) is None
    assert sessions.peek(session.uuid) is None
    assert sessions.is_open(session.uuid)
    await sessions.logout(session)
    assert not sessions.is_open(session.uuid)
    await sessions.close()
