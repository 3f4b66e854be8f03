"""The face to xenstore: what pyxs alone gets wrong, and what a daemon needs beyond it.

The other end is the double on a real socket, which misbehaves on request.
"""

from __future__ import annotations

import asyncio
import os
import resource
import socket
import threading
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from tests.contract.store_laws import events_until
from xcpmem.errors import DriverDisconnected, DriverError, DriverTimeout, InvalidValue, StoreError
from xcpmem.xen.mailbox import ChangedPaths, Events
from xcpmem.xen.simstore import StoreServer
from xcpmem.xen.storefault import Fault, Misbehaviour
from xcpmem.xen.storelink import connected_socket
from xcpmem.xen.storetree import Store
from xcpmem.xen.wire import Message, MessageType
from xcpmem.xen.xenstore import Xenstore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
    from pathlib import Path

DEADLINE_S = 5.0
SHORT_S = 0.3
LONG_S = 60.0
PROBE = MessageType.GET_DOMAIN_PATH
DOMAIN = "/local/domain/7"
TARGET = f"{DOMAIN}/memory/target"


@pytest.fixture
async def double(tmp_path: Path) -> AsyncIterator[StoreServer]:
    server = StoreServer(Store())
    await server.start(str(tmp_path / "s"))
    yield server
    await server.close()
    assert "xenstore reader" not in {thread.name for thread in threading.enumerate()}


@asynccontextmanager
async def connected(
    double: StoreServer,
    *,
    call_deadline_s: float = DEADLINE_S,
    sleep: Callable[[float], Awaitable[None]] | None = None,
    jitter: Callable[[], float] = lambda: 0.0,
) -> AsyncIterator[Xenstore]:
    async def at_once(_delay_s: float) -> None:
        await asyncio.sleep(0)

    store = Xenstore(double.path, call_deadline_s=call_deadline_s, sleep=sleep or at_once, jitter=jitter)
    await store.connect()
    try:
        async with asyncio.timeout(2 * DEADLINE_S):
            yield store
    finally:
        await store.close()


def failing(
    message_type: MessageType,
    misbehaviour: Misbehaviour,
    *,
    times: int = 1,
    error: str = "EIO",
) -> Callable[[Message], Fault | None]:
    """Return a hook that fails the first so many messages of a type."""
    left = [times]

    def hook(message: Message) -> Fault | None:
        if message.type != message_type or not left[0]:
            return None
        left[0] -= 1
        return Fault(misbehaviour, error)

    return hook


def silent(_message: Message) -> Fault:
    """Answer nobody."""
    return Fault(Misbehaviour.SILENCE)


def is_resync(events: Events) -> bool:
    return events.resync


# The twelve defects of pyxs, in the order of their discovery.


async def test_caller_wakes_when_xenstored_closes_while_a_request_is_out(double: StoreServer) -> None:
    double.fault = failing(MessageType.READ, Misbehaviour.HANG_UP)
    async with connected(double) as store:
        with pytest.raises(DriverDisconnected, match="closed the connection"):
            await store.read(TARGET)


async def test_caller_gives_up_at_its_deadline_when_xenstored_does_not_answer(double: StoreServer) -> None:
    async with connected(double, call_deadline_s=SHORT_S) as store:
        double.fault = silent
        with pytest.raises(DriverTimeout, match=f"READ {TARGET} within 0.3 s"):
            await store.read(TARGET)
        assert not store.connected
        double.fault = None
        await events_until(store, is_resync)
        assert store.connected


async def test_caller_of_a_request_that_is_swallowed_is_told_as_soon_as_a_later_one_is_answered(
    double: StoreServer,
) -> None:
    double.fault = failing(MessageType.READ, Misbehaviour.SILENCE)
    async with connected(double) as store:
        with pytest.raises(DriverDisconnected, match="a request was swallowed"):
            await store.read(TARGET)
        await events_until(store, is_resync)
        assert await store.read(TARGET) is None


async def test_nothing_is_asked_beside_what_is_answered_at_once(double: StoreServer) -> None:
    asked: list[MessageType] = []

    def listen(message: Message) -> None:
        asked.append(MessageType(message.type))

    double.fault = listen
    async with connected(double, call_deadline_s=LONG_S) as store:
        before = len(asked)
        for _ in range(20):
            await store.read(TARGET)
        assert set(asked[before:]) == {MessageType.READ}


async def test_all_callers_wake_when_a_reply_exceeds_the_limit(double: StoreServer) -> None:
    double.fault = failing(MessageType.READ, Misbehaviour.OVERSIZE)
    async with connected(double) as store:
        results = await asyncio.gather(*(store.read(TARGET) for _ in range(5)), return_exceptions=True)
        assert [type(result) for result in results] == [DriverDisconnected] * 5
        assert "the protocol allows 4096" in str(results[0])


async def test_watch_event_with_a_third_field_is_taken_like_any_other(double: StoreServer) -> None:
    double.fault = failing(MessageType.WATCH_EVENT, Misbehaviour.ADD_FIELD, times=100)
    async with connected(double) as store:
        await store.watch(DOMAIN, "t")
        double.store.write(TARGET, "1")
        await events_until(store, lambda events: events.paths == {DOMAIN, TARGET})
        assert await store.read(TARGET) == "1"
        assert store.reconnects == 0


@pytest.fixture
def many_open_files() -> Iterator[list[int]]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
    descriptors = [os.open(os.devnull, os.O_RDONLY)]
    while descriptors[-1] < 1024:
        descriptors.append(os.dup(descriptors[0]))
    yield descriptors
    for descriptor in descriptors:
        os.close(descriptor)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_connecting_with_too_many_open_files_says_what_is_wrong(
    double: StoreServer,
    many_open_files: list[int],
) -> None:
    store = Xenstore(double.path)
    with pytest.raises(DriverError, match=r"file descriptor 10\d\d is too high: .*select.*connect .*earlier"):
        await store.connect()
    while many_open_files:
        os.close(many_open_files.pop())
    await store.connect()
    assert await store.read(TARGET) is None
    await store.close()


@pytest.fixture
def no_file_descriptor() -> Iterator[Callable[[], None]]:
    """No further file can be opened until the returned function is called."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))

    def end() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    yield end
    end()


async def test_connecting_without_a_free_file_descriptor_says_so(
    double: StoreServer, no_file_descriptor: Callable[[], None]
) -> None:
    store = Xenstore(double.path)
    with pytest.raises(DriverDisconnected, match="Too many open files"):
        await store.connect()
    no_file_descriptor()
    await store.connect()
    await store.close()


async def test_connecting_with_one_free_file_descriptor_leaves_it_free(double: StoreServer) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    store = Xenstore(double.path)
    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free + 1, hard))
    try:
        with pytest.raises(DriverError, match="Too many open files"):
            await store.connect()
        os.close(os.dup(0))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_connection_comes_back_when_there_are_file_descriptors_again(double: StoreServer) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    path, attempts, tried = double.path, [0], asyncio.Event()

    async def note(_delay_s: float) -> None:
        attempts[0] += resource.getrlimit(resource.RLIMIT_NOFILE)[0] != soft
        if attempts[0] == 3:
            tried.set()
        await asyncio.sleep(0)

    async with connected(double, sleep=note) as store:
        await double.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        try:
            await tried.wait()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        await double.start(path)
        await events_until(store, is_resync)
        assert await store.read(TARGET) is None


async def test_request_ids_begin_anew_after_32_bits(double: StoreServer) -> None:
    ids: list[int] = []

    def note(message: Message) -> None:
        ids.append(message.request_id)

    double.fault = note
    async with connected(double) as store:
        link = store._session._link
        assert link is not None
        link._request_id = 2**32 - 3
        assert await store.read_many([TARGET] * 4) == [None] * 4
        assert await store.read(TARGET) is None
    assert ids == [2**32 - 2, 2**32 - 1, 0, 1, 2]


async def test_lost_connection_comes_back_again_and_again(double: StoreServer) -> None:
    async with connected(double) as store:
        for times in range(3):
            assert store.reconnects == times
            assert await store.read(TARGET) is None
            await double.disconnect()
            await events_until(store, is_resync)


async def test_empty_value_is_written(double: StoreServer) -> None:
    async with connected(double) as store:
        await store.write(f"{DOMAIN}/memory/uncooperative", "")
    assert double.store.read(f"{DOMAIN}/memory/uncooperative") == ""


async def test_special_watch_of_one_domain_fires(double: StoreServer) -> None:
    double.store.introduce(3)
    async with connected(double) as store:
        await store.watch("@releaseDomain/3", "t")
        await events_until(store, bool)
        double.store.release(3)
        events = await events_until(store, bool)
    assert events.paths == {"@releaseDomain/3"}


@pytest.mark.parametrize("value", ["\u00e4", "1\n", "nul\0", "\x7f", "x" * 4096])
async def test_forbidden_value_is_refused_by_name_before_anything_is_sent(
    double: StoreServer, value: str
) -> None:
    async with connected(double) as store:
        with pytest.raises(InvalidValue) as refusal:
            await store.write(TARGET, value)
        assert refusal.value.params == (TARGET, value)
        assert store.requests == 0
    assert double.store.read(TARGET) is None


async def test_exchanges_are_timed_answered_or_not(double: StoreServer) -> None:
    async with connected(double, call_deadline_s=SHORT_S) as store:
        took_s: list[float] = []
        store.observe_exchanges(took_s.append)
        await store.read_many((TARGET, DOMAIN))
        double.fault = silent
        with pytest.raises(DriverTimeout):
            await store.read(TARGET)
        assert len(took_s) == 2
        assert took_s[1] >= SHORT_S > took_s[0] >= 0


async def test_absent_key_reads_as_none(double: StoreServer) -> None:
    async with connected(double) as store:
        assert await store.read(TARGET) is None


# Losing and mending the connection.


@pytest.mark.parametrize(
    "misbehaviour",
    [Misbehaviour.MISTAKE_TYPE, Misbehaviour.OVERSIZE, Misbehaviour.HANG_UP],
)
async def test_connection_is_mended_after_a_breach_of_protocol(
    double: StoreServer,
    misbehaviour: Misbehaviour,
) -> None:
    double.fault = failing(MessageType.MKDIR, misbehaviour)
    async with connected(double) as store:
        with pytest.raises(DriverDisconnected):
            await store.mkdir(DOMAIN)
        await events_until(store, is_resync)
        await store.mkdir(DOMAIN)
        assert store.reconnects == 1


async def test_connection_is_mended_after_a_reply_to_nobody(double: StoreServer) -> None:
    double.fault = failing(MessageType.MKDIR, Misbehaviour.SEND_TWICE)
    async with connected(double) as store:
        await store.mkdir(DOMAIN)
        await events_until(store, is_resync)
        await store.mkdir(DOMAIN)
        assert store.reconnects == 1


async def test_torn_reply_ends_at_the_deadline_and_leaves_no_thread(double: StoreServer) -> None:
    tear = failing(MessageType.READ, Misbehaviour.TEAR)
    double.fault = lambda message: silent(message) if message.type == PROBE else tear(message)
    async with connected(double, call_deadline_s=SHORT_S) as store:
        with pytest.raises(DriverTimeout):
            await store.read(TARGET)
        await events_until(store, is_resync)


async def test_watch_event_without_a_token_ends_the_connection(double: StoreServer) -> None:
    double.fault = failing(MessageType.WATCH_EVENT, Misbehaviour.OMIT_PAYLOAD)
    async with connected(double) as store:
        await store.watch(DOMAIN, "t")
        await events_until(store, is_resync)
        assert store.reconnects == 1


async def test_watches_are_set_again_when_the_connection_is_back(double: StoreServer) -> None:
    async with connected(double) as store:
        await store.watch(DOMAIN, "t")
        await store.watch("/ended", "t")
        await store.unwatch("/ended", "t")
        await double.disconnect()
        await events_until(store, is_resync)

        double.store.write("/ended", "1")
        double.store.write(TARGET, "2")
        events = await events_until(store, lambda events: TARGET in events.paths)
    assert events.paths <= {DOMAIN, TARGET}


async def test_calls_fail_at_once_while_the_connection_is_away(double: StoreServer) -> None:
    away = asyncio.Event()

    async def wait(_delay_s: float) -> None:
        await away.wait()

    async with connected(double, sleep=wait) as store:
        await store.watch(DOMAIN, "t")
        lost = asyncio.create_task(store.read_many([TARGET] * 3))
        await double.disconnect()
        with pytest.raises(DriverDisconnected):
            await lost
        with pytest.raises(DriverDisconnected, match="not connected"):
            await store.read(TARGET)
        with pytest.raises(DriverDisconnected, match="not connected"):
            await store.watch(TARGET, "t")
        await store.unwatch(DOMAIN, "t")
        away.set()
        await events_until(store, is_resync)
        double.store.write(TARGET, "1")
        assert await store.read(TARGET) == "1"
        assert not store.take_events()


async def test_attempts_to_reconnect_come_ever_more_slowly_and_spread(double: StoreServer) -> None:
    delays: list[float] = []
    enough = asyncio.Event()

    async def note(delay_s: float) -> None:
        delays.append(delay_s)
        if len(delays) == 10:
            enough.set()
        await asyncio.sleep(0)

    path = double.path
    async with connected(double, sleep=note, jitter=lambda: 0.5) as store:
        await double.close()
        await enough.wait()
        assert delays[:4] == pytest.approx([0.0375, 0.075, 0.15, 0.3])
        assert delays[9] == pytest.approx(0.75)
        await double.start(path)
        await events_until(store, is_resync)
        assert store.connected


async def test_reconnection_starts_over_when_a_watch_is_refused(double: StoreServer) -> None:
    async with connected(double) as store:
        await store.watch(DOMAIN, "t")
        double.fault = failing(MessageType.WATCH, Misbehaviour.REFUSE, times=2, error="ENOMEM")
        await double.disconnect()
        await events_until(store, is_resync)
        double.store.write(TARGET, "1")
        await events_until(store, lambda events: TARGET in events.paths)
        assert store.reconnects == 1


async def test_closing_wakes_those_who_wait_and_may_be_repeated(double: StoreServer) -> None:
    double.fault = failing(MessageType.READ, Misbehaviour.SILENCE)
    async with connected(double) as store:
        waiting = asyncio.create_task(store.read(TARGET))
        await asyncio.sleep(0)
        await store.close()
        with pytest.raises(DriverDisconnected, match="closed by the caller"):
            await waiting
        await store.close()
        assert not store.connected
        await store.connect()
        assert await store.read(TARGET) is None
        await store.connect()


async def test_closing_ends_a_reconnection(double: StoreServer) -> None:
    waiting = asyncio.Event()

    async def forever(_delay_s: float) -> None:
        waiting.set()
        await asyncio.get_running_loop().create_future()

    async with connected(double, sleep=forever) as store:
        await store.read(TARGET)
        await double.disconnect()
        await waiting.wait()
        await store.close()
        assert not store.connected


async def test_closing_says_so_when_the_reader_does_not_end(double: StoreServer) -> None:
    async with connected(double, call_deadline_s=SHORT_S) as store:
        link = store._session._link
        assert link is not None
        with link._mailbox._lock, pytest.raises(DriverTimeout, match="does not end"):
            await store.close()
        await link.ended


async def test_connecting_fails_cleanly_when_there_can_be_no_thread(
    double: StoreServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    store = Xenstore(double.path)
    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(DriverError, match="can't start new thread"):
        await store.connect()
    assert not store.connected
    await store.close()


async def test_all_callers_wake_when_sending_fails(double: StoreServer) -> None:
    async with connected(double) as store:
        link = store._session._link
        assert link is not None
        link._socket.shutdown(socket.SHUT_WR)
        with pytest.raises(DriverDisconnected, match="cannot send"):
            await store.read(TARGET)
        await events_until(store, is_resync)


async def test_more_callers_than_are_served_at_a_time_all_wake(double: StoreServer) -> None:
    double.fault = failing(MessageType.READ, Misbehaviour.HANG_UP)
    async with connected(double) as store:
        results = await asyncio.gather(*(store.read(TARGET) for _ in range(200)), return_exceptions=True)
        assert {type(result) for result in results} == {DriverDisconnected}


async def test_connecting_fails_when_nobody_listens(tmp_path: Path) -> None:
    store = Xenstore(str(tmp_path / "none"))
    with pytest.raises(DriverDisconnected, match="No such file"):
        await store.connect()
    await store.close()


async def test_connecting_gives_up_at_its_deadline_when_the_queue_is_full(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    crowd: list[socket.socket] = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(path)
        listener.listen(0)
        full = False
        while not full:
            crowd.append(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            crowd[-1].setblocking(False)
            full = crowd[-1].connect_ex(path) != 0
        with pytest.raises(DriverTimeout, match="accepts no connection within"):
            await connected_socket(path, SHORT_S, asyncio.sleep)
    for connection in crowd:
        connection.close()


# Requests.


async def test_refusal_carries_the_errors_name_and_the_request(double: StoreServer) -> None:
    double.fault = failing(MessageType.READ, Misbehaviour.REFUSE, error="EACCES")
    async with connected(double) as store:
        with pytest.raises(StoreError, match=f"EACCES to READ {TARGET}") as refusal:
            await store.read(TARGET)
        assert refusal.value.name == "EACCES"
        assert store.connected


@pytest.mark.parametrize(
    ("value", "text"),
    [(b"12\0", "12"), (b"\xff\n", "\\xff\n"), ("\u00e4".encode(), "\u00e4"), (b"", "")],
)
async def test_whatever_a_guest_wrote_is_read_as_text(double: StoreServer, value: bytes, text: str) -> None:
    double.store.write(f"{DOMAIN}/data/updated", value)
    async with connected(double) as store:
        assert await store.read(f"{DOMAIN}/data/updated") == text


async def test_more_requests_than_the_socket_takes_at_once_are_all_answered(double: StoreServer) -> None:
    async with connected(double) as store:
        assert await store.read_many(["/" + "a" * 3000] * 1500) == [None] * 1500
        assert store.requests == 1500


async def test_guarded_write_begins_anew_when_others_interfere(double: StoreServer) -> None:
    double.store.mkdir(DOMAIN)
    attempts: list[bytes] = []

    def interfere(message: Message) -> None:
        if message.type == MessageType.TRANSACTION_END:
            attempts.append(message.payload)
            if len(attempts) <= 5:
                double.store.write(TARGET, f"of others, {len(attempts)}")

    double.fault = interfere
    async with connected(double) as store:
        assert await store.write_if_exists({TARGET: "ours"}, DOMAIN)
    assert double.store.read(TARGET) == "ours"
    assert attempts == [b"T\0"] * 6


async def test_guarded_write_gives_up_when_others_never_stop(double: StoreServer) -> None:
    double.store.mkdir(DOMAIN)

    def interfere(message: Message) -> None:
        if message.type == MessageType.TRANSACTION_END:
            double.store.write(TARGET, "of others")

    double.fault = interfere
    async with connected(double) as store:
        with pytest.raises(StoreError, match="EAGAIN"):
            await store.write_if_exists({TARGET: "ours"}, DOMAIN)
    assert double.store.read(TARGET) == "of others"


async def test_guarded_write_leaves_nothing_of_a_domain_that_vanishes_meanwhile(double: StoreServer) -> None:
    double.store.mkdir(DOMAIN)

    def vanish(message: Message) -> None:
        if message.type == MessageType.TRANSACTION_END:
            double.store.remove(DOMAIN)

    double.fault = vanish
    async with connected(double) as store:
        assert await store.write_if_exists({TARGET: "1"}, DOMAIN) is False
    assert not double.store.exists(DOMAIN)


async def test_guarded_write_ends_its_transaction_when_a_write_is_refused(double: StoreServer) -> None:
    double.store.mkdir(DOMAIN)
    verdicts: list[bytes] = []
    refuse = failing(MessageType.WRITE, Misbehaviour.REFUSE, error="ENOSPC")

    def hook(message: Message) -> Fault | None:
        if message.type == MessageType.TRANSACTION_END:
            verdicts.append(message.payload)
        return refuse(message)

    double.fault = hook
    async with connected(double) as store:
        with pytest.raises(StoreError, match="ENOSPC"):
            await store.write_if_exists({TARGET: "1", f"{DOMAIN}/memory/dynamic-max": "1"}, DOMAIN)
        assert verdicts == [b"F\0"]
    assert not double.store.exists(f"{DOMAIN}/memory")


async def test_guarded_write_ends_its_transaction_when_its_caller_leaves(double: StoreServer) -> None:
    double.store.mkdir(DOMAIN)
    asked, ended = asyncio.Event(), asyncio.Event()

    def hook(message: Message) -> Fault | None:
        if message.type == MessageType.WRITE:
            asked.set()
            return Fault(Misbehaviour.SILENCE)
        if message.type == MessageType.TRANSACTION_END and message.payload == b"F\0":
            ended.set()
        return None

    double.fault = hook
    async with connected(double) as store:
        leaving = asyncio.create_task(store.write_if_exists({TARGET: "1"}, DOMAIN))
        await asked.wait()
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        await ended.wait()
        assert await store.read(TARGET) is None


async def test_transaction_without_a_number_ends_the_connection(double: StoreServer) -> None:
    double.fault = failing(MessageType.TRANSACTION_START, Misbehaviour.OMIT_PAYLOAD)
    async with connected(double) as store:
        with pytest.raises(DriverDisconnected, match="transaction"):
            await store.write_if_exists({TARGET: "1"}, DOMAIN)
        await events_until(store, is_resync)


async def test_answer_to_a_caller_who_left_harms_nobody(double: StoreServer) -> None:
    async with connected(double) as store:
        leaving = asyncio.create_task(store.read(TARGET))
        await asyncio.sleep(0)
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        assert await store.read(TARGET) is None
        assert store.reconnects == 0


# Listings.


@pytest.fixture
def crowded(double: StoreServer) -> StoreServer:
    for number in range(2000):
        double.store.mkdir(f"/local/domain/{number}")
    return double


async def test_long_listing_is_refused_kindly_by_an_old_xenstored(crowded: StoreServer) -> None:
    crowded.fault = failing(MessageType.DIRECTORY_PART, Misbehaviour.REFUSE, error="ENOSYS")
    async with connected(crowded) as store:
        with pytest.raises(StoreError, match="E2BIG to DIRECTORY /local/domain"):
            await store.list("/local/domain")
        assert store.connected


async def test_long_listing_begins_anew_when_the_directory_changes(crowded: StoreServer) -> None:
    parts: list[bytes] = []

    def grow(message: Message) -> None:
        if message.type == MessageType.DIRECTORY_PART:
            parts.append(message.payload.split(b"\0")[1])
            if len(parts) == 2:
                crowded.store.mkdir("/local/domain/2000")

    crowded.fault = grow
    async with connected(crowded) as store:
        assert await store.list("/local/domain") == [str(number) for number in range(2001)]
    assert parts[0] == parts[2] == b"0"


async def test_long_listing_gives_up_when_the_directory_never_rests(crowded: StoreServer) -> None:
    def grow(message: Message) -> None:
        if message.type == MessageType.DIRECTORY_PART:
            crowded.store.mkdir(f"/local/domain/{len(crowded.store.list('/local/domain'))}")

    crowded.fault = grow
    async with connected(crowded) as store:
        with pytest.raises(StoreError, match="EAGAIN"):
            await store.list("/local/domain")


async def test_empty_part_of_a_listing_ends_the_connection(crowded: StoreServer) -> None:
    crowded.fault = failing(MessageType.DIRECTORY_PART, Misbehaviour.OMIT_PAYLOAD)
    async with connected(crowded) as store:
        with pytest.raises(DriverDisconnected, match="nothing in it"):
            await store.list("/local/domain")


async def test_listing_of_all_vms_is_refused(double: StoreServer) -> None:
    async with connected(double) as store:
        with pytest.raises(InvalidValue, match="/vm"):
            await store.list("/vm")
        assert store.requests == 0


async def test_listing_passes_other_refusals_on(double: StoreServer) -> None:
    double.fault = failing(MessageType.DIRECTORY, Misbehaviour.REFUSE, error="EACCES")
    async with connected(double) as store:
        with pytest.raises(StoreError, match="EACCES"):
            await store.list("/local/domain")


# Watches and events.


async def test_refused_watch_is_no_watch(double: StoreServer) -> None:
    double.fault = failing(MessageType.WATCH, Misbehaviour.REFUSE, error="ENOSPC")
    async with connected(double) as store:
        with pytest.raises(StoreError, match="ENOSPC"):
            await store.watch(DOMAIN, "t")
        await double.disconnect()
        await events_until(store, is_resync)
        double.store.write(TARGET, "1")
        assert await store.read(TARGET) == "1"
        assert not store.take_events()


async def test_watch_that_xenstored_knows_already_is_fine(double: StoreServer) -> None:
    double.fault = failing(MessageType.WATCH, Misbehaviour.REFUSE, error="EEXIST")
    async with connected(double) as store:
        await store.watch(DOMAIN, "t")


async def test_refused_unwatch_is_reported(double: StoreServer) -> None:
    async with connected(double) as store:
        await store.watch(DOMAIN, "t")
        double.fault = failing(MessageType.UNWATCH, Misbehaviour.REFUSE, error="EINVAL")
        with pytest.raises(StoreError, match="EINVAL"):
            await store.unwatch(DOMAIN, "t")


async def test_many_changes_of_one_key_are_one_event(double: StoreServer) -> None:
    async with connected(double) as store:
        await store.watch(DOMAIN, "one")
        await store.watch(TARGET, "two")
        for number in range(100):
            double.store.write(TARGET, str(number))
        await store.read(TARGET)
        assert store.take_events() == Events(frozenset({DOMAIN, TARGET}))
        assert not store.take_events()


def test_changed_paths_beyond_the_limit_ask_for_a_resync() -> None:
    changed = ChangedPaths(limit=2)
    changed.add("/a")
    changed.add("/b")
    changed.add("/a")
    assert changed.take() == Events(frozenset({"/a", "/b"}))

    for path in ("/a", "/b", "/c", "/d"):
        changed.add(path)
    assert changed.take() == Events(resync=True)
    assert changed.take() == Events()


def test_changed_paths_of_two_gather_in_one() -> None:
    changed = ChangedPaths(limit=2)
    changed.add("/a")
    changed.merge(Events(frozenset({"/b"})))
    assert changed.take() == Events(frozenset({"/a", "/b"}))

    changed.add("/a")
    changed.merge(Events(frozenset({"/b"}), resync=True))
    assert changed.take() == Events(resync=True)
