"""The client: sends the words of a command line to a daemon's `/cli` and does what it is told.

It behaves as `xe` does (xapi's ``ocaml/xe-cli/newcli.ml``): the same options, the same environment, the
same exit codes, and every command is the server's. It talks to xapi as well. Only the standard library is
imported, so that it starts as fast as Python can; `ssl` only where it is needed.

Where it connects to, first match: a Unix socket path given by ``-s``; the server and port given by option,
environment or ``~/.xe``; the socket in ``XCPMEM_SOCKET``; ``/run/xcpmem/xcpmem.sock`` if it lets us in; TCP
on 127.0.0.1:8080. TCP to loopback is in clear, as is everything with ``--nossl``; all else is TLS, whose
certificate nobody checks, as with `xe`.
"""

from __future__ import annotations

import os
import socket
import sys
from typing import TYPE_CHECKING, Final

from xcpmem.api.cli_frames import (
    MAJOR,
    MINOR,
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
    Print,
    PrintStderr,
    Prompt,
    encode,
)
from xcpmem.api.cli_help import suggest
from xcpmem.client_settings import UsageAsked, read_settings
from xcpmem.errors import CommandError, NotThinCli, WireError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from xcpmem.api.cli_frames import Message
    from xcpmem.client_settings import Settings

SYSTEM_SOCKET: Final = "/run/xcpmem/xcpmem.sock"
DEFAULT_PORT: Final = 8080
DEADLINE_S: Final = 30.0
"""For connecting, for the greeting and for each sending; only the command itself may take its time."""
_READ_BYTES: Final = 65536
_REFUSED: Final = frozenset({"Authentication failed\n", "Username/password must be specified\n"})
_USAGE: Final = (
    "Usage: xcpmem <cmd> [-s server] [-p port] ([-u username] [-pw password] or [-pwf <password file>])"
    " [--traceparent traceparent] <other arguments>\n"
    "\nA full list of commands can be obtained by running \n\txcpmem help -s <server> -p <port>\n"
)


def connect(settings: Settings, environment: Mapping[str, str]) -> socket.socket:
    """Connect to the server that the settings name, or to the daemon on this machine.

    Args:
        settings: with the server.
        environment: may name the daemon's socket in ``XCPMEM_SOCKET``.

    Returns:
        A connected socket with `DEADLINE_S` as its timeout, TLS already set up.

    Raises:
        OSError: there is no such server, or it did not answer in time.
    """
    if "/" in settings.server:
        return _connect_unix(settings.server)
    if not settings.is_server_given:
        if environment.get("XCPMEM_SOCKET"):
            return _connect_unix(environment["XCPMEM_SOCKET"])
        try:
            return _connect_unix(SYSTEM_SOCKET)
        except OSError:
            # No daemon of the system's, or not for this user: whoever has a password may come by TCP.
            return _connect_tcp(settings)
    return _connect_tcp(settings)


def _connect_tcp(settings: Settings) -> socket.socket:
    host = settings.server.strip("[]")
    stream = socket.create_connection((host, settings.port or DEFAULT_PORT), DEADLINE_S)
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if settings.nossl or _is_loopback(stream):
        return stream
    import ssl  # noqa: PLC0415 - only remote servers need it

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context.wrap_socket(stream, server_hostname=host)


def _connect_unix(path: str) -> socket.socket:
    stream = socket.socket(socket.AF_UNIX)
    stream.settimeout(DEADLINE_S)
    try:
        stream.connect(path)
    except OSError:
        stream.close()
        raise
    return stream


def _is_loopback(stream: socket.socket) -> bool:
    address = str(stream.getpeername()[0])
    return address == "::1" or address.startswith(("127.", "::ffff:127."))


def make_request(settings: Settings, *, wants_progress: bool) -> bytes:
    """Make the HTTP request that opens the dialogue.

    Args:
        settings: with the words and the user.
        wants_progress: whether a person is watching; said in a header that xapi does not look at.
    """
    words = [*settings.words, f"username={settings.username}", f"password={settings.password}"]
    body = "\n".join(words).encode(errors="surrogateescape")
    headers = [f"POST /cli HTTP/1.0\r\nUser-agent: xe-cli/Unix/{MAJOR}.{MINOR}\r\noriginator: cli"]
    if settings.traceparent:
        headers.append(f"traceparent: {settings.traceparent}")
    if wants_progress:
        headers.append("xcpmem-progress: tty")
    headers.append(f"content-length: {len(body)}\r\n\r\n")
    return "\r\n".join(headers).encode() + body


class Dialogue:
    """One command's conversation with the server.

    Args:
        stream: connected, nothing sent yet.
        settings: with the words.
        show: takes what the command prints.
    """

    def __init__(
        self,
        stream: socket.socket,
        settings: Settings,
        show: Callable[[str], None] = lambda text: _write(1, text),
    ) -> None:
        self._stream = stream
        self._show = show
        self._settings = settings
        self._decoder = Decoder()
        self._last_words = ""
        self.is_command_unknown = False
        """Whether the server did not know the command."""
        self.is_refused = False
        """Whether the server let the user not in."""

    def run(self, *, wants_progress: bool) -> int:
        """Send the command and do what the server says, to its end.

        Returns:
            The exit code the server gave.

        Raises:
            NotThinCli: the server speaks something else.
            WireError: the server's bytes make no sense, or its version is another.
            EOFError: the server hung up before the end.
            OSError: the connection broke, or the server never greeted.
        """
        self._stream.sendall(make_request(self._settings, wants_progress=wants_progress))
        for message in self._messages():
            self._debug(f"Read: {message}\n")
            if isinstance(message, Greeting):
                if message.major != MAJOR:
                    raise WireError(
                        f"Protocol version mismatch: Server has protocol version {message.major}."
                        f"{message.minor}. Client has {MAJOR}.{MINOR}",
                    )
                self._send(Greeting())
            elif isinstance(message, Exit):
                return message.code
            else:
                self._obey(message)
        raise EOFError

    def _messages(self) -> Iterator[Message]:
        """Give what the server sends, until it hangs up."""
        greeted = False
        while True:
            # The command itself may take as long as it likes; a server that never greets may not.
            self._stream.settimeout(None if greeted else DEADLINE_S)
            data = self._stream.recv(_READ_BYTES)
            if not data:
                return
            messages = self._decoder.feed(data)
            greeted = greeted or bool(messages)
            yield from messages

    def _obey(self, message: Message) -> None:
        match message:
            case Print(text):
                self._show(f"{text}\n")
            case PrintStderr(text):
                self.is_command_unknown |= text.startswith("Unknown command: ")
                self.is_refused |= text in _REFUSED
                self._last_words = text
                _write(2, text)
            case Debug(text):
                self._debug(f"debug from server: {text}\n")
            case Error(code, params):
                _write(2, f"Error code: {code}\nError parameters: {', '.join(params)}\n")
            case Prompt():
                self._send(Chunk(_read_line(is_secret="assword" in self._last_words).rstrip(b"\r\n")))
                self._send(End())
            case Load() | HttpGet() | HttpPut() | HttpConnect():
                # A server may name any file of the user's here; no command of ours needs one.
                self._send(Failed())
            case _:
                raise WireError(f"Unexpected message from server: {message}")

    def _send(self, message: Message) -> None:
        self._stream.settimeout(DEADLINE_S)
        self._stream.sendall(encode(message))

    def _debug(self, text: str) -> None:
        if self._settings.debug:
            _write(2, text)


def _read_line(*, is_secret: bool) -> bytes:
    """Read a line of standard input; a secret that somebody types at a terminal is not shown."""
    if not (is_secret and sys.stdin.isatty()):
        return sys.stdin.buffer.readline()
    import termios  # noqa: PLC0415 - only terminals need it

    terminal = sys.stdin.fileno()
    shown = termios.tcgetattr(terminal)
    hidden = [*shown]
    hidden[3] &= ~termios.ECHO
    try:
        termios.tcsetattr(terminal, termios.TCSAFLUSH, hidden)
        return sys.stdin.buffer.readline()
    finally:
        termios.tcsetattr(terminal, termios.TCSAFLUSH, shown)
        sys.stderr.write("\n")


class OutputGone(Exception):
    """Nobody reads our output any more."""


def _write(descriptor: int, text: str) -> None:
    """Write all of a text to standard output (1) or error (2), at once and as the bytes it came in."""
    data = text.encode(errors="replace")
    try:
        while data:
            data = data[os.write(descriptor, data) :]
    except BrokenPipeError as error:
        raise OutputGone from error


def main(
    arguments: Sequence[str],
    environment: Mapping[str, str] = os.environ,
    show: Callable[[str], None] = lambda text: _write(1, text),
) -> int:
    """Run one command.

    Args:
        arguments: the command line without the program's name.
        environment: the process's.
        show: takes what the command prints; standard output, unless another program reads it.

    Returns:
        The exit code: the server's; 1 if there was no way to have one; 0 after usage.
    """
    try:
        settings = read_settings(arguments, environment)
        with connect(settings, environment) as stream:
            dialogue = Dialogue(stream, settings, show)
            code = _converse(dialogue, settings)
            if dialogue.is_refused:
                sys.stderr.write(f"{_refusal(stream, settings, environment)}\n")
            return code
    except UsageAsked:
        sys.stderr.write(_USAGE)
        return 0
    except CommandError as error:
        sys.stderr.write(f"{error}\n")
    except (socket.gaierror, UnicodeError):  # the latter for what cannot be a name, such as "a..b"
        sys.stderr.write(f"Host '{settings.server}' not found.\n")
    except OSError as error:
        whereto, way = _whereto(settings, environment)
        sys.stderr.write(f"Error: {error.strerror or error} (connecting to {whereto}): {way}\n")
    except KeyboardInterrupt:
        pass  # The user knows; xe says nothing either.
    return 1


def _converse(dialogue: Dialogue, settings: Settings) -> int:
    """Hold the dialogue and put what breaks it into words."""
    try:
        code = dialogue.run(wants_progress=sys.stderr.isatty() and not settings.is_minimal)
    except NotThinCli as error:
        if error.start[:4].upper() == b"HTTP":
            sys.stderr.write("Server internal error.\n")
        else:
            sys.stderr.write("Failed to contact a running management agent.\n")
            sys.stderr.write(f"Try specifying a server name and port.\n{_USAGE}")
    except WireError as error:
        sys.stderr.write(f"{error}.\nTry specifying a server name and port on the command-line.\n")
    except (EOFError, OSError):
        sys.stderr.write("Lost connection to the server.\n")
    except OutputGone:
        pass  # Whoever closed our output has seen enough.
    else:
        if dialogue.is_command_unknown:
            sys.stderr.write("".join(f"{line}\n" for line in suggest(settings.words[0])))
        return code
    return 1


def _whereto(settings: Settings, environment: Mapping[str, str]) -> tuple[str, str]:
    """Say where nobody was, and what to do about it."""
    path, address = (
        _socket_path(settings, environment),
        f"{settings.server}, port {settings.port or DEFAULT_PORT}",
    )
    if not path:
        return address, "does xcpmemd run there, and listen on that port?"
    if path == SYSTEM_SOCKET:
        way = "does xcpmemd run? If its socket is elsewhere, name it in XCPMEM_SOCKET or with -s."
        return f"{path} and {address}", way
    return path, "does xcpmemd run? The line that it prints when it is ready names its socket."


def _refusal(stream: socket.socket, settings: Settings, environment: Mapping[str, str]) -> str:
    """Say who was refused where, and how to get in."""
    where, way = f"{settings.server}, port {settings.port or DEFAULT_PORT}", "log in with -u and -pw or -pwf"
    if stream.family is socket.AF_UNIX:
        where = _socket_path(settings, environment)
    else:
        way += ", or come by the daemon's socket (XCPMEM_SOCKET or -s), where root needs no password"
    return f"User {settings.username} was refused by {where}: {way}."


def _socket_path(settings: Settings, environment: Mapping[str, str]) -> str:
    """Give the Unix socket that is tried first; empty if none is."""
    if settings.is_server_given:
        return settings.server if "/" in settings.server else ""
    return environment.get("XCPMEM_SOCKET") or SYSTEM_SOCKET
