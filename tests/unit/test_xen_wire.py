"""The xenstore codec: every message survives the wire, nothing else gets through."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyxs._internal import Op, Packet

from xcpmem.errors import WireError
from xcpmem.xen import wire
from xcpmem.xen.wire import Decoder, Message, MessageType

NUMBERS = st.integers(0, 2**32 - 1)
MESSAGES = st.builds(
    Message,
    type=NUMBERS,
    request_id=NUMBERS,
    transaction_id=NUMBERS,
    payload=st.binary(max_size=300) | st.just(b"x" * wire.PAYLOAD_BYTES_MAX),
)


def _cut(data: bytes, places: list[int]) -> list[bytes]:
    ends = sorted({place % (len(data) + 1) for place in places} | {len(data)})
    return [data[start:end] for start, end in zip([0, *ends], ends, strict=False)]


@settings(deadline=None)
@given(st.lists(MESSAGES, max_size=6), st.lists(NUMBERS, max_size=8))
def test_messages_survive_the_wire_however_the_stream_is_cut(sent: list[Message], cuts: list[int]) -> None:
    decoder = Decoder()
    stream = b"".join(map(wire.encode, sent))

    received = [message for part in _cut(stream, cuts) for message in decoder.feed(part)]

    assert received == sent
    assert decoder.pending_bytes == 0
    decoder.end()


@settings(deadline=None)
@given(st.lists(st.binary(max_size=200), max_size=6))
def test_garbage_gives_messages_or_a_wire_error_and_is_not_hoarded(parts: list[bytes]) -> None:
    decoder = Decoder()
    failed = False
    for part in parts:
        try:
            messages = decoder.feed(part)
        except WireError:
            failed = True
            assert decoder.pending_bytes == 0
        else:
            assert not failed
            assert all(isinstance(message, Message) for message in messages)
            assert decoder.pending_bytes < wire.HEADER_BYTES + wire.PAYLOAD_BYTES_MAX


@settings(deadline=None)
@given(st.sampled_from(sorted(set(Op))), st.integers(0, 2**32 - 1), NUMBERS, st.binary(max_size=4096))
def test_header_is_the_same_as_that_of_pyxs(
    op: int, request_id: int, transaction: int, payload: bytes
) -> None:
    packet = Packet(op, payload, request_id, transaction)
    header = Packet._struct.pack(packet.op, packet.rq_id, packet.tx_id, packet.size)

    assert wire.encode(Message(op, request_id, transaction, payload)) == header + payload


def test_type_numbers_are_the_same_as_those_of_pyxs() -> None:
    known = {name: number for name, number in Op._asdict().items() if name not in ("DEBUG", "RESTRICT")}

    assert known.items() <= {message_type.name: message_type.value for message_type in MessageType}.items()
    assert Op.DEBUG == MessageType.CONTROL
    assert int(MessageType.DIRECTORY_PART) == 22


def test_read_request_has_the_bytes_of_xs_wire_h() -> None:
    request = Message(MessageType.READ, 7, 0, wire.join_strings(b"/a"))

    assert wire.encode(request) == struct.pack("=IIII", 2, 7, 0, 3) + b"/a\0"


def test_message_is_refused_when_its_payload_exceeds_the_limit() -> None:
    with pytest.raises(WireError, match="4097"):
        wire.encode(Message(MessageType.WRITE, 1, 0, b"x" * 4097))


@pytest.mark.parametrize("number", [-1, 2**32])
def test_message_is_refused_when_a_number_exceeds_32_bits(number: int) -> None:
    with pytest.raises(WireError, match="32-bit"):
        wire.encode(Message(MessageType.READ, number, 0, b""))


def test_decoder_stays_refusing_after_a_payload_beyond_the_limit() -> None:
    decoder = Decoder()
    with pytest.raises(WireError, match="4097"):
        decoder.feed(struct.pack("=IIII", MessageType.READ, 1, 0, 4097))
    with pytest.raises(WireError, match="4097"):
        decoder.feed(wire.encode(Message(MessageType.READ, 1, 0, b"/a\0")))


def test_decoder_reports_a_stream_that_ends_inside_a_message() -> None:
    decoder = Decoder()
    decoder.feed(wire.encode(Message(MessageType.READ, 1, 0, b"/a\0"))[:-1])
    with pytest.raises(WireError, match="18 bytes"):
        decoder.end()


@settings(deadline=None)
@given(st.lists(st.binary(max_size=20).filter(lambda text: b"\0" not in text)))
def test_strings_come_out_as_they_were_joined(strings: list[bytes]) -> None:
    assert list(wire.split_strings(wire.join_strings(*strings))) == strings


@pytest.mark.parametrize(
    ("payload", "name"),
    [
        (b"ENOENT\0", "ENOENT"),
        (b"E2BIG\0", "E2BIG"),
        (b"ENOTHING\0", "EINVAL"),
        (b"\xff", "EINVAL"),
        (b"", "EINVAL"),
    ],
)
def test_error_reply_is_read_as_libxenstore_reads_it(payload: bytes, name: str) -> None:
    assert wire.error_name(payload) == name


@pytest.mark.parametrize(("text", "number"), [("0", 0), ("1048576", 1048576), ("-4", -4), ("007", 7)])
def test_decimal_is_read_when_it_is_one(text: str, number: int) -> None:
    assert wire.parse_decimal(text) == number


@pytest.mark.parametrize(
    "text",
    [None, "", " 1", "1\n", "1 kB", "+1", "1_000", "0x10", "1.5", "\u0661", "9" * 19, "--1", "1\0"],
)
def test_decimal_is_none_when_a_guest_wrote_something_else(text: str | None) -> None:
    assert wire.parse_decimal(text) is None
