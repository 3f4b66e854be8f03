"""Who may read without calling, and which pages of browsers may call.

Readers are those who fetch pages: ``/metrics``, ``/api/v1/state``, ``/api/v1/events``. This machine reads
freely; others bring a session or the reader's token, for what a host's guests are called and how much they
use is not the whole network's business. A browser says which page sends a request: a page of somebody else's
must not call in its reader's name. Nothing here knows HTTP's library; `http` asks.
"""

from __future__ import annotations

import hmac
import re
from ipaddress import ip_address
from typing import TYPE_CHECKING, Final

from xcpmem.errors import SessionInvalid

if TYPE_CHECKING:
    from collections.abc import Iterable

    from xcpmem.api.sessions import Peer, Sessions

SESSION_COOKIE: Final = "xcpmem_session"
"""Where a page keeps its session, since a browser's event stream can send no header of its own."""
_BEARER: Final = "bearer "
_PORTS: Final = {"http": "80", "https": "443"}
_PORT: Final = re.compile(r":\d+$")


class ReadGate:
    """Lets readers in.

    Args:
        sessions: an open one opens the gate, whatever its role: all roles may read.
        token: opens the gate as well; empty: there is none.
    """

    def __init__(self, sessions: Sessions, token: str = "") -> None:
        self._sessions = sessions
        self._token = token

    def admits(
        self, peer: Peer, authorization: str = "", cookie: str = "", *, uses_session: bool = True
    ) -> bool:
        """Tell whether a reader is let in.

        Args:
            peer: who asks; the Unix socket and loopback need nothing.
            authorization: the header of that name: ``Bearer``, then the token or a session's reference.
            cookie: the value of `SESSION_COOKIE`, a session's reference.
            uses_session: whether that counts as a use of the session, which keeps it from expiring; not where
                somebody who was let in reads on.
        """
        if peer.is_on_this_machine:
            return True
        brought = ""
        if authorization.lower().startswith(_BEARER):
            brought = authorization[len(_BEARER) :].strip()
        if self._token and hmac.compare_digest(_bytes(brought), _bytes(self._token)):
            return True
        return any(ref and self._is_open(ref, uses_session) for ref in (brought, cookie))

    def _is_open(self, ref: str, is_used: bool) -> bool:
        if not is_used:
            return self._sessions.peek(ref) is not None
        try:
            self._sessions.find(ref)
        except SessionInvalid:
            return False
        return True


class OriginGate:
    """Lets pages call: our own, served under a name that is ours, and those that the settings trust.

    A name that is not known here may be somebody else's that points to this machine for a moment (DNS
    rebinding); an IP address cannot be.

    Args:
        names: of this machine.
        trusted: origins of other pages, such as ``https://xo.example``, with commas or blanks between.
    """

    def __init__(self, names: Iterable[str] = (), trusted: str = "") -> None:
        self._names = frozenset(name.lower() for name in ("localhost", *names) if name)
        self._trusted = frozenset(
            origin.lower().rstrip("/") for origin in re.split(r"[\s,]+", trusted) if origin
        )

    def admits(self, origin: str | None, host: str) -> bool:
        """Tell whether a page may call.

        Args:
            origin: the header of that name; None: no browser sent the request, and everyone may.
            host: the header of that name.
        """
        if origin is None:
            return True
        page = origin.lower()
        if page in self._trusted:
            return True
        scheme, separator, where = page.partition("://")
        if not separator or scheme not in _PORTS or "/" in where:
            return False
        asked = host.lower()
        return _with_port(where, scheme) == _with_port(asked, scheme) and self._is_ours(asked)

    def _is_ours(self, host: str) -> bool:
        name = _PORT.sub("", host)
        try:
            ip_address(name.strip("[]"))
        except ValueError:
            return name in self._names
        return True


def _with_port(where: str, scheme: str) -> str:
    return where if _PORT.search(where) else f"{where}:{_PORTS[scheme]}"


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
