"""The xenstore protocol as bytes and values; sockets and threads are elsewhere.

A message, in either direction, is a header of four native-endian 32-bit numbers (type, request id,
transaction id, payload length) and the payload, mostly strings that end in NUL. Sources: xen's
docs/misc/xenstore.txt and public/io/xs_wire.h.
"""

from __future__ import annotations

import re
import struct
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


class Message(NamedTuple):
    """One message, request or reply.

    Args:
        type: a `MessageType`, or any other 32-bit number: the other end may be newer than we are.
        request_id: chosen by the client, echoed in the reply; 0 in a watch event.
        transaction_id: 0 outside of transactions.
        payload: at most 4096 bytes.
    """

    type: int
    request_id: int
    transaction_id: int
    payload: bytes

    @property
    def strings(self) -> tuple[bytes, ...]:
        """The payload's strings, as `split_strings` gives them."""
        return split_strings(self.payload)


class Decoder:
    """Takes bytes as they come and gives messages, in both directions.

    After a WireError the stream is out of step for good: every further call raises it again.
    """

    __slots__ = ("_failure", "_rest")

    def __init__(self) -> None:
        self._rest = b""
        self._failure = ""

    @property
    def pending_bytes(self) -> int:
        """How much of an unfinished message is kept; less than a header and a full payload."""
        return len(self._rest)

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
        data = self._rest + data
        messages: list[Message] = []
        start = 0
        while len(data) - start >= HEADER_BYTES:
            begin = start + HEADER_BYTES
            kind, request_id, transaction_id, payload_bytes = _HEADER.unpack_from(data, start)
            if payload_bytes > PAYLOAD_BYTES_MAX:
                self._rest, self._failure = b"", _too_long(payload_bytes)
                raise WireError(self._failure)
            end = begin + payload_bytes
            if len(data) < end:
                break
            messages.append(Message(kind, request_id, transaction_id, data[begin:end]))
            start = end
        self._rest = data[start:]
        return messages

    def end(self) -> None:
        """Take the end of the stream.

        Raises:
            WireError: it came in the middle of a message.
        """
        if self._rest:
            raise WireError(f"the stream ends {len(self._rest)} bytes into a message")


def encode(message: Message) -> bytes:
    """Return the message's bytes, header and payload.

    Raises:
        WireError: a number needs more than 32 bits, or the payload is too long.
    """
    kind, request_id, transaction_id, payload = message
    if len(payload) > PAYLOAD_BYTES_MAX:
        raise WireError(_too_long(len(payload)))
    try:
        return _HEADER.pack(kind, request_id, transaction_id, len(payload)) + payload
    except struct.error:
        numbers = f"{kind}, {request_id}, {transaction_id}"
        raise WireError(f"not all of {numbers} are unsigned 32-bit numbers") from None


def join_strings(*strings: bytes) -> bytes:
    """Return a payload of strings, each followed by a NUL."""
    return NUL.join((*strings, b""))


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


def _too_long(length: int) -> str:
    return f"payload of {length} bytes, the protocol allows {PAYLOAD_BYTES_MAX}"
