"""The xenstore protocol as bytes and values; sockets and threads are elsewhere.

A message, in either direction, is a header of four native-endian 32-bit numbers (type, request id,
transaction id, payload length) and the payload, mostly strings that end in NUL. Sources: xen's
docs/misc/xenstore.txt and public/io/xs_wire.h.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, NamedTuple

from xcpmem.errors import WireError

PAYLOAD_BYTES_MAX: Final = 4096
"""Longest payload; xenstored kills a connection that brings more (XENSTORE_PAYLOAD_MAX)."""
REQUEST_ID_END: Final = 2**32
"""Request and transaction ids are smaller than this."""
NUL: Final = b"\0"
ACKNOWLEDGED: Final = b"OK\0"
"""Payload of a reply that has nothing else to say."""
ERROR_NAMES: Final = frozenset(
    {
        "EINVAL",
        "EACCES",
        "EEXIST",
        "EISDIR",
        "ENOENT",
        "ENOMEM",
        "ENOSPC",
        "EIO",
        "ENOTEMPTY",
        "ENOSYS",
        "EROFS",
        "EBUSY",
        "EAGAIN",
        "EISCONN",
        "E2BIG",
        "EPERM",
    },
)
"""What an ERROR reply may carry (xsd_errors)."""

_HEADER: Final = struct.Struct("=IIII")
HEADER_BYTES: Final = _HEADER.size

_DECIMAL = re.compile(r"-?[0-9]{1,18}", re.ASCII)


class MessageType(IntEnum):
    """Kinds of messages (xsd_sockmsg_type); a reply has the type of its request, or ERROR."""

    CONTROL = 0
    DIRECTORY = 1
    READ = 2
    GET_PERMS = 3
    WATCH = 4
    UNWATCH = 5
    TRANSACTION_START = 6
    TRANSACTION_END = 7
    INTRODUCE = 8
    RELEASE = 9
    GET_DOMAIN_PATH = 10
    WRITE = 11
    MKDIR = 12
    RM = 13
    SET_PERMS = 14
    WATCH_EVENT = 15
    ERROR = 16
    IS_DOMAIN_INTRODUCED = 17
    RESUME = 18
    SET_TARGET = 19
    RESET_WATCHES = 21
    DIRECTORY_PART = 22
    GET_FEATURE = 23
    SET_FEATURE = 24
    GET_QUOTA = 25
    SET_QUOTA = 26


class Header(NamedTuple):
    """What precedes a payload: as `Message`, and how many bytes of payload follow."""

    type: int
    request_id: int
    transaction_id: int
    payload_bytes: int


@dataclass(frozen=True, slots=True)
class Message:
    """One message, request or reply.

    Args:
        type: a `MessageType`, or any other 32-bit number: the other end may be newer than we are.
        request_id: chosen by the client, echoed in the reply; 0 in a watch event.
        transaction_id: 0 outside of transactions.
        payload: at most 4096 bytes.

    Raises:
        WireError: a number needs more than 32 bits, or the payload is too long.
    """

    type: int
    request_id: int
    transaction_id: int
    payload: bytes

    def __post_init__(self) -> None:
        if (self.type | self.request_id | self.transaction_id) >> 32:
            numbers = f"{self.type}, {self.request_id}, {self.transaction_id}"
            raise WireError(f"not all of {numbers} are unsigned 32-bit numbers")
        _check_payload_length(len(self.payload))

    @property
    def strings(self) -> tuple[bytes, ...]:
        """The payload's strings, as `split_strings` gives them."""
        return split_strings(self.payload)


class Decoder:
    """Takes bytes as they come and gives messages, in both directions.

    After a WireError the stream is out of step for good: every further call raises it again.
    """

    __slots__ = ("_buffer", "_failure")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._failure = ""

    @property
    def pending_bytes(self) -> int:
        """How much of an unfinished message is kept; less than a header and a full payload."""
        return len(self._buffer)

    def feed(self, data: bytes) -> list[Message]:
        """Take bytes.

        Args:
            data: any number of bytes, cut anywhere.

        Returns:
            The messages that are complete now, in order.

        Raises:
            WireError: a header announces more than 4096 bytes; the messages before it are lost too.
        """
        if self._failure:
            raise WireError(self._failure)
        self._buffer += data
        messages: list[Message] = []
        start = 0
        while len(self._buffer) - start >= HEADER_BYTES:
            begin = start + HEADER_BYTES
            try:
                header = decode_header(self._buffer, start)
            except WireError as error:
                self._failure = str(error)
                self._buffer.clear()
                raise
            end = begin + header.payload_bytes
            if len(self._buffer) < end:
                break
            messages.append(Message(*header[:3], bytes(self._buffer[begin:end])))
            start = end
        del self._buffer[:start]
        return messages

    def end(self) -> None:
        """Take the end of the stream.

        Raises:
            WireError: it came in the middle of a message.
        """
        if self._buffer:
            raise WireError(f"the stream ends {len(self._buffer)} bytes into a message")


def encode(message: Message) -> bytes:
    """Return the message's bytes, header and payload."""
    header = _HEADER.pack(message.type, message.request_id, message.transaction_id, len(message.payload))
    return header + message.payload


def decode_header(data: bytes | bytearray, start: int = 0) -> Header:
    """Read a header alone, for a reader that takes exactly what belongs to one message.

    Args:
        data: has its 16 bytes.
        start: where they begin.

    Raises:
        WireError: the header announces a payload beyond the limit.
    """
    header = Header(*_HEADER.unpack_from(data, start))
    _check_payload_length(header.payload_bytes)
    return header


def join_strings(*strings: bytes) -> bytes:
    """Return a payload of strings, each followed by a NUL."""
    return b"".join(string + NUL for string in strings)


def split_strings(payload: bytes) -> tuple[bytes, ...]:
    """Return a payload's strings, each with its NUL taken off; what follows the last NUL is left out."""
    return tuple(payload.split(NUL)[:-1])


def error_name(payload: bytes) -> str:
    """Read the payload of an ERROR reply.

    Args:
        payload: an errno's name and a NUL.

    Returns:
        The name; ``EINVAL`` for a name the protocol does not list, as libxenstore does.
    """
    name = payload.rstrip(NUL).decode("ascii", "replace")
    return name if name in ERROR_NAMES else "EINVAL"


def parse_decimal(text: str | None) -> int | None:
    """Read a number that anybody may have written.

    Args:
        text: a value from xenstore, None if the key is absent.

    Returns:
        The number if the text is nothing but a sign and 1 to 18 ASCII digits, else None.
    """
    return int(text) if text is not None and _DECIMAL.fullmatch(text) else None


def _check_payload_length(length: int) -> None:
    if length > PAYLOAD_BYTES_MAX:
        raise WireError(f"payload of {length} bytes, the protocol allows {PAYLOAD_BYTES_MAX}")
