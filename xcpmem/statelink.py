"""How the client reads the daemon's state: HTTP by hand, over the connection that every command takes.

This machine reads freely; elsewhere the user and password of the command line open a session for it.
Only the standard library is imported.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from xcpmem.client import DEADLINE_S, connect
from xcpmem.errors import CommandError

if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping

    from xcpmem.client_settings import Settings

LARGEST: Final = 64 * 2**20
"""An answer with more bytes is none of ours."""

_STATE: Final = "/api/v1/state"
_CHUNK: Final = 65536
_UNAUTHORIZED: Final = 401
_OK: Final = 200


class StateLink:
    """Asks one daemon for its state, again and again.

    Args:
        settings: where it is, and as whom.
        environment: the process's.
    """

    def __init__(self, settings: Settings, environment: Mapping[str, str]) -> None:
        self._settings = settings
        self._environment = environment
        self._session = ""

    def fetch(self) -> dict[str, Any]:
        """Ask once; log in if that is needed.

        Raises:
            OSError: there is no connection.
            CommandError: the answer is none, or the user may not read it.
        """
        status, body = self._get()
        if status == _UNAUTHORIZED and not self._session:
            self._session = self._log_in()
            status, body = self._get()
        elif status == _UNAUTHORIZED:
            self._session = ""
        if status != _OK:
            raise CommandError(f"the server answered {status} when asked for {_STATE}")
        state = _parse(body)
        if not isinstance(state, dict) or not {"ring", "host", "vms", "requests"} <= state.keys():
            raise CommandError(f"the server's {_STATE} is not what this client knows")
        return state

    def close(self) -> None:
        """End the session, if there is one; a server that is gone has ended it already."""
        if self._session:
            try:
                self._call("session.logout", self._session)
            except (OSError, CommandError):
                return

    def _get(self) -> tuple[int, bytes]:
        headers = [f"GET {_STATE} HTTP/1.0"]
        if self._session:
            headers.append(f"Authorization: Bearer {self._session}")
        return self._exchange(headers, b"")

    def _log_in(self) -> str:
        settings = self._settings
        return str(
            self._call("session.login_with_password", settings.username, settings.password, "1.0", "top")
        )

    def _call(self, method: str, *params: str) -> object:
        call = {"jsonrpc": "2.0", "id": 1, "method": method, "params": list(params)}
        body = json.dumps(call).encode()
        status, answer = self._exchange(["POST /jsonrpc HTTP/1.0"], body)
        if status != _OK:
            raise CommandError(f"the server answered {status} to {method}")
        told = _parse(answer)
        if not isinstance(told, dict) or "result" not in told:
            error = told.get("error") if isinstance(told, dict) else None
            message = error.get("message") if isinstance(error, dict) else None
            raise CommandError(f"{method}: {message or 'the answer makes no sense'}")
        return told["result"]

    def _exchange(self, headers: list[str], body: bytes) -> tuple[int, bytes]:
        head = "\r\n".join([*headers, "Host: xcpmem", f"Content-Length: {len(body)}", "", ""])
        with connect(self._settings, self._environment) as stream:
            stream.settimeout(DEADLINE_S)
            stream.sendall(head.encode("utf-8", "replace") + body)
            answer = _read_all(stream)
        start, _, content = answer.partition(b"\r\n\r\n")
        words = start.split(None, 2)
        if len(words) < 2 or not words[0].startswith(b"HTTP/") or not words[1].isdigit():  # noqa: PLR2004 version, status
            raise CommandError("the server speaks no HTTP")
        return int(words[1]), content


def _read_all(stream: socket.socket) -> bytes:
    parts, size = [], 0
    while data := stream.recv(_CHUNK):
        parts.append(data)
        size += len(data)
        if size > LARGEST:
            raise CommandError("the server's answer does not end")
    return b"".join(parts)


def _parse(body: bytes) -> object:
    try:
        return json.loads(body)
    except ValueError as error:
        raise CommandError("the server's answer is no JSON") from error
