"""Who may read without calling, and which browsers may call.

Readers are those who fetch pages: ``/metrics``, ``/api/v1/state``, ``/api/v1/events``. This machine reads
freely; others bring a session or the reader's token, for what a host's guests are called and how much they
use is not the whole network's business. Nothing here knows HTTP's library; `http` asks.
"""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING, Final

from xcpmem.errors import SessionInvalid

if TYPE_CHECKING:
    from xcpmem.api.sessions import Peer, Sessions

SESSION_COOKIE: Final = "xcpmem_session"
"""Where a page keeps its session, since a browser's event stream can send no header of its own."""
_BEARER: Final = "bearer "


class ReadGate:
    """Lets readers in.

    Args:
        sessions: an open one opens the gate, whatever its role: all roles may read.
        token: opens the gate as well; empty: there is none.
    """

    def __init__(self, sessions: Sessions, token: str = "") -> None:
        self._sessions = sessions
        self._token = token

    def admits(self, peer: Peer, authorization: str = "", cookie: str = "") -> bool:
        """Tell whether a reader is let in.

        Args:
            peer: who asks; the Unix socket and loopback need nothing.
            authorization: the header of that name: ``Bearer``, then the token or a session's reference.
            cookie: the value of `SESSION_COOKIE`, a session's reference.
        """
        if peer.is_on_this_machine:
            return True
        brought = ""
        if authorization.lower().startswith(_BEARER):
            brought = authorization[len(_BEARER) :].strip()
        if self._token and hmac.compare_digest(_bytes(brought), _bytes(self._token)):
            return True
        return any(ref and self._is_open(ref) for ref in (brought, cookie))

    def _is_open(self, ref: str) -> bool:
        try:
            self._sessions.find(ref)
        except SessionInvalid:
            return False
        return True


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
