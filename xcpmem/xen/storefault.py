"""How a xenstored can fail its clients: values for the double to play, so that recovery can be tried."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING, Final

from xcpmem.errors import InvalidValue
from xcpmem.xen import wire
from xcpmem.xen.wire import Message, MessageType

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


class Misbehaviour(Enum):
    """Ways to fail. All but the first three do what was asked and spoil the message about it."""

    REFUSE = auto()
    """Answer with an error; do nothing."""
    SILENCE = auto()
    """Answer nothing; do nothing."""
    HANG_UP = auto()
    """Close the connection; do nothing."""
    TEAR = auto()
    """Send the message without its last bytes."""
    OVERSIZE = auto()
    """Send more payload than the protocol allows."""
    MISTAKE_TYPE = auto()
    """Send the message as one of another type."""
    SEND_TWICE = auto()
    """Send the message two times."""
    ADD_FIELD = auto()
    """Add a string to the payload."""
    OMIT_PAYLOAD = auto()
    """Send no payload."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One failure.

    Args:
        misbehaviour: which.
        error: for REFUSE, the errno's name that is answered.
    """

    misbehaviour: Misbehaviour
    error: str = "EIO"

    def __post_init__(self) -> None:
        if self.error not in wire.ERROR_NAMES:
            raise InvalidValue("error", self.error)

    def spoil(self, message: Message) -> bytes:
        """Return what is sent in the place of a message; REFUSE, SILENCE and HANG_UP send it as it is."""
        return _SPOILERS.get(self.misbehaviour, wire.encode)(message)


def _oversize(message: Message) -> bytes:
    payload = message.payload.ljust(wire.PAYLOAD_BYTES_MAX + 1, b"x")
    header = (message.type, message.request_id, message.transaction_id, len(payload))
    return struct.pack("=IIII", *header) + payload


def _mistake_type(message: Message) -> bytes:
    other = MessageType.MKDIR if message.type != MessageType.MKDIR else MessageType.RM
    return wire.encode(message._replace(type=other))


_SPOILERS: Final[Mapping[Misbehaviour, Callable[[Message], bytes]]] = {
    Misbehaviour.TEAR: lambda message: wire.encode(message)[:-1],
    Misbehaviour.OVERSIZE: _oversize,
    Misbehaviour.MISTAKE_TYPE: _mistake_type,
    Misbehaviour.SEND_TWICE: lambda message: wire.encode(message) * 2,
    Misbehaviour.ADD_FIELD: lambda message: wire.encode(
        message._replace(payload=message.payload + wire.join_strings(b"more")),
    ),
    Misbehaviour.OMIT_PAYLOAD: lambda message: wire.encode(message._replace(payload=b"")),
}
