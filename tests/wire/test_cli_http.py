"""The command line over real connections: our client, and the bytes of any other."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
import sys
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import pytest

from tests.apistack import PASSWORD, running_stack
from tests.cli_double import XenDouble
from xcpmem import client
from xcpmem.api import cli_http
from xcpmem.api.cli_frames import Decoder, Exit, Greeting, Print, encode
from xcpmem.api.cli_http import make_cli_handler
from xcpmem.api.http import make_app
from xcpmem.api.server import Server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from xcpmem.api.cli import Calls
    from xcpmem.api.sessions import Peer
    from xcpmem.api.values import Value

GREETING = encode(Greeting())
CHUNKED = b"POST /cli HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
DEADLINE_S = 20.0

# Made for this test, known to everybody.
CERTIFICATE = """\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgKXK2/8UtBvczcXDA
MG4hnlZLZ8WCR1rp3oFplrKKOsShRANCAASxZDriL44FH4BxVTfpAGsTCjrULA2L
msKMBc8cmJSHS0qzv+D+daigxAaqqUkzF+Q0yNmXiwGTgllZc8+3hUX4
-----END PRIVATE KEY-----
-----BEGIN CERTIFICATE-----
MIIBgTCCASegAwIBAgIURqot1FB4fR2Wt+x9fnCre9Cf55QwCgYIKoZIzj0EAwIw
FjEUMBIGA1UEAwwLeGNwbWVtLXRlc3QwHhcNMjYxMTIzMDY1MzUzWhcNMjYxMTI0
MDY1MzUzWjAWMRQwEgYDVQQDDAt4Y3BtZW0tdGVzdDBZMBMGByqGSM49AgEGCCqG
SM49AwEHA0IABLFkOuIvjgUfgHFVN+kAaxMKOtQsDYuawowFzxyYlIdLSrO/4P51
qKDEBqqpSTMX5DTI2ZeLAZOCWVlzz7eFRfijUzBRMB0GA1UdDgQWBBSkA2LONqV2
u6yI1ZZUc/NDmYGzjDAfBgNVHSMEGDAWgBSkA2LONqV2u6yI1ZZUc/NDmYGzjDAP
BgNVHRMBAf8EBTADAQH/MAoGCCqGSM49BAMCA0gAMEUCIHkwsaSWq5NQmuNjExnI
fb7Ow8wSeJma5tgEYT1LjqTdAiEAy01Avx5JZayzpCOEhNiR8zBDEwEoMxbmrriJ
UaekvZg=
-----END CERTIFICATE-----
"""


@asynccontextmanager
async def serving(calls: Calls, path: Path, context: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """Serve only the command line, on a Unix socket and on TCP; gives the port."""
    app = make_app(calls, cli=make_cli_handler(calls))  # type: ignore[arg-type]  # only the command line calls
    server = Server(app, host="127.0.0.1", socket_path=path, ssl_context=context)
    port = await server.start()
    try:
        yield port
    finally:
        await server.close()


async def xcpmem(*words: str, env: dict[str, str] | None = None) -> tuple[int, str, str]:
    """Run the client as a process of its own."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "xcpmem",
        *words,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=env or {},
    )
    async with asyncio.timeout(DEADLINE_S):
        out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def in_thread(*words: str, env: dict[str, str] | None = None) -> int:
    async with asyncio.timeout(DEADLINE_S):
        return await asyncio.to_thread(client.main, [*words], env or {})


def request(body: bytes, *headers: bytes) -> bytes:
    lines = [b"POST /cli HTTP/1.0", b"User-agent: xe-cli/Unix/0.2", *headers]
    lines.append(b"content-length: %d" % len(body))
    return b"\r\n".join([*lines, b"", b""]) + body


async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, first: bytes) -> None:
    """Send a request and, as every client does, nothing more before the server has greeted."""
    writer.write(first)
    async with asyncio.timeout(DEADLINE_S):
        assert await reader.readexactly(len(GREETING)) == GREETING
    writer.write(GREETING)


async def read_all(reader: asyncio.StreamReader) -> bytes:
    async with asyncio.timeout(DEADLINE_S):
        return await reader.read(-1)


async def status_of(reader: asyncio.StreamReader) -> bytes:
    async with asyncio.timeout(DEADLINE_S):
        return (await reader.readline()).split()[1]


async def test_real_client_lists_sets_and_reads_back_over_a_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "s"
    async with running_stack(tmp_path / "state") as stack, serving(stack.dispatcher, path):
        env = {"XCPMEM_SOCKET": str(path)}
        code, out, err = await xcpmem("vm-list", "vm=web1", "name-label=web1", env=env)
        assert (code, err) == (1, "Error: Unknown field 'vm'\n")
        code, out, err = await xcpmem("vm-list", "name-label=web1", env=env)
        uuid = stack.vm("web1").uuid
        assert (code, err) == (0, "")
        assert out == (
            f"uuid ( RO)           : {uuid}\n"
            "     name-label ( RW): web1\n"
            "    power-state ( RO): running\n\n\n"
        )
        words = ["vm-memory-dynamic-range-set", "vm=web1", "min=1GiB", "max=1536MiB"]
        assert await xcpmem(*words, env=env) == (0, "", "")
        got = await xcpmem("vm-param-get", f"uuid={uuid}", "param-name=memory-dynamic-max", env=env)
        assert got == (0, "1610612736\n", "")


async def test_real_client_logs_in_over_tcp(tmp_path: Path) -> None:
    async with running_stack(tmp_path / "state") as stack, serving(stack.dispatcher, tmp_path / "s") as port:
        server = ["-s", "127.0.0.1", "-p", str(port)]
        refused = await xcpmem("vm-list", *server, "-u", "root", "-pw", "wrong")
        told = (
            "Authentication failed\nFor usage run: 'xe help'\n"
            f"User root was refused by 127.0.0.1, port {port}: log in with -u and -pw or -pwf, or come by "
            "the daemon's socket (XCPMEM_SOCKET or -s), where root needs no password.\n"
        )
        assert refused == (1, "", told)
        code, out, err = await xcpmem("vm-list", "--minimal", *server, "-u", "root", "-pw", PASSWORD)
        assert (code, err) == (0, "")
        assert stack.vm("web1").uuid in out.strip().split(",")


async def test_each_way_to_ask_for_memory_is_answered_by_the_real_service(
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    async with running_stack(tmp_path / "state") as stack, serving(stack.dispatcher, tmp_path / "s"):
        env = {"XCPMEM_SOCKET": str(tmp_path / "s")}

        async def ask(*words: str) -> tuple[int, str, str]:
            code = await in_thread(*words, env=env)
            return code, *capfd.readouterr()

        halted = stack.vm("halted")
        limits = ["static-min=1GiB", "static-max=4GiB", "dynamic-min=2GiB", "dynamic-max=3GiB"]
        assert await ask("vm-memory-limits-set", "vm=halted", *limits) == (0, "", "")
        assert stack.vm("halted").memory_dynamic_max == 3 << 30
        assert await ask("vm-memory-set", "vm=halted", "memory=2GiB") == (0, "", "")
        assert await ask("vm-param-set", f"uuid={halted.uuid}", "memory-static-max=5GiB") == (0, "", "")
        assert stack.vm("halted").memory_static_max == 5 << 30
        code, out, err = await ask("vm-memory-limits-set", "vm=web1", *limits)
        assert (code, out) == (1, "")
        assert err.splitlines()[1:] == [
            f"vm: {stack.vm('web1').uuid} (web1)",
            "expected: halted",
            "actual: running",
        ]
        code, out, err = await ask("vm-memory-dynamic-range-set", "vm=halted", "min=2GiB", "max=1GiB")
        assert (code, out) == (1, "")
        assert err.startswith("The limits must keep the order")
        code, out, _ = await ask("host-compute-free-memory")
        assert code == 0
        assert int(out) == stack.service.compute_free_memory()
        code, out, _ = await ask("vm-compute-memory-overhead", "vm=halted")
        assert (code, int(out)) == (0, stack.service.compute_memory_overhead(halted.uuid))
        code, out, _ = await ask("vm-compute-maximum-memory", "vm=halted", "total=8GiB", "--minimal")
        assert (code, int(out)) == (0, stack.service.maximise_memory(halted.uuid, 8 << 30, approximate=False))
        code, out, _ = await ask("vm-memory-target-wait", "vm=web1")
        assert (code, out) == (0, "")


async def test_every_field_of_every_class_can_be_listed(
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    async with running_stack(tmp_path / "state") as stack, serving(stack.dispatcher, tmp_path / "s"):
        env = {"XCPMEM_SOCKET": str(tmp_path / "s")}
        uuids = {
            "vm": stack.vm("web1").uuid,
            "host": stack.service.host().uuid,
            "pool": stack.service.pool_uuid,
        }
        for word, uuid in uuids.items():
            assert await in_thread(f"{word}-list", "params=all", env=env) == 0
            assert await in_thread(f"{word}-param-list", f"uuid={uuid}", env=env) == 0
            out, err = capfd.readouterr()
            assert err == ""
            assert "uuid ( RO)" in out
            assert "None" not in out


async def test_answer_is_raw_without_any_http(tmp_path: Path) -> None:
    async with serving(XenDouble(), tmp_path / "s"):
        reader, writer = await asyncio.open_unix_connection(tmp_path / "s")
        await greet(reader, writer, request(b"help\n--minimal"))
        answer = await read_all(reader)
        assert answer == encode(Print("help,vm-list")) + encode(Exit(0))
        writer.close()


async def test_greeting_may_come_in_pieces_and_words_in_a_line_end_of_windows(tmp_path: Path) -> None:
    async with serving(XenDouble(), tmp_path / "s"):
        reader, writer = await asyncio.open_unix_connection(tmp_path / "s")
        writer.write(request(b"pool-list\r\n--minimal\r\nusername=root\r\npassword=x"))
        async with asyncio.timeout(DEADLINE_S):
            greeting = await reader.readexactly(len(GREETING))
        for at in range(len(GREETING)):
            writer.write(GREETING[at : at + 1])
            await writer.drain()
            await asyncio.sleep(0)
        messages = Decoder().feed(greeting + await read_all(reader))
        assert messages == [Greeting(), Print("77777777-7777-7777-7777-777777777777"), Exit(0)]
        writer.close()


async def test_command_that_nobody_waits_for_any_more_is_broken_off(tmp_path: Path) -> None:
    xen = XenDouble()
    xen.held["VM.wait_memory_target_live"] = asyncio.Event()
    logged_out = asyncio.Event()

    class Watched(XenDouble):
        async def call(self, method: str, params: Sequence[Value], *, peer: Peer) -> object:
            answer = await xen.call(method, params, peer=peer)
            if method == "session.logout":
                logged_out.set()
            return answer

    async with serving(Watched(), tmp_path / "s"):
        reader, writer = await asyncio.open_unix_connection(tmp_path / "s")
        await greet(reader, writer, request(b"vm-memory-target-wait\nvm=web1"))
        async with asyncio.timeout(DEADLINE_S):
            await xen.begun.wait()
            writer.close()
            await logged_out.wait()


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"POST /cli HTTP/1.0\r\ncontent-length: 307201\r\n\r\n", b"413"),
        (CHUNKED + b"4b001\r\n" + bytes(0x4B001), b"413"),
        (CHUNKED + b"4\r\nhelp\r\n0\r\n\r\n", b"500"),
        (b"POST /cli HTTP/1.0\r\n\r\n", b"500"),
        (b"GET /cli HTTP/1.0\r\n\r\n", b"403"),
    ],
)
async def test_request_that_is_no_command_line_is_answered_in_http(
    head: bytes,
    status: bytes,
    tmp_path: Path,
) -> None:
    async with serving(XenDouble(), tmp_path / "s"):
        reader, writer = await asyncio.open_unix_connection(tmp_path / "s")
        writer.write(head)
        assert await status_of(reader) == status
        writer.close()


async def test_command_line_may_be_as_long_as_any_request(tmp_path: Path) -> None:
    async with serving(XenDouble(), tmp_path / "s"):
        reader, writer = await asyncio.open_unix_connection(tmp_path / "s")
        words = b"vm-list\nparams=uuid\n".ljust(300 * 1024, b"\n")
        await greet(reader, writer, request(words))
        writer.close()


async def test_body_that_does_not_come_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli_http, "BODY_DEADLINE_S", 0.0)
    async with serving(XenDouble(), tmp_path / "s"):
        reader, writer = await asyncio.open_unix_connection(tmp_path / "s")
        writer.write(b"POST /cli HTTP/1.0\r\ncontent-length: 10\r\n\r\nvm-l")
        assert await status_of(reader) == b"408"
        writer.close()


async def test_client_that_floods_is_hung_up_on(tmp_path: Path) -> None:
    xen = XenDouble()
    xen.held["VM.wait_memory_target_live"] = asyncio.Event()
    async with serving(xen, tmp_path / "s"):
        reader, writer = await asyncio.open_unix_connection(tmp_path / "s")
        await greet(reader, writer, request(b"vm-memory-target-wait\nvm=web1"))
        async with asyncio.timeout(DEADLINE_S):
            await xen.begun.wait()
            writer.write(struct.pack("<i", 1 << 20) + bytes(3 << 20))
            with suppress(ConnectionError):  # the server need not read what it throws away
                await reader.read(-1)
        writer.close()


async def test_client_that_does_not_read_is_hung_up_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli_http, "SEND_DEADLINE_S", 0.2)
    xen = XenDouble()
    logged_out = asyncio.Event()
    xen.records["VM"]["OpaqueRef:web1"]["name_description"] = "x" * 1_000_000

    class Watched(XenDouble):
        async def call(self, method: str, params: Sequence[Value], *, peer: Peer) -> object:
            answer = await xen.call(method, params, peer=peer)
            if method == "session.logout":
                logged_out.set()
            return answer

    async with serving(Watched(), tmp_path / "s"):
        with socket.socket(socket.AF_UNIX) as lazy:
            lazy.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(lazy, str(tmp_path / "s"))
            async with asyncio.timeout(DEADLINE_S):
                await loop.sock_sendall(lazy, request(b"vm-list\nparams=all\nusername=root"))
                await loop.sock_recv(lazy, len(GREETING))
                await loop.sock_sendall(lazy, GREETING)
                await logged_out.wait()


async def test_client_speaks_tls_beyond_the_loopback(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    pem = tmp_path / "pem"
    pem.write_text(CERTIFICATE)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    async with serving(XenDouble(), tmp_path / "s", context) as port:
        words = ["pool-list", "--minimal", "-s", "127.0.0.1", "-p", str(port), "-pw", "secret"]
        monkeypatch.setattr(client, "_is_loopback", lambda _: False)
        assert await in_thread(*words) == 0
        assert capfd.readouterr().out == "77777777-7777-7777-7777-777777777777\n"
        assert await in_thread(*words, "--nossl") == 1
        assert capfd.readouterr().err == "Lost connection to the server.\n"


async def test_person_at_a_terminal_is_told_how_far_a_wait_is(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("LOOK_AGAIN_S", "PATIENCE_S"):
        monkeypatch.setattr(f"xcpmem.api.cli_progress.{name}", 0.0)
    xen = XenDouble()
    xen.held["VM.wait_memory_target_live"] = reached = asyncio.Event()
    async with serving(xen, tmp_path / "s"):
        reader, writer = await asyncio.open_unix_connection(tmp_path / "s")
        await greet(reader, writer, request(b"vm-memory-target-wait\nvm=web1", b"xcpmem-progress: tty"))
        async with asyncio.timeout(DEADLINE_S):
            first = await reader.readuntil(b"1.172 GiB of 1 GiB")
        reached.set()
        assert Decoder().feed(GREETING + first + await read_all(reader))[-1] == Exit(0)
        writer.close()
