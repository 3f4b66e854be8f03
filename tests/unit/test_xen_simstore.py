"""The xenstored double: its tree, its protocol as a client sees it, and its patience."""

from __future__ import annotations

import asyncio
import struct
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyxs.client import Client

from xcpmem.errors import InvalidValue, StoreError
from xcpmem.xen import simstore, wire
from xcpmem.xen.simstore import StoreServer
from xcpmem.xen.storedialogue import TRANSACTIONS_MAX, StoreDialogue
from xcpmem.xen.storefault import Fault, Misbehaviour
from xcpmem.xen.storetree import Store, Transaction
from xcpmem.xen.wire import Decoder, Message, MessageType

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

DEADLINE_S = 5.0
DOMAIN = "/local/domain/7"
TARGET = f"{DOMAIN}/memory/target"


# The tree.

NAMES = st.sampled_from(["a", "b", "c"])
PATHS = st.lists(NAMES, min_size=1, max_size=4).map(lambda names: "/" + "/".join(names))
STEPS = st.lists(st.tuples(st.sampled_from(["write", "mkdir", "remove"]), PATHS, st.text("xyz", max_size=2)))


def carry_out(store: Store, step: tuple[str, str, str]) -> None:
    kind, path, value = step
    if kind == "write":
        store.write(path, value)
    elif kind == "mkdir":
        store.mkdir(path)
    else:
        store.remove(path)


def carry_out_on_model(model: dict[str, str], step: tuple[str, str, str]) -> None:
    kind, path, value = step
    if kind == "remove":
        for below in [key for key in model if key == path or key.startswith(f"{path}/")]:
            del model[below]
        return
    names = path[1:].split("/")
    for depth in range(1, len(names) + 1):
        model.setdefault("/" + "/".join(names[:depth]), "")
    if kind == "write":
        model[path] = value


def everything(store: Store, path: str = "") -> dict[str, str]:
    found: dict[str, str] = {}
    for name in store.list(path or "/"):
        found[f"{path}/{name}"] = store.read(f"{path}/{name}") or ""
        found |= everything(store, f"{path}/{name}")
    return found


@settings(deadline=None)
@given(STEPS)
def test_tree_holds_what_a_dictionary_of_paths_would_hold(steps: list[tuple[str, str, str]]) -> None:
    store, model = Store(), {"/tool": "", "/tool/xenstored": ""}
    for step in steps:
        carry_out(store, step)
        carry_out_on_model(model, step)
    assert everything(store) == model


def test_keys_written_together_are_as_if_written_one_by_one_and_told_of_when_all_are_there() -> None:
    store, alone = Store(), Store()
    for each in (store, alone):
        each.write("/local/domain/1/name", "older")
        each.write("/local/domain/1/data/x", "kept")
    values = {f"/local/domain/1/{name}": name for name in ("name", "memory/target", "memory/static-max")}
    heard: list[tuple[str, int]] = []
    store.subscribe(lambda path: heard.append((path, len(store.list("/local/domain/1/memory")))))
    store.write_all(values)
    for path, value in values.items():
        alone.write(path, value)
    assert everything(store) == everything(alone)
    assert heard == [(path, 2) for path in values]


def test_keys_written_together_are_refused_whole_where_a_path_is_none() -> None:
    store = Store()
    with pytest.raises(StoreError, match="EINVAL"):
        store.write_all({"/local/domain/1/name": "a", "/local/domain/1//": "b"})
    assert not store.exists("/local/domain/1")


@settings(deadline=None)
@given(STEPS, STEPS, STEPS)
def test_transaction_sees_its_own_moment_and_commits_whole_or_not_at_all(
    before: list[tuple[str, str, str]],
    inside: list[tuple[str, str, str]],
    meanwhile: list[tuple[str, str, str]],
) -> None:
    store, alone = Store(), Store()
    for step in before:
        carry_out(store, step)
        carry_out(alone, step)
    transaction = Transaction(store)
    for step in meanwhile:
        carry_out(store, step)
    for kind, path, value in inside:
        carry_out(alone, (kind, path, value))
        data = value.encode()
        if kind == "write":
            transaction.change(lambda tree, path=path, data=data: tree.write(path, data))  # type: ignore[misc]
        elif kind == "mkdir":
            transaction.change(lambda tree, path=path: tree.mkdir(path))  # type: ignore[misc]
        elif transaction.tree.find(path) is not None:
            transaction.change(lambda tree, path=path: tree.remove(path))  # type: ignore[misc]
        node, expected = transaction.tree.find(path), alone.tree.find(path)
        assert (node and node.value) == (expected and expected.value)

    expected_now = everything(store)
    try:
        transaction.commit()
    except StoreError as error:
        refused = error.name
    else:
        refused = ""
        for step in inside:
            carry_out_on_model(expected_now, step)
    assert everything(store) == expected_now
    assert not refused or (refused == "EAGAIN" and meanwhile)


def test_tree_takes_the_deepest_path_that_the_protocol_allows() -> None:
    store = Store()
    path = "/a" * 1536
    store.write(path, "1")
    assert store.read(path) == "1"
    store.remove("/a")
    assert not store.exists(path)


@pytest.mark.parametrize("path", ["", "a", "/a/", "/a b", "@releaseDomain"])
def test_store_refuses_what_is_no_path(path: str) -> None:
    store = Store()
    for call in (store.read, store.mkdir, store.remove, store.list, store.exists):
        with pytest.raises(StoreError, match="EINVAL"):
            call(path)


def test_subscriber_hears_of_changes_until_it_stops() -> None:
    store = Store()
    heard: list[str] = []
    store.write(TARGET, "1")
    stop = store.subscribe(heard.append)
    store.write(TARGET, "2")
    store.mkdir(TARGET)
    store.mkdir(f"{DOMAIN}/control")
    store.remove(DOMAIN)
    store.remove(DOMAIN)
    assert heard == [TARGET, f"{DOMAIN}/control", DOMAIN]

    stop()
    store.write(TARGET, "3")
    assert len(heard) == 3


def test_subscriber_may_write_while_it_listens() -> None:
    store = Store()

    def obey(path: str) -> None:
        if path == TARGET:
            store.write(f"{DOMAIN}/data/updated", "1")

    store.subscribe(obey)
    store.write(TARGET, "2")
    assert store.read(f"{DOMAIN}/data/updated") == "1"


def test_released_domain_must_have_been_introduced() -> None:
    store = Store()
    store.introduce(3)
    store.introduce(3)
    store.release(3)
    with pytest.raises(StoreError, match="ENOENT"):
        store.release(3)
    with pytest.raises(StoreError, match="EINVAL"):
        store.release(0)


def test_fault_with_an_unknown_error_is_refused() -> None:
    with pytest.raises(InvalidValue, match="ENOTHING"):
        Fault(Misbehaviour.REFUSE, "ENOTHING")


# The dialogue.


class Dialogue:
    """A client without a socket."""

    def __init__(self, store: Store) -> None:
        self.events: list[tuple[str, ...]] = []
        self._dialogue = StoreDialogue(store, self._take)

    def ask(self, message_type: int, payload: bytes = b"", transaction_id: int = 0) -> bytes | str:
        """Return the reply's payload, or the error's name."""
        request = Message(message_type, 9, transaction_id, payload)
        reply = self._dialogue.answer(request)
        assert (reply.request_id, reply.transaction_id) == (9, transaction_id)
        if reply.type == MessageType.ERROR:
            return wire.error_name(reply.payload)
        assert reply.type == message_type
        if message_type == MessageType.WATCH:
            self._dialogue.follow_up(request)
        return reply.payload

    def begin(self) -> int:
        number = self.ask(MessageType.TRANSACTION_START, b"\0")
        assert isinstance(number, bytes)
        return int(number[:-1])

    def end(self) -> None:
        self._dialogue.end()

    def _take(self, event: Message) -> None:
        assert (event.type, event.request_id, event.transaction_id) == (MessageType.WATCH_EVENT, 0, 0)
        self.events.append(tuple(string.decode() for string in event.strings))


@pytest.fixture
def store() -> Store:
    store = Store()
    store.write(TARGET, "1048576")
    return store


@pytest.fixture
def client(store: Store) -> Dialogue:
    return Dialogue(store)


T = MessageType


@pytest.mark.parametrize(
    ("message_type", "payload", "answer"),
    [
        (T.READ, b"/local/domain/7/memory/target\0", b"1048576"),
        (T.READ, b"/local/domain/7\0", b""),
        (T.READ, b"/absent\0", "ENOENT"),
        (T.READ, b"/no slash\0", "EINVAL"),
        (T.READ, b"/unended", "EINVAL"),
        (T.READ, b"/a\0/b\0", "EINVAL"),
        (T.READ, b"", "EINVAL"),
        (T.READ, b"/\xff\0", "EINVAL"),
        (T.READ, b"/" + b"a" * 3071 + b"\0", "ENOENT"),
        (T.READ, b"/" + b"a" * 3072 + b"\0", "EINVAL"),
        (T.READ, b"a" * 2048 + b"\0", "ENOENT"),
        (T.READ, b"a" * 2049 + b"\0", "EINVAL"),
        (T.DIRECTORY, b"/local/domain\0", b"7\0"),
        (T.DIRECTORY, b"/local/domain/7/memory/target\0", b""),
        (T.DIRECTORY, b"/absent\0", "ENOENT"),
        (T.DIRECTORY_PART, b"/local/domain\0", "EINVAL"),
        (T.DIRECTORY_PART, b"/local/domain\0x\0", "EINVAL"),
        (T.GET_PERMS, b"/local\0", b"n0\0"),
        (T.GET_PERMS, b"/absent\0", "ENOENT"),
        (T.SET_PERMS, b"/local\0", "EINVAL"),
        (T.SET_PERMS, b"/local\0x7\0", "EINVAL"),
        (T.SET_PERMS, b"/absent\0n0\0", "ENOENT"),
        (T.SET_PERMS, b"/local\0n0\0r7\0", b"OK\0"),
        (T.WRITE, b"/a/b\0any \xff bytes\0too", b"OK\0"),
        (T.WRITE, b"/a", "EINVAL"),
        (T.WRITE, b"/a/\0x", "EINVAL"),
        (T.MKDIR, b"/local/domain\0", b"OK\0"),
        (T.MKDIR, b"/new/one\0", b"OK\0"),
        (T.RM, b"/local\0", b"OK\0"),
        (T.RM, b"/absent\0", b"OK\0"),
        (T.RM, b"/absent/below\0", "ENOENT"),
        (T.RM, b"/\0", "EINVAL"),
        (T.WATCH, b"/a\0", "EINVAL"),
        (T.WATCH, b"/a/\0t\0", "EINVAL"),
        (T.UNWATCH, b"/a\0t\0", "ENOENT"),
        (T.GET_DOMAIN_PATH, b"7\0", b"/local/domain/7\0"),
        (T.GET_DOMAIN_PATH, b"seven\0", "EINVAL"),
        (T.IS_DOMAIN_INTRODUCED, b"0\0", b"T\0"),
        (T.IS_DOMAIN_INTRODUCED, b"7\0", b"F\0"),
        (T.INTRODUCE, b"7\0", "EINVAL"),
        (T.INTRODUCE, b"7\0001\0002\0", b"OK\0"),
        (T.RELEASE, b"7\0", "ENOENT"),
        (T.RELEASE, b"0\0", "EINVAL"),
        (T.RESUME, b"7\0", "ENOENT"),
        (T.RESUME, b"0\0", b"OK\0"),
        (T.SET_TARGET, b"0\0000\0", b"OK\0"),
        (T.SET_TARGET, b"0\0007\0", "ENOENT"),
        (T.RESET_WATCHES, b"\0", b"OK\0"),
        (T.TRANSACTION_END, b"T\0", "ENOENT"),
        (T.TRANSACTION_END, b"X\0", "EINVAL"),
        (T.CONTROL, b"print\0hello\0", "EINVAL"),
        (T.GET_FEATURE, b"", "ENOSYS"),
        (20, b"", "ENOSYS"),
        (0xFFFF, b"", "ENOSYS"),
        (T.WATCH_EVENT, b"/a\0t\0", "ENOSYS"),
        (T.ERROR, b"EIO\0", "ENOSYS"),
    ],
)
def test_request_is_answered_as_xenstored_would(
    client: Dialogue,
    message_type: int,
    payload: bytes,
    answer: bytes | str,
) -> None:
    assert client.ask(message_type, payload) == answer


@settings(deadline=None)
@given(st.integers(0, 30), st.binary(max_size=40), st.integers(0, 2))
def test_any_request_is_answered(message_type: int, payload: bytes, transaction_id: int) -> None:
    client = Dialogue(Store())
    client.begin()
    client.ask(message_type, payload, transaction_id)


def test_bytes_are_kept_as_they_are(client: Dialogue) -> None:
    client.ask(T.WRITE, b"/a\0any \xff bytes\0too")
    assert client.ask(T.READ, b"/a\0") == b"any \xff bytes\0too"


def test_relative_path_is_one_of_domain_0(client: Dialogue, store: Store) -> None:
    client.ask(T.WRITE, b"data/x\x001")
    assert store.read("/local/domain/0/data/x") == "1"


def test_child_inherits_permissions(client: Dialogue) -> None:
    client.ask(T.SET_PERMS, b"/local/domain/7\0n7\0r0\0")
    client.ask(T.WRITE, b"/local/domain/7/data/x\x001")
    assert client.ask(T.GET_PERMS, b"/local/domain/7/data\0") == b"n7\0r0\0"
    assert client.ask(T.GET_PERMS, b"/local/domain/7/memory\0") == b"n0\0"


def test_reply_beyond_one_message_is_refused(client: Dialogue, store: Store) -> None:
    for number in range(200):
        store.mkdir(f"/vm/{number:036}")
    assert client.ask(T.DIRECTORY, b"/vm\0") == "E2BIG"


@pytest.mark.parametrize("count", [0, 1, 110, 111, 112, 200, 1000])
def test_long_listing_comes_in_parts(client: Dialogue, store: Store, count: int) -> None:
    names = [f"{number:036}" for number in range(count)]
    store.mkdir("/vm")
    for name in names:
        store.mkdir(f"/vm/{name}")
    listing, generations = b"", set()
    while not listing.endswith(b"\0\0") and listing != b"\0":
        part = client.ask(T.DIRECTORY_PART, wire.join_strings(b"/vm", str(len(listing)).encode()))
        assert isinstance(part, bytes)
        assert len(part) <= wire.PAYLOAD_BYTES_MAX
        generation, _, more = part.partition(b"\0")
        generations.add(generation)
        listing += more
    assert [name.decode() for name in listing.split(b"\0") if name] == names
    assert len(generations) == 1

    store.mkdir("/vm/another")
    part = client.ask(T.DIRECTORY_PART, b"/vm\x0099999\0")
    assert isinstance(part, bytes)
    assert part.partition(b"\0")[0] not in generations
    assert part.endswith(b"\0\0")


def test_watch_hears_of_its_path_and_all_below(client: Dialogue, store: Store) -> None:
    client.ask(T.WATCH, wire.join_strings(DOMAIN.encode(), b"t"))
    store.write(TARGET, "2")
    store.write("/local/domain/77", "2")
    client.ask(T.SET_PERMS, wire.join_strings(TARGET.encode(), b"n7"))
    store.remove("/local")
    assert client.events == [(DOMAIN, "t"), (TARGET, "t"), (TARGET, "t"), (DOMAIN, "t")]


def test_relative_watch_hears_relative_paths(client: Dialogue, store: Store) -> None:
    client.ask(T.WATCH, b"data\0t\0")
    store.write("/local/domain/0/data/x", "1")
    assert client.events == [("data", "t"), ("data/x", "t")]
    assert client.ask(T.UNWATCH, b"data\0t\0") == b"OK\0"


def test_same_watch_is_refused_and_another_token_is_another_watch(client: Dialogue, store: Store) -> None:
    assert client.ask(T.WATCH, b"/a\0t\0") == b"OK\0"
    assert client.ask(T.WATCH, b"/a\0t\0") == "EEXIST"
    assert client.ask(T.WATCH, b"/a\0u\0") == b"OK\0"
    client.events.clear()
    store.mkdir("/a")
    assert sorted(client.events) == [("/a", "t"), ("/a", "u")]


def test_special_watches_hear_of_domains(client: Dialogue, store: Store) -> None:
    for path in (b"@introduceDomain", b"@releaseDomain", b"@releaseDomain/3"):
        client.ask(T.WATCH, wire.join_strings(path, b"t"))
    client.events.clear()
    client.ask(T.INTRODUCE, b"3\0001\0002\0")
    store.introduce(4)
    client.ask(T.RELEASE, b"4\0")
    store.fire("@releaseDomain")
    store.release(3)
    assert [path for path, _ in client.events] == [
        "@introduceDomain",
        "@introduceDomain",
        "@releaseDomain",
        "@releaseDomain",
        "@releaseDomain",
        "@releaseDomain/3",
    ]


def test_event_that_fits_no_message_is_not_sent(client: Dialogue) -> None:
    client.ask(T.WATCH, wire.join_strings(b"/a", b"t" * 4000))
    client.events.clear()
    client.ask(T.WRITE, b"/a/" + b"b" * 200 + b"\0")
    assert client.events == []


def test_end_of_a_client_ends_its_watches_and_transactions(client: Dialogue, store: Store) -> None:
    client.ask(T.WATCH, b"/a\0t\0")
    number = client.begin()
    client.events.clear()
    client.end()
    store.mkdir("/a")
    assert client.events == []
    assert client.ask(T.READ, b"/a\0", number) == "ENOENT"


def test_transaction_shows_its_changes_to_others_when_it_commits(client: Dialogue, store: Store) -> None:
    client.ask(T.WATCH, b"/a\0t\0")
    client.events.clear()
    number = client.begin()
    assert client.ask(T.WRITE, b"/a/b\x001", number) == b"OK\0"
    assert client.ask(T.READ, b"/a/b\0", number) == b"1"
    assert client.ask(T.DIRECTORY, b"/a\0", number) == b"b\0"
    assert not store.exists("/a")
    assert client.events == []

    assert client.ask(T.TRANSACTION_END, b"T\0", number) == b"OK\0"
    assert store.read("/a/b") == "1"
    assert client.events == [("/a/b", "t")]
    assert client.ask(T.TRANSACTION_END, b"T\0", number) == "ENOENT"


def test_discarded_transaction_changes_nothing(client: Dialogue, store: Store) -> None:
    number = client.begin()
    client.ask(T.RM, b"/local\0", number)
    assert client.ask(T.TRANSACTION_END, b"F\0", number) == b"OK\0"
    assert store.read(TARGET) == "1048576"


@pytest.mark.parametrize(
    ("inside", "meanwhile", "verdict"),
    [
        ((T.READ, b"/local/domain/7\0"), "/local/domain/7/new", "EAGAIN"),
        ((T.READ, b"/local/domain/7\0"), "/local/domain/7/memory/target", b"OK\0"),
        ((T.READ, b"/absent\0"), "/absent", "EAGAIN"),
        ((T.READ, b"/absent\0"), "/other", b"OK\0"),
        ((T.WRITE, b"/local/domain/7/memory/target\0001"), "/local/domain/7/memory/target", "EAGAIN"),
        ((T.WRITE, b"/local/domain/7/memory/target\0001"), "/local/domain/7/memory/static-max", b"OK\0"),
        ((T.RM, b"/local/domain/7\0"), "/local/domain/8", "EAGAIN"),
    ],
)
def test_transaction_fails_when_what_it_touched_has_changed(
    client: Dialogue,
    store: Store,
    inside: tuple[MessageType, bytes],
    meanwhile: str,
    verdict: bytes | str,
) -> None:
    number = client.begin()
    client.ask(*inside, number)
    store.write(meanwhile, "of another")
    assert client.ask(T.TRANSACTION_END, b"T\0", number) == verdict
    assert store.read(meanwhile) == "of another"


def test_transactions_do_not_nest_and_are_bounded(client: Dialogue) -> None:
    number = client.begin()
    assert client.ask(T.TRANSACTION_START, b"\0", number) == "EBUSY"
    for _ in range(TRANSACTIONS_MAX - 1):
        client.begin()
    assert client.ask(T.TRANSACTION_START, b"\0") == "ENOSPC"
    client.ask(T.RESET_WATCHES, b"\0")
    client.begin()


# The socket.


@pytest.fixture
async def server(store: Store, tmp_path: Path) -> AsyncIterator[StoreServer]:
    server = StoreServer(store)
    await server.start(str(tmp_path / "s"))
    async with asyncio.timeout(2 * DEADLINE_S):
        yield server
    await server.close()


@asynccontextmanager
async def raw(server: StoreServer) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_unix_connection(server.path)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def take(reader: asyncio.StreamReader, count: int) -> list[Message]:
    decoder = Decoder()
    messages: list[Message] = []
    while len(messages) < count:
        data = await reader.read(65536)
        assert data
        messages += decoder.feed(data)
    return messages


async def test_requests_that_arrive_in_pieces_or_heaps_are_answered_in_order(server: StoreServer) -> None:
    requests = b"".join(
        wire.encode(Message(T.READ, number, 0, TARGET.encode() + b"\0")) for number in range(100)
    )
    async with raw(server) as (reader, writer):
        writer.write(requests[:7])
        await writer.drain()
        writer.write(requests[7:])
        replies = await take(reader, 100)
    assert [reply.request_id for reply in replies] == list(range(100))
    assert {reply.payload for reply in replies} == {b"1048576"}


async def test_first_watch_event_comes_after_the_reply(server: StoreServer) -> None:
    async with raw(server) as (reader, writer):
        writer.write(wire.encode(Message(T.WATCH, 1, 0, b"/a\0t\0")))
        reply, event = await take(reader, 2)
    assert (reply.type, event.type, event.strings) == (T.WATCH, T.WATCH_EVENT, (b"/a", b"t"))


async def test_client_that_sends_too_much_is_hung_up_on(server: StoreServer) -> None:
    async with raw(server) as (reader, writer):
        writer.write(struct.pack("=IIII", T.WRITE, 1, 0, 4097))
        assert await reader.read() == b""


async def test_client_that_does_not_read_its_replies_waits(server: StoreServer, store: Store) -> None:
    store.write("/a", "x" * 4000)
    request = wire.encode(Message(T.READ, 1, 0, b"/a\0"))
    async with raw(server) as (reader, writer):
        writer.write(request * 2000)
        async with raw(server) as (other_reader, other_writer):
            other_writer.write(request)
            assert len(await take(other_reader, 1)) == 1
        assert len(await take(reader, 2000)) == 2000


async def test_client_that_does_not_read_its_events_is_hung_up_on(
    server: StoreServer,
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(simstore, "UNREAD_BYTES_MAX", 100_000)
    async with raw(server) as (reader, writer):
        writer.write(wire.encode(Message(T.WATCH, 1, 0, wire.join_strings(b"/a", b"t" * 2000))))
        await take(reader, 2)
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        for _ in range(1000):
            store.mkdir("/a")
            store.remove("/a")
        writer.transport.resume_reading()  # type: ignore[attr-defined]
        assert len(await reader.read()) < 1_000_000


async def test_clients_are_bounded(server: StoreServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simstore, "CONNECTIONS_MAX", 1)
    request = wire.encode(Message(T.READ, 1, 0, b"/\0"))
    async with raw(server) as (reader, writer):
        writer.write(request)
        await take(reader, 1)
        async with raw(server) as (second_reader, _):
            assert await second_reader.read() == b""
        writer.write(request)
        await take(reader, 1)


async def test_server_replaces_an_old_socket_and_removes_its_own(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "s"
    first, second = StoreServer(store), StoreServer(store)
    await first.start(str(path))
    await second.start(str(path))
    assert path.stat().st_mode & 0o777 == 0o600
    await second.close()
    await second.close()
    assert not path.exists()
    await first.close()


async def test_server_does_not_replace_a_file(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "s"
    path.write_text("precious")
    server = StoreServer(store)
    with pytest.raises(OSError, match="in use"):
        await server.start(str(path))
    await server.close()
    assert path.read_text() == "precious"


def ask_with_pyxs(path: str) -> dict[str, Any]:
    """Do with pyxs's own client what it can do."""
    with Client(unix_socket_path=path) as client:
        client.write(b"/a/b", b"1")
        found = {
            "read": client.read(b"/a/b"),
            "list": client.list(b"/a"),
            "default": client.read(b"/absent", b"none"),
            "exists": client.exists(b"/absent"),
            "perms": client.get_perms(b"/a"),
            "domain": client.get_domain_path(7),
            "introduced": client.is_domain_introduced(0),
            "walk": list(client.walk(b"/a")),
        }
        client.set_perms(b"/a/b", [b"n0", b"r7"])
        client.transaction()
        client.write(b"/a/c", b"2")
        found["committed"] = client.commit()
        client.transaction()
        client.delete(b"/a/c")
        client.rollback()
        found["kept"] = client.read(b"/a/c")
        with client.monitor() as monitor:
            monitor.watch(b"/a", b"t")
            found["event"] = next(monitor.wait())
        client.delete(b"/a")
        client.mkdir(b"/d")
    return found


async def test_pyxs_itself_understands_the_double(server: StoreServer, store: Store) -> None:
    assert await asyncio.to_thread(ask_with_pyxs, server.path) == {
        "read": b"1",
        "list": [b"b"],
        "default": b"none",
        "exists": False,
        "perms": [b"n0"],
        "domain": b"/local/domain/7",
        "introduced": True,
        "walk": [(b"/a", b"", [b"b"]), (b"/a/b", b"1", [])],
        "committed": True,
        "kept": b"2",
        "event": (b"/a", b"t"),
    }
    assert not store.exists("/a")
    assert store.exists("/d")
