"""What xenstored is asked and what it answers, as text: checked before sending, decoded after.

xenstored kills a connection that sends too much and pyxs stumbles over what the protocol forbids, so
nothing leaves unchecked. What comes back may have been written by a guest, so nothing fails to decode.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple, TypeAlias

from xcpmem.errors import InvalidValue, StoreError, WireError
from xcpmem.xen import paths, wire
from xcpmem.xen.wire import Message, MessageType


class Refusal(NamedTuple):
    """What xenstored answers instead of a payload.

    Args:
        name: the errno's, such as ``ENOENT``.
        request: what was asked.
    """

    name: str
    request: Message


Reply: TypeAlias = bytes | Refusal
"""The payload of a reply, or that xenstored refused."""

LISTING_END: Final = wire.NUL * 2

_SENDABLE = re.compile(r"[\x20-\x7e]*")


def path_payload(path: str) -> bytes:
    """Return the payload that names a path.

    Raises:
        InvalidValue: xenstored would not take it for an absolute path.
    """
    if not paths.is_absolute_path(path):
        raise InvalidValue("path", path)
    return wire.join_strings(path.encode())


def write_payload(path: str, value: str) -> bytes:
    """Return the payload of a WRITE.

    Args:
        path: absolute.
        value: printable ASCII, may be empty.

    Raises:
        InvalidValue: names the path and the value; it holds other characters (UTF-8, a line's end), or the
            two do not fit into a message.
    """
    payload = path_payload(path)
    if _SENDABLE.fullmatch(value) is None or len(payload) + len(value) > wire.PAYLOAD_BYTES_MAX:
        raise InvalidValue(path, value)
    return payload + value.encode()


def watch_payload(path: str, token: str) -> bytes:
    """Return the payload of a WATCH or UNWATCH.

    Args:
        path: absolute, or a special watch.
        token: printable ASCII, not empty.

    Raises:
        InvalidValue: the path is neither, the token holds other characters, or both are too long.
    """
    if not paths.is_absolute_path(path) and not paths.is_special_watch(path):
        raise InvalidValue("path", path)
    payload = wire.join_strings(path.encode(), token.encode("ascii", "replace"))
    if not token or _SENDABLE.fullmatch(token) is None or len(payload) > wire.PAYLOAD_BYTES_MAX:
        raise InvalidValue(path, token)
    return payload


def describe(message_type: int, payload: bytes) -> str:
    """Name a request for people: what it is and the first string in it."""
    return f"{MessageType(message_type).name} {text(payload.partition(wire.NUL)[0])}".rstrip()


def text(data: bytes) -> str:
    r"""Decode what anybody may have written: UTF-8, other bytes as ``\x..``, trailing NULs dropped."""
    return data.rstrip(wire.NUL).decode("utf-8", "backslashreplace")


def payload(reply: Reply, fine: str = "") -> bytes:
    """Return what a reply brings, nothing for the refusal that is fine; others are raised as StoreError."""
    if isinstance(reply, Refusal):
        if reply.name == fine:
            return b""
        raise StoreError(reply.name, describe(reply.request.type, reply.request.payload))
    return reply


def value(reply: Reply) -> str | None:
    """Return the value in the reply to a READ, None if the key is absent; or raise the StoreError."""
    if isinstance(reply, Refusal) and reply.name == "ENOENT":
        return None
    return text(payload(reply))


def names(listing: bytes) -> list[str]:
    """Split the reply to a DIRECTORY."""
    return [text(name) for name in listing.split(wire.NUL) if name]


class PartedListing:
    """Puts together a directory's names from the replies to DIRECTORY_PART.

    Each part begins with the directory's generation; another generation means that the directory has
    changed and that the parts do not belong together (xen's docs/misc/xenstore.txt).
    """

    __slots__ = ("_generation", "listing")

    def __init__(self) -> None:
        self.listing = b""
        self._generation = b""

    def add(self, part: bytes) -> bool:
        """Add a part.

        Args:
            part: the reply to a request for the names from ``len(listing)`` on.

        Returns:
            Whether the listing is complete.

        Raises:
            StoreError: EAGAIN, the directory has changed: start anew.
            WireError: the part is empty, as no xenstored sends it.
        """
        generation, _, more = part.partition(wire.NUL)
        if self.listing and generation != self._generation:
            raise StoreError("EAGAIN", "DIRECTORY_PART")
        if not more:
            raise WireError("a part of a listing has nothing in it")
        self._generation = generation
        self.listing += more
        return more == wire.NUL or more.endswith(LISTING_END)
