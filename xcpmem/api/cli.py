"""The server's side of the command line: one dialogue on `/cli`, from the greeting to the exit code.

A dialogue runs over any `Duplex`; `cli_http` makes one from an HTTP request. Each command logs in with the
user and password that the client adds to its words, does its XenAPI calls in that session, and logs out,
so that the command line may do exactly what its user may. What the user of a Unix socket may is for the
session's code to say.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, Protocol

from xcpmem.api.cli_catalog import COMMANDS
from xcpmem.api.cli_commands import HANDLERS, print_help
from xcpmem.api.cli_frames import MAJOR, Chunk, Decoder, End, Exit, Greeting, PrintStderr, Prompt, encode
from xcpmem.api.cli_printer import Printer
from xcpmem.api.cli_records import Records
from xcpmem.api.cli_run import Failed, Run, describe, explain
from xcpmem.api.cli_words import parse_body, parse_words
from xcpmem.errors import AuthenticationFailed, CommandError, UsageError, WireError, XcpmemError
from xcpmem.units import kib_to_bytes, mib_to_bytes

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine, Sequence

    from xcpmem.api.cli_frames import Message
    from xcpmem.api.cli_printer import Duplex
    from xcpmem.api.cli_words import Words
    from xcpmem.api.sessions import Peer
    from xcpmem.api.values import Value

GREETING_DEADLINE_S: Final = 10.0
"""How long a client may take to answer the greeting."""
REPLY_DEADLINE_S: Final = 300.0
"""How long somebody may take to type what they are asked for."""
_REPLY_LIMIT_BYTES: Final = kib_to_bytes(64)
_CLIENT_LIMIT_BYTES: Final = mib_to_bytes(1)
_ORIGINATOR: Final = "cli"
_WAITS: Final = frozenset({"VM.wait_memory_target_live"})
"""Calls that change nothing and may be broken off at any moment."""

logger = logging.getLogger(__name__)


class Calls(Protocol):
    """What carries out XenAPI calls: the dispatcher."""

    async def call(self, method: str, params: Sequence[Value], *, peer: Peer) -> object:
        """Carry out one call with typed values, the session first; raise `XcpmemError` if it fails."""


class CommandLine:
    """Serves dialogues.

    Args:
        calls: carries out the XenAPI calls that commands are made of.
    """

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    async def converse(
        self, duplex: Duplex, body: bytes, peer: Peer, *, wants_progress: bool = False
    ) -> None:
        """Hold one dialogue; at its end the caller hangs up.

        A client that hangs up ends a waiting command at once, any other after the call it is in.

        Args:
            duplex: the connection, nothing sent on it yet.
            body: the words, as `cli_words.parse_body` reads them.
            peer: who is at the other end.
            wants_progress: whether waiting commands shall tell how far they are.

        Raises:
            ConnectionError: the client went away.
            TimeoutError: the client did not answer the greeting in time.
            WireError: the client does not speak the protocol.
        """
        await duplex.send(encode(Greeting()))
        decoder = Decoder(_CLIENT_LIMIT_BYTES)
        async with asyncio.timeout(GREETING_DEADLINE_S):
            await _expect_greeting(duplex, decoder)
        replies = _Replies(duplex)
        command = asyncio.ensure_future(
            self._answer(duplex, body, peer, replies, wants_progress=wants_progress)
        )
        hang_up = asyncio.ensure_future(_wait_for_hang_up(duplex, decoder, replies))
        try:
            await asyncio.wait({command, hang_up}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            command.cancel()
            hang_up.cancel()
            await asyncio.wait({command, hang_up})
        if not command.cancelled():
            command.result()

    async def _answer(
        self, duplex: Duplex, body: bytes, peer: Peer, replies: _Replies, *, wants_progress: bool
    ) -> None:
        try:
            code = await self._execute(duplex, body, peer, replies, wants_progress=wants_progress)
        except UsageError as error:
            await duplex.send(encode(PrintStderr(f"{error}\n")))
            await duplex.send(encode(PrintStderr("For usage run: 'xe help'\n")))
            code = 1
        except CommandError as error:
            await duplex.send(encode(PrintStderr(f"Error: {error}\n")))
            code = 1
        except XcpmemError as error:
            for message in explain(error):
                await duplex.send(encode(message))
            code = 1
        await duplex.send(encode(Exit(code)))

    async def _execute(
        self, duplex: Duplex, body: bytes, peer: Peer, replies: _Replies, *, wants_progress: bool
    ) -> int:
        """Carry out the command.

        Returns:
            The exit code; whatever went wrong in a XenAPI call has been told.

        Raises:
            CommandError: the words make no command that can be carried out.
        """
        handle, lines = parse_body(body)
        words = parse_words(lines)
        printer = Printer(duplex, is_minimal=words.flag("minimal"))
        if words.command == "help":
            await print_help(words, printer)
            return 0
        handler = HANDLERS.get(words.command)
        if handler is None:
            raise UsageError(f"Unknown command: {words.command}")
        check_required(words)
        async with self._session(words, handle, peer) as session:

            async def call(method: str, *params: Value) -> object:
                coroutine = self._calls.call(method, [session, *params], peer=peer)
                return await (coroutine if method in _WAITS else _to_the_end(coroutine))

            run = Run(words, call, Records(call), printer, replies.ask, wants_progress=wants_progress)
            try:
                await handler(run)
            except Failed:
                return 1
            except CommandError:
                raise
            except XcpmemError as error:
                for message in explain(error, await describe(run.records, error)):
                    await duplex.send(encode(message))
                return 1
        await printer.flush()
        return 0

    @asynccontextmanager
    async def _session(self, words: Words, handle: str, peer: Peer) -> AsyncIterator[str]:
        """Log in for one command, unless a session came with it."""
        if handle:
            yield handle
            return
        user = words.get("username")
        login: list[Value] = [user, words.get("password"), "", _ORIGINATOR]
        try:
            session = str(await self._calls.call("session.login_with_password", login, peer=peer))
        except AuthenticationFailed as error:
            text = "Authentication failed" if user else "Username/password must be specified"
            raise UsageError(text) from error
        try:
            yield session
        finally:
            await _to_the_end(self._calls.call("session.logout", [session], peer=peer))


def check_required(words: Words) -> None:
    """Refuse a command line that lacks a key its command cannot do without.

    Raises:
        UsageError: names the first such key.
    """
    for key in COMMANDS[words.command].required:
        words.require(key)


async def _expect_greeting(duplex: Duplex, decoder: Decoder) -> None:
    while data := await duplex.receive():
        for message in decoder.feed(data):
            if isinstance(message, Greeting) and message.major == MAJOR:
                return
            raise WireError(f"a client of another version: {message}")
    raise ConnectionResetError("the client hung up before its greeting")


class _Replies:
    """What the client says when it is asked.

    Args:
        duplex: the connection.
    """

    def __init__(self, duplex: Duplex) -> None:
        self._duplex = duplex
        self._waiting: asyncio.Future[bytes] | None = None
        self._pieces: list[bytes] = []

    async def ask(self, question: str) -> str:
        """Ask for a line.

        Raises:
            CommandError: there was no answer.
        """
        self._waiting = asyncio.get_running_loop().create_future()
        await self._duplex.send(encode(PrintStderr(question)))
        await self._duplex.send(encode(Prompt()))
        try:
            async with asyncio.timeout(REPLY_DEADLINE_S):
                return (await self._waiting).decode(errors="replace")
        except TimeoutError as error:
            raise CommandError("No answer came") from error

    def take(self, message: Message) -> None:
        """Take a message of the client; what nobody asked for is forgotten."""
        if self._waiting is None or self._waiting.done():
            return
        match message:
            case Chunk(data) if sum(map(len, self._pieces)) + len(data) <= _REPLY_LIMIT_BYTES:
                self._pieces.append(data)
            case End():
                self._waiting.set_result(b"".join(self._pieces))
                self._pieces.clear()
            case _:
                self._waiting.set_exception(CommandError("The answer makes no sense"))


async def _wait_for_hang_up(duplex: Duplex, decoder: Decoder, replies: _Replies) -> None:
    """Read what the client sends until it ends."""
    try:
        while data := await duplex.receive():
            for message in decoder.feed(data):
                replies.take(message)
    except WireError as error:
        logger.debug("hanging up on a client that talks nonsense: %s", error)


async def _to_the_end(call: Coroutine[Any, Any, object]) -> object:
    """Wait for a call that must not be torn apart: a cancellation takes effect when the call has ended."""
    task = asyncio.ensure_future(call)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        raise
