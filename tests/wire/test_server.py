"""Listening: on TCP, on Unix sockets and who is at their other end, slow clients and many."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import ssl
import stat
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import pytest
from aiohttp import web

from tests.wire.test_cli_http import CERTIFICATE
from xcpmem.api.connections import ConnectionLimits
from xcpmem.api.http import peer_of
from xcpmem.api.server import Server, make_ssl_context, open_certificate
from xcpmem.api.sessions import Peer
from xcpmem.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


@pytest.fixture
def folder() -> Iterator[Path]:
    with TemporaryDirectory(prefix="xm-") as name:  # a socket's path may have 107 characters at most
        yield Path(name)


def make_app(seen: list[Peer] | None = None) -> web.Application:
    async def answer(request: web.Request) -> web.Response:
        if seen is not None:
            seen.append(peer_of(request))
        return web.Response(text="here")

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    return app


async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, raw: bytes = REQUEST) -> bytes:
    try:
        async with asyncio.timeout(20):
            writer.write(raw)
            return await reader.read()
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


async def test_server_serves_tcp_and_unix_socket_at_once(folder: Path) -> None:
    seen: list[Peer] = []
    path = folder / "s"
    server = Server(make_app(seen), host="127.0.0.1", port=0, socket_path=path)
    port = await server.start()
    assert port > 0
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    for connection in (asyncio.open_connection("127.0.0.1", port), asyncio.open_unix_connection(path)):
        assert (await talk(*await connection)).endswith(b"here")
    await server.close()
    assert seen == [Peer("127.0.0.1"), Peer("unix", os.getuid())]
    assert [peer.is_trusted for peer in seen] == [False, True]
    assert not path.exists()


async def test_kernel_is_asked_once_for_each_connection_who_is_at_its_other_end(folder: Path) -> None:
    seen: list[Peer] = []
    server = Server(make_app(seen), socket_path=folder / "s")
    await server.start()
    kept = REQUEST.replace(b"Connection: close\r\n", b"")
    answer = await talk(*await asyncio.open_unix_connection(folder / "s"), kept * 2 + REQUEST)
    assert answer.count(b"here") == 3
    assert (await talk(*await asyncio.open_unix_connection(folder / "s"))).endswith(b"here")
    await server.close()
    assert [id(peer) == id(seen[0]) for peer in seen] == [True, True, True, False]


async def test_server_without_tcp_has_no_port(folder: Path) -> None:
    server = Server(make_app(), socket_path=folder / "s")
    assert await server.start() == 0
    await server.close()


async def test_socket_that_a_killed_daemon_left_is_taken_over(folder: Path) -> None:
    path = folder / "s"
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(path))
    server = Server(make_app(), socket_path=path)
    await server.start()
    assert (await talk(*await asyncio.open_unix_connection(path))).endswith(b"here")
    await server.close()


async def test_socket_of_a_living_daemon_is_left_alone(folder: Path) -> None:
    path = folder / "s"
    first, second = (Server(make_app(), socket_path=path) for _ in range(2))
    await first.start()
    with pytest.raises(ConfigError, match="in use"):
        await second.start()
    assert (await talk(*await asyncio.open_unix_connection(path))).endswith(b"here")
    await first.close()


async def test_file_in_the_sockets_place_is_left_alone(folder: Path) -> None:
    path = folder / "s"
    path.write_text("precious")
    with pytest.raises(ConfigError):
        await Server(make_app(), socket_path=path).start()
    assert path.read_text() == "precious"


async def test_address_that_is_taken_is_a_config_error() -> None:
    first = Server(make_app(), host="127.0.0.1", port=0)
    port = await first.start()
    with pytest.raises(ConfigError, match=f"127.0.0.1:{port}"):
        await Server(make_app(), host="127.0.0.1", port=port).start()
    await first.close()


async def serving(limits: ConnectionLimits) -> tuple[Server, int]:
    server = Server(make_app(), host="127.0.0.1", port=0, limits=limits)
    return server, await server.start()


@pytest.mark.parametrize("start", [b"G", b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow: "])
async def test_head_that_never_ends_is_given_up(start: bytes) -> None:
    server, port = await serving(ConnectionLimits(head_timeout_s=0.05))
    answer = await talk(*await asyncio.open_connection("127.0.0.1", port), start)
    assert answer.startswith(b"HTTP/1.1 408 ")
    await server.close()


async def test_head_that_comes_in_pieces_is_waited_for() -> None:
    server, port = await serving(ConnectionLimits(head_timeout_s=10))
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for byte in REQUEST[:-1]:
        writer.write(bytes([byte]))
        await writer.drain()
    assert (await talk(reader, writer, REQUEST[-1:])).endswith(b"here")
    await server.close()


async def test_second_head_on_a_kept_connection_has_its_own_deadline() -> None:
    server, port = await serving(ConnectionLimits(head_timeout_s=0.05))
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    async with asyncio.timeout(20):
        writer.write(REQUEST.replace(b"Connection: close\r\n", b""))
        await reader.readuntil(b"here")
    assert (await talk(reader, writer, b"GET / ")).startswith(b"HTTP/1.1 408 ")
    await server.close()


async def test_idle_connection_is_closed() -> None:
    server, port = await serving(ConnectionLimits(keepalive_s=0.05))
    assert await talk(*await asyncio.open_connection("127.0.0.1", port), b"") == b""
    await server.close()


async def test_call_that_does_not_end_holds_up_the_end_for_a_moment_only() -> None:
    under_way = asyncio.Event()

    async def never(_: web.Request) -> web.Response:
        under_way.set()
        await asyncio.Event().wait()
        return web.Response()

    app = web.Application()
    app.router.add_get("/", never)
    server = Server(app, host="127.0.0.1", limits=ConnectionLimits(grace_s=0.05))
    port = await server.start()
    call = asyncio.create_task(talk(*await asyncio.open_connection("127.0.0.1", port)))
    async with asyncio.timeout(5):
        await under_way.wait()
        await server.close()
        assert await call == b""


HERE = Path(__file__).parent  # the key beside this file guards nothing


async def test_server_speaks_tls_with_its_certificate() -> None:
    context = make_ssl_context(HERE / "localhost.crt", HERE / "localhost.key")
    server = Server(make_app(), host="127.0.0.1", ssl_context=context)
    port = await server.start()
    assert (await ask_over_tls(port)).endswith(b"here")
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
    old.minimum_version, old.maximum_version = ssl.TLSVersion.MINIMUM_SUPPORTED, ssl.TLSVersion.TLSv1_2
    connection = await asyncio.open_connection("127.0.0.1", port, ssl=old)
    assert (await talk(*connection)).endswith(b"here")
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    await server.close()


async def serving_tls(limits: ConnectionLimits) -> tuple[Server, int]:
    context = make_ssl_context(HERE / "localhost.crt", HERE / "localhost.key")
    server = Server(make_app(), host="127.0.0.1", ssl_context=context, limits=limits)
    return server, await server.start()


def trusting() -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(HERE / "localhost.crt"))


async def ask_over_tls(port: int) -> bytes:
    connection = await asyncio.open_connection("127.0.0.1", port, ssl=trusting(), server_hostname="localhost")
    return await talk(*connection)


@pytest.mark.parametrize("first", [b"", b"\x16\x03\x01\x02\x00", b"GET / HTTP/1.1\r\n\r\n"])
async def test_flood_of_connections_that_agree_on_no_tls_keeps_nobody_out(
    caplog: pytest.LogCaptureFixture, first: bytes
) -> None:
    caplog.set_level(logging.INFO)
    server, port = await serving_tls(ConnectionLimits(connections=4))
    flood = [await asyncio.open_connection("127.0.0.1", port) for _ in range(20)]
    for _, writer in flood:
        writer.write(first)
    assert (await ask_over_tls(port)).endswith(b"here")
    async with asyncio.timeout(20):
        for reader, _ in flood[:17]:
            with suppress(ConnectionError):
                await reader.read()
    assert (await ask_over_tls(port)).endswith(b"here")
    for _, writer in flood:
        writer.close()
    await server.close()
    assert caplog.records == []


async def test_handshake_that_never_ends_is_given_up() -> None:
    server, port = await serving_tls(ConnectionLimits(handshake_timeout_s=0.05))
    assert await talk(*await asyncio.open_connection("127.0.0.1", port), b"\x16\x03\x01\x02\x00") == b""
    await server.close()


async def test_handshake_that_is_under_way_holds_up_no_end() -> None:
    server, port = await serving_tls(ConnectionLimits(handshake_timeout_s=3600))
    silent = await asyncio.open_connection("127.0.0.1", port)
    assert (await ask_over_tls(port)).endswith(b"here")
    await server.close()
    assert await talk(*silent, b"") == b""


class MuteClient:
    """Speaks TLS and never says that it has heard that nothing more will come."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self._received, self._to_send = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = trusting().wrap_bio(self._received, self._to_send, server_hostname="localhost")

    async def ask(self, request: bytes = REQUEST) -> None:
        """Shake hands, with a request behind the last bytes of that."""
        while True:
            try:
                self._tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                self.writer.write(self._to_send.read())
                await self._receive()
        self._tls.write(request)
        self.writer.write(self._to_send.read())

    async def read(self) -> bytes:
        """Take an answer's next piece, empty when the server says that it was the last."""
        while True:
            try:
                return self._tls.read(65536)
            except ssl.SSLZeroReturnError:
                return b""
            except ssl.SSLWantReadError:
                await self._receive()

    async def _receive(self) -> None:
        received = await self.reader.read(65536)
        if not received:
            raise ConnectionResetError
        self._received.write(received)

    async def is_let_go(self) -> bool:
        """Wait until the connection itself ends."""
        with suppress(ConnectionError):
            while await self.reader.read(65536):
                pass
        self.writer.close()
        return True


async def mute_client(port: int, request: bytes = REQUEST) -> MuteClient:
    client = MuteClient(*await asyncio.open_connection("127.0.0.1", port))
    await client.ask(request)
    return client


async def test_request_that_comes_with_the_last_bytes_of_the_handshake_is_answered() -> None:
    server, port = await serving_tls(ConnectionLimits())
    async with asyncio.timeout(20):
        client = await mute_client(port)
        answer = b""
        while not answer.endswith(b"here"):
            answer += await client.read()
    client.writer.close()
    await server.close()


@pytest.mark.parametrize("request_", [REQUEST, b"G"])
async def test_clients_that_were_hung_up_on_and_do_not_let_go_keep_nobody_out(request_: bytes) -> None:
    limits = ConnectionLimits(connections=4, head_timeout_s=0.05, send_timeout_s=3600)
    server, port = await serving_tls(limits)
    clients = []
    async with asyncio.timeout(20):
        for _ in range(12):
            clients.append(await mute_client(port, request_))
            while await clients[-1].read():
                pass
        assert (await ask_over_tls(port)).endswith(b"here")
        for client in clients[:9]:
            assert await client.is_let_go()
    for client in clients[9:]:
        client.writer.close()
    await server.close()


async def test_client_that_does_not_let_go_holds_up_no_end() -> None:
    server, port = await serving_tls(ConnectionLimits(grace_s=0.05, send_timeout_s=3600))
    async with asyncio.timeout(20):
        clients = [await mute_client(port, REQUEST.replace(b"close", b"keep-alive")) for _ in range(2)]
        for client in clients:
            await client.read()
        await server.close()
        for client in clients:
            assert await client.is_let_go()


async def shown_certificate(port: int) -> bytes:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    certificate = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    await writer.wait_closed()
    assert isinstance(certificate, bytes)
    return certificate


async def test_renewed_certificate_is_shown_to_later_connections_and_a_broken_one_never(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    chain, key = folder / "crt", folder / "key"
    chain.write_bytes((HERE / "localhost.crt").read_bytes())
    key.write_bytes((HERE / "localhost.key").read_bytes())
    assert open_certificate(None, None) is None
    certificate = open_certificate(chain, key)
    assert certificate is not None
    server = Server(make_app(), host="127.0.0.1", certificate=certificate)
    port = await server.start()
    first = await shown_certificate(port)
    key.write_text("nonsense")
    certificate.renew()
    assert f"the certificate stays as it was: settings: tls_cert: {chain} with {key}: " in caplog.text
    assert await shown_certificate(port) == first
    chain.write_text(CERTIFICATE)
    key.write_text(CERTIFICATE)
    os.kill(os.getpid(), signal.SIGHUP)
    await asyncio.sleep(0)
    while "was read again" not in caplog.text:
        await shown_certificate(port)
    second = await shown_certificate(port)
    assert second != first
    asyncio.get_running_loop().remove_signal_handler(signal.SIGHUP)
    assert ssl.PEM_cert_to_DER_cert(CERTIFICATE[CERTIFICATE.index("-----BEGIN CERT") :]) == second
    await server.close()


def test_certificate_that_does_not_fit_is_a_config_error(folder: Path) -> None:
    for key in (folder / "missing", HERE / "localhost.crt"):
        with pytest.raises(ConfigError, match="tls_cert"):
            make_ssl_context(HERE / "localhost.crt", key)
