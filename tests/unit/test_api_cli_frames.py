"""The thin-CLI protocol's bytes; the samples are those that xe and xapi send."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xcpmem.api.cli_frames import (
    LIMIT_BYTES,
    Chunk,
    Debug,
    Decoder,
    End,
    Error,
    Exit,
    Failed,
    Greeting,
    HttpConnect,
    HttpGet,
    HttpPut,
    Load,
    Message,
    Ok,
    Print,
    PrintStderr,
    Prompt,
    Wait,
    encode,
)
from xcpmem.errors import NotThinCli, WireError

GREETING = bytes.fromhex("58656e536f75726365207468696e20434c492070726f746f636f6c0000000002000000")
SAMPLES = {
    "0e0000000900000000000000020000006869": Print("hi"),
    "080000000900000003000000": Prompt(),
    "0c000000090000000400000000000000": Exit(0),
    "0c000000090000000400000001000000": Exit(1),
    "0f0000000900000010000000030000006f680a": PrintStderr("oh\n"),
    "1d000000090000000e00000003000000414243020000000100000078010000007a": Error("ABC", ("x", "z")),
    "0d000000090000000100000001000000" + "66": Load("f"),
    "0d000000090000000f0000000100000064": Debug("d"),
    "12000000090000000c00000001000000660100000075": HttpGet("f", "u"),
    "12000000090000000d00000001000000660100000075": HttpPut("f", "u"),
    "0d00000009000000110000000100000075": HttpConnect("u"),
    "080000000a00000005000000": Ok(),
    "080000000a00000006000000": Failed(),
    "080000000a00000012000000": Wait(),
    "0c0000000b0000000700000003000000616263": Chunk(b"abc"),
    "080000000b00000008000000": End(),
}
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
MESSAGES: st.SearchStrategy[Message] = st.one_of(
    st.builds(Print, TEXTS),
    st.builds(PrintStderr, TEXTS),
    st.builds(Error, TEXTS, st.lists(TEXTS, max_size=4).map(tuple)),
    st.builds(Exit, st.integers(-(2**31), 2**31 - 1)),
    st.builds(HttpGet, TEXTS, TEXTS),
    st.builds(Chunk, st.binary(max_size=20)),
    st.sampled_from([Prompt(), Ok(), Failed(), Wait(), End()]),
)


def greeted(limit_bytes: int = LIMIT_BYTES) -> Decoder:
    decoder = Decoder(limit_bytes)
    assert decoder.feed(GREETING) == [Greeting(0, 2)]
    return decoder


def test_greeting_is_the_bytes_that_xe_sends() -> None:
    assert encode(Greeting()) == GREETING


@pytest.mark.parametrize(("sample", "message"), SAMPLES.items(), ids=lambda value: str(value)[:30])
def test_message_is_written_and_read_as_xapi_does(sample: str, message: Message) -> None:
    assert encode(message).hex() == sample
    assert greeted().feed(bytes.fromhex(sample)) == [message]


@given(st.lists(MESSAGES, max_size=8), st.data())
def test_decoder_finds_every_message_however_the_bytes_are_cut(
    messages: list[Message],
    data: st.DataObject,
) -> None:
    stream = GREETING + b"".join(encode(message) for message in messages)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    decoder = Decoder()
    found = []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        found += decoder.feed(stream[start:end])
    assert found == [Greeting(), *messages]
    assert decoder.is_between_messages


@given(st.lists(st.binary(max_size=64), max_size=4))
def test_decoder_gives_messages_or_a_wire_error_for_any_garbage_behind_the_greeting(
    pieces: list[bytes],
) -> None:
    decoder = greeted()
    found = []
    try:
        for piece in pieces:
            found += decoder.feed(piece)
    except WireError as error:
        assert str(error)  # noqa: PT017 - either outcome is right
    assert all(isinstance(message, Message) for message in found)


@given(st.binary(min_size=1, max_size=40).filter(lambda data: not GREETING.startswith(data[:27])))
def test_decoder_names_the_first_bytes_when_they_are_no_greeting(data: bytes) -> None:
    with pytest.raises(NotThinCli) as caught:
        Decoder().feed(data)
    assert data.startswith(caught.value.start)


def test_decoder_waits_for_the_rest_of_a_greeting() -> None:
    decoder = Decoder()
    assert decoder.feed(GREETING[:30]) == []
    assert not decoder.is_between_messages
    assert decoder.feed(GREETING[30:]) == [Greeting()]


@pytest.mark.parametrize(
    "frame",
    [
        "ffffffff",
        "01000001",
        "0800000009000000ff000000",
        "0e000000090000000000000003000000" + "6869",
        "0e000000090000000000000001000000" + "6869",
        "0400000009000000",
        "0c000000090000000e000000ffffffff",
        "10000000090000000e00000000000000ffffffff",
        "0c0000000b00000007000000ffffffff",
        "0c0000000b0000000700000001000001",
    ],
    ids=[
        "negative length",
        "length above the limit",
        "unknown type",
        "text longer than its frame",
        "text shorter than its frame",
        "frame too short for a type",
        "negative text length",
        "negative list length",
        "negative chunk",
        "chunk above the limit",
    ],
)
def test_decoder_refuses_a_frame_that_lies(frame: str) -> None:
    with pytest.raises(WireError):
        greeted().feed(bytes.fromhex(frame))


def test_decoder_refuses_what_its_user_finds_too_long() -> None:
    frame = encode(Print("x" * 100))
    assert greeted(112).feed(frame) == [Print("x" * 100)]
    with pytest.raises(WireError, match="at most 111"):
        greeted(111).feed(frame)


def test_text_that_is_no_unicode_does_not_break_the_stream() -> None:
    assert greeted().feed(encode(Print("a\ud800b"))) == [Print("a?b")]
    assert greeted().feed(bytes.fromhex("0d000000090000000000000001000000ff")) == [Print("\ufffd")]
