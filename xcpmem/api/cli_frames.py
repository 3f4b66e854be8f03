"""The bytes of the thin-CLI protocol, which the `xe` program of XenServer and xapi's `/cli` speak.

Both ends send a greeting first: 27 letters and the protocol's version. After that come frames: a length
and so many bytes; a string is a length and its bytes, a list a count and its items; all integers are
signed 32-bit little-endian. Facts from xapi's ``ocaml/xapi-cli-protocol``.

No I/O happens here: `encode` makes bytes, `Decoder` takes them in pieces of any size. The server and
`xcpmem.client` share this module, so it imports nothing but the standard library and the error tree.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

from xcpmem.errors import NotThinCli, WireError
from xcpmem.units import mib_to_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

GREETING_TEXT: Final = b"XenSource thin CLI protocol"
MAJOR: Final = 0
MINOR: Final = 2
LIMIT_BYTES: Final = mib_to_bytes(16)
"""The longest frame or blob chunk that is taken: all of a large pool's ``--minimal`` answer is one frame."""

_INT: Final = struct.Struct("<i")
_VERSION: Final = struct.Struct("<ii")
_COMMAND, _RESPONSE, _BLOB = 9, 10, 11


@dataclass(frozen=True, slots=True)
class Greeting:
    """The first thing either end says; only ``major`` has to agree."""

    major: int = MAJOR
    minor: int = MINOR


@dataclass(frozen=True, slots=True)
class Print:
    """A line for standard output; the client adds the newline."""

    text: str


@dataclass(frozen=True, slots=True)
class PrintStderr:
    """Text for standard error, written as it is."""

    text: str


@dataclass(frozen=True, slots=True)
class Debug:
    """Text that only a client asked to debug shows."""

    text: str


@dataclass(frozen=True, slots=True)
class Load:
    """Asks the client for the content of one of its files."""

    filename: str


@dataclass(frozen=True, slots=True)
class Prompt:
    """Asks the client for a line from its standard input."""


@dataclass(frozen=True, slots=True)
class Exit:
    """The last frame: the client's exit code."""

    code: int


@dataclass(frozen=True, slots=True)
class Error:
    """A failure the server has no words for: a XenAPI code and its parameters."""

    code: str
    params: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class HttpGet:
    """Asks the client to fetch a URL into one of its files."""

    filename: str
    url: str


@dataclass(frozen=True, slots=True)
class HttpPut:
    """Asks the client to send one of its files to a URL."""

    filename: str
    url: str


@dataclass(frozen=True, slots=True)
class HttpConnect:
    """Asks the client to connect its terminal to a console."""

    url: str


@dataclass(frozen=True, slots=True)
class Ok:
    """The client did what the last command asked for."""


@dataclass(frozen=True, slots=True)
class Failed:
    """The client could not do what the last command asked for."""


@dataclass(frozen=True, slots=True)
class Wait:
    """The client is still at it."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a file; on the wire a frame with its length, and the bytes right behind that frame."""

    data: bytes


@dataclass(frozen=True, slots=True)
class End:
    """The file ends here."""


Message: TypeAlias = (
    Greeting
    | Print
    | PrintStderr
    | Debug
    | Load
    | Prompt
    | Exit
    | Error
    | HttpGet
    | HttpPut
    | HttpConnect
    | Ok
    | Failed
    | Wait
    | Chunk
    | End
)


def _int(number: int) -> bytes:
    return _INT.pack(number)


def _text(text: str) -> bytes:
    data = text.encode(errors="replace")
    return _int(len(data)) + data


def _frame(family: int, kind: int, body: bytes = b"") -> bytes:
    payload = _int(family) + _int(kind) + body
    return _int(len(payload)) + payload


_ENCODERS: Final[Mapping[type, Callable[..., bytes]]] = {
    Greeting: lambda m: GREETING_TEXT + _VERSION.pack(m.major, m.minor),
    Print: lambda m: _frame(_COMMAND, 0, _text(m.text)),
    Load: lambda m: _frame(_COMMAND, 1, _text(m.filename)),
    Prompt: lambda _: _frame(_COMMAND, 3),
    Exit: lambda m: _frame(_COMMAND, 4, _int(m.code)),
    HttpGet: lambda m: _frame(_COMMAND, 12, _text(m.filename) + _text(m.url)),
    HttpPut: lambda m: _frame(_COMMAND, 13, _text(m.filename) + _text(m.url)),
    Error: lambda m: _frame(
        _COMMAND,
        14,
        _text(m.code) + _int(len(m.params)) + b"".join(_text(param) for param in m.params),
    ),
    Debug: lambda m: _frame(_COMMAND, 15, _text(m.text)),
    PrintStderr: lambda m: _frame(_COMMAND, 16, _text(m.text)),
    HttpConnect: lambda m: _frame(_COMMAND, 17, _text(m.url)),
    Ok: lambda _: _frame(_RESPONSE, 5),
    Failed: lambda _: _frame(_RESPONSE, 6),
    Wait: lambda _: _frame(_RESPONSE, 18),
    Chunk: lambda m: _frame(_BLOB, 7, _int(len(m.data))) + m.data,
    End: lambda _: _frame(_BLOB, 8),
}


def encode(message: Message) -> bytes:
    """Turn a message into its bytes.

    Args:
        message: text that is no Unicode (lone surrogates) is sent with question marks.

    Returns:
        The whole frame with its length in front, or the greeting, which has none.
    """
    return _ENCODERS[type(message)](message)


class _Body:
    """Reads one frame's payload from front to back; a length that lies is a `WireError`."""

    def __init__(self, payload: bytes) -> None:
        self._payload = payload
        self._at = 0

    def number(self) -> int:
        return int(_INT.unpack(self._take(_INT.size))[0])

    def text(self) -> str:
        return self._take(self.number()).decode(errors="replace")

    def texts(self) -> tuple[str, ...]:
        count = self.number()
        if count < 0:
            raise WireError(f"a list of {count} texts")
        return tuple(self.text() for _ in range(count))

    def finish(self) -> None:
        if self._at != len(self._payload):
            raise WireError(f"{len(self._payload) - self._at} bytes too many in a frame")

    def _take(self, size: int) -> bytes:
        end = self._at + size
        if size < 0 or end > len(self._payload):
            raise WireError(f"a frame of {len(self._payload)} bytes promises {size} more at {self._at}")
        data = self._payload[self._at : end]
        self._at = end
        return data


_DECODERS: Final[Mapping[tuple[int, int], Callable[[_Body], Message]]] = {
    (_COMMAND, 0): lambda body: Print(body.text()),
    (_COMMAND, 1): lambda body: Load(body.text()),
    (_COMMAND, 3): lambda _: Prompt(),
    (_COMMAND, 4): lambda body: Exit(body.number()),
    (_COMMAND, 12): lambda body: HttpGet(body.text(), body.text()),
    (_COMMAND, 13): lambda body: HttpPut(body.text(), body.text()),
    (_COMMAND, 14): lambda body: Error(body.text(), body.texts()),
    (_COMMAND, 15): lambda body: Debug(body.text()),
    (_COMMAND, 16): lambda body: PrintStderr(body.text()),
    (_COMMAND, 17): lambda body: HttpConnect(body.text()),
    (_RESPONSE, 5): lambda _: Ok(),
    (_RESPONSE, 6): lambda _: Failed(),
    (_RESPONSE, 18): lambda _: Wait(),
    (_BLOB, 8): lambda _: End(),
}
_CHUNK: Final = (_BLOB, 7)


class Decoder:
    """Turns what one end sends into messages; the greeting comes first.

    Args:
        limit_bytes: the longest frame or chunk taken, so that a lie about a length costs no memory.
    """

    def __init__(self, limit_bytes: int = LIMIT_BYTES) -> None:
        self._limit_bytes = limit_bytes
        self._buffer = bytearray()
        self._greeted = False
        self._chunk_bytes: int | None = None

    @property
    def is_between_messages(self) -> bool:
        """Whether the bytes so far end where a message ends."""
        return not self._buffer and self._chunk_bytes is None

    def feed(self, data: bytes) -> list[Message]:
        """Take bytes in and give the messages that are complete.

        Args:
            data: the next bytes from the other end, any number of them.

        Returns:
            Complete messages in order, perhaps none.

        Raises:
            NotThinCli: the first bytes are no greeting.
            WireError: the bytes are no frames; the stream cannot be read on.
        """
        self._buffer += data
        messages = []
        while (message := self._next()) is not None:
            messages.append(message)
        return messages

    def _next(self) -> Message | None:
        if not self._greeted:
            return self._greeting()
        if self._chunk_bytes is not None:
            return self._chunk()
        if len(self._buffer) < _INT.size:
            return None
        size = _INT.unpack_from(self._buffer)[0]
        self._check_size(size)
        if len(self._buffer) < _INT.size + size:
            return None
        body = _Body(self._take(_INT.size + size)[_INT.size :])
        kind = (body.number(), body.number())
        if kind == _CHUNK:
            self._chunk_bytes = body.number()
            self._check_size(self._chunk_bytes)
            body.finish()
            return self._chunk()
        decoder = _DECODERS.get(kind)
        if decoder is None:
            raise WireError(f"unknown message of type {kind[0]}, {kind[1]}")
        message = decoder(body)
        body.finish()
        return message

    def _greeting(self) -> Greeting | None:
        start = bytes(self._buffer[: len(GREETING_TEXT)])
        if not GREETING_TEXT.startswith(start):
            raise NotThinCli(start)
        if len(self._buffer) < len(GREETING_TEXT) + _VERSION.size:
            return None
        self._greeted = True
        return Greeting(*_VERSION.unpack(self._take(len(GREETING_TEXT) + _VERSION.size)[len(start) :]))

    def _chunk(self) -> Chunk | None:
        if self._chunk_bytes is None or len(self._buffer) < self._chunk_bytes:
            return None
        size, self._chunk_bytes = self._chunk_bytes, None
        return Chunk(self._take(size))

    def _check_size(self, size: int) -> None:
        if not 0 <= size <= self._limit_bytes:
            raise WireError(f"a frame of {size} bytes, at most {self._limit_bytes} are taken")

    def _take(self, size: int) -> bytes:
        data = bytes(self._buffer[:size])
        del self._buffer[:size]
        return data
