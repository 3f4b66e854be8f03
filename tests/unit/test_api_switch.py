"""squeezed's queue on the message switch: everything once, whatever is cut short in between."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from tests.apistack import GIB_KIB, a_guest, running_stack
from tests.switchdouble import SwitchDouble
from xcpmem.api.boottime import BootMemory
from xcpmem.api.squeezed import SqueezedCalls
from xcpmem.api.switch import SwitchConnection
from xcpmem.api.switch_server import QUEUE, SwitchServer
from xcpmem.errors import SwitchLost
from xcpmem.units import mib_to_kib

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from tests.apistack import Stack

MIB = mib_to_kib(1)
DEADLINE_S = 20
MANY = 14


@pytest.fixture
async def switch(tmp_path: Path) -> AsyncIterator[SwitchDouble]:
    double = SwitchDouble(tmp_path / "switch")
    await double.start()
    yield double
    await double.stop()


class Naps(list[float]):
    """Waits between attempts, none of which takes time; tells when there were many."""

    def __init__(self) -> None:
        super().__init__()
        self.many = asyncio.Event()

    async def nap(self, time_s: float) -> None:
        self.append(time_s)
        if len(self) >= MANY:
            self.many.set()
        await asyncio.sleep(0)


@pytest.fixture
async def naps() -> Naps:
    return Naps()


@asynccontextmanager
async def serving(switch: SwitchDouble, stack: Stack, naps: Naps) -> AsyncIterator[SwitchServer]:
    calls = SqueezedCalls(stack.service, BootMemory(None))
    server = SwitchServer(
        str(switch.path), calls, stack.service.answers, epoch="boot 1", sleep=naps.nap, jitter=lambda: 1.0
    )
    server.start()
    try:
        async with asyncio.timeout(DEADLINE_S):
            yield server
    finally:
        await server.close()


@asynccontextmanager
async def host(tmp_path: Path) -> AsyncIterator[Stack]:
    async with running_stack(tmp_path / "state", [a_guest(1, "web1")]) as stack:
        yield stack


def sizes_kib(stack: Stack) -> Iterator[int]:
    return (reservation.size_kib for reservation in stack.host.reservations.values())


async def test_requests_are_answered_and_acknowledged(
    switch: SwitchDouble, tmp_path: Path, naps: Naps
) -> None:
    async with host(tmp_path) as stack, serving(switch, stack, naps):
        login = await switch.request(QUEUE, "login", "dbg", "xenopsd")
        assert await switch.response(login) == "xenopsd"
        ranged = await switch.request(QUEUE, "reserve_memory_range", "dbg", "xenopsd", MIB, MIB)
        reservation_id, granted_kib = await switch.response(ranged)
        assert granted_kib == stack.host.reservations[reservation_id].size_kib == MIB
        await switch.acknowledgement(ranged)
        assert [reply for reply, _, _ in switch.responses] == ["xenopsd-xc:2345"] * 2
        assert len(switch.logins) == 2
        assert len(set(switch.logins)) == 1


async def test_balance_does_not_hold_up_who_comes_later(
    switch: SwitchDouble, tmp_path: Path, naps: Naps
) -> None:
    async with host(tmp_path) as stack, serving(switch, stack, naps):
        requests = [await switch.request(QUEUE, "balance_memory", "dbg") for _ in range(5)]
        requests.append(await switch.request(QUEUE, "get_host_reserved_memory", "dbg"))
        answers = [await switch.response(number) for number in requests]
        assert answers == [None] * 5 + [73728]


async def test_request_that_came_before_us_is_served(
    switch: SwitchDouble, tmp_path: Path, naps: Naps
) -> None:
    early = await switch.request(QUEUE, "login", "dbg", "xenopsd")
    async with host(tmp_path) as stack, serving(switch, stack, naps):
        assert await switch.response(early) == "xenopsd"


async def test_reservation_whose_answer_was_lost_is_not_made_again(
    switch: SwitchDouble, tmp_path: Path, naps: Naps
) -> None:
    async with host(tmp_path) as stack:
        async with serving(switch, stack, naps):
            switch.lost_responses = 1
            ranged = await switch.request(QUEUE, "reserve_memory", "dbg", "xenopsd", MIB)
            first = await switch.response(ranged)
            await switch.acknowledgement(ranged)
        answers = {answer["result"] for _, number, answer in switch.responses if number == ranged}
        assert answers == {first}
        assert list(sizes_kib(stack)) == [MIB]


async def test_daemon_that_starts_again_repeats_nothing_that_was_answered(
    switch: SwitchDouble, tmp_path: Path, naps: Naps
) -> None:
    async with host(tmp_path) as stack:
        async with serving(switch, stack, naps):
            switch.lost_responses = (
                10**6
            )  # the connection breaks after each response: nothing is acknowledged
            login = await switch.request(QUEUE, "login", "dbg", "xenopsd")
            await switch.response(login)
            ranged = await switch.request(QUEUE, "reserve_memory", "dbg", "xenopsd", MIB)
            reservation_id = await switch.response(ranged)
        switch.lost_responses = 0
        switch.responses.clear()
        async with serving(switch, stack, naps):
            await switch.acknowledgement(login)
            await switch.acknowledgement(ranged)
        assert await switch.response(ranged) == reservation_id
        assert list(stack.host.reservations) == [reservation_id]


async def test_answers_are_forgotten_once_they_are_acknowledged(
    switch: SwitchDouble, tmp_path: Path, naps: Naps
) -> None:
    async with host(tmp_path) as stack:
        async with serving(switch, stack, naps):
            for _ in range(3):
                number = await switch.request(QUEUE, "login", "dbg", "xenopsd")
                await switch.acknowledgement(number)
            last = await switch.request(QUEUE, "get_host_reserved_memory", "dbg")
            await switch.acknowledgement(last)
        # the last login's answer may still have been on its way out of the ledger
        kept = stack.service._ledger.values.get("answers", "{}")
        assert kept.count("xenopsd") <= 1


async def test_switch_that_is_gone_is_waited_for_with_growing_patience(
    switch: SwitchDouble, tmp_path: Path, naps: Naps
) -> None:
    await switch.stop()
    async with host(tmp_path) as stack, serving(switch, stack, naps) as server:
        await naps.many.wait()
        assert not server.is_connected
        assert max(naps) == 5.0
        assert min(naps) == 0.1
        await switch.start()
        number = await switch.request(QUEUE, "login", "dbg", "xenopsd")
        assert await switch.response(number) == "xenopsd"
        assert server.is_connected


async def test_switch_that_lost_its_state_counts_anew(
    switch: SwitchDouble, tmp_path: Path, naps: Naps
) -> None:
    async with host(tmp_path) as stack, serving(switch, stack, naps):
        for _ in range(4):
            await switch.acknowledgement(await switch.request(QUEUE, "get_host_reserved_memory", "dbg"))
        await switch.stop()
        switch.queues.clear()
        switch.responses.clear()
        await switch.start()
        number = await switch.request(QUEUE, "reserve_memory", "dbg", "xenopsd", GIB_KIB)
        assert number == 0
        assert await switch.response(number) in stack.host.reservations


async def test_who_has_not_logged_in_is_told_so(switch: SwitchDouble) -> None:
    reader, writer = await asyncio.open_unix_connection(switch.path)
    with pytest.raises(SwitchLost, match="404 Please log in"):
        await SwitchConnection(reader, writer).create_queue(QUEUE)
    writer.close()


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 9999999999\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n[]",
        b'HTTP/1.1 200 OK\r\ncontent-length: 27\r\n\r\n{"messages":[7],"next":"1"}',
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nxyz\r\n",
        b"nonsense\r\n\r\n",
    ],
)
async def test_answer_that_is_none_ends_the_connection(answer: bytes) -> None:
    reader = asyncio.StreamReader()
    reader.feed_data(answer)
    reader.feed_eof()
    async with null_writer() as writer:
        with pytest.raises(SwitchLost):
            await SwitchConnection(reader, writer).receive(QUEUE, None, 0.0)


async def test_chunked_answer_is_read() -> None:
    reader = asyncio.StreamReader()
    body = b'{"messages":[],"next":"-1"}'
    reader.feed_data(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1b\r\n" + body + b"\r\n0\r\n\r\n")
    async with null_writer() as writer:
        assert await SwitchConnection(reader, writer).receive(QUEUE, None, 0.0) == ([], None)


@asynccontextmanager
async def null_writer() -> AsyncIterator[asyncio.StreamWriter]:
    """A writer into the void."""
    loop = asyncio.get_running_loop()
    with open("/dev/null", "wb") as void:  # noqa: ASYNC230, PTH123 - never blocks
        transport, protocol = await loop.connect_write_pipe(asyncio.streams.FlowControlMixin, void)
        yield asyncio.StreamWriter(transport, protocol, None, loop)
        transport.close()
