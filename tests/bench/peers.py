"""Peers that run beside the daemon, each a process: ``python -m tests.bench.peers KIND FILE``.

All answer every POST as the daemon would, with the bytes of FILE: ``static`` is aiohttp that does nothing
else, the most that our server could reach; ``waiting`` is the same where ``/wait`` is answered when somebody
calls ``/wake``; ``stdlib`` is the standard library's XML-RPC server, threaded, which marshals the value that
the bytes stand for. They print their port when they serve.
"""

from __future__ import annotations

import asyncio
import sys
import xmlrpc.client
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, NamedTuple
from xmlrpc.server import SimpleXMLRPCRequestHandler, SimpleXMLRPCServer

from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    Handler = Callable[[web.Request], Awaitable[web.Response]]

    from tests.e2e.programs import Workshop


async def serve_static(content: bytes) -> None:
    """Read each request's body and send the content."""

    async def answer(request: web.Request) -> web.Response:
        await request.read()
        return web.Response(body=content, content_type="text/xml")

    await _serve({"/{path:.*}": answer})


async def serve_waiting(content: bytes) -> None:
    """Answer ``/wait`` with the content when ``/wake`` is called."""
    woken = asyncio.Event()

    async def wait(request: web.Request) -> web.Response:
        await request.read()
        await woken.wait()
        return web.Response(body=content, content_type="text/xml")

    async def wake(request: web.Request) -> web.Response:
        nonlocal woken
        await request.read()
        woken.set()
        woken = asyncio.Event()
        return web.Response(body=b"woken")

    await _serve({"/wait": wait, "/wake": wake})


async def _serve(handlers: Mapping[str, Handler]) -> None:
    app = web.Application()
    for path, handler in handlers.items():
        app.router.add_post(path, handler)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    _tell_port(runner.addresses[0][1])
    await asyncio.get_running_loop().create_future()


class _KeepAlive(SimpleXMLRPCRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True


class _Threaded(ThreadingMixIn, SimpleXMLRPCServer):
    daemon_threads = True


def serve_stdlib(content: bytes) -> None:
    """Answer each call with the value that the content stands for."""
    (value,), _ = xmlrpc.client.loads(content)
    with _Threaded(("127.0.0.1", 0), _KeepAlive, logRequests=False) as server:
        server.register_instance(_Everything(lambda: value))
        _tell_port(server.server_address[1])
        server.serve_forever()


class _Everything:
    """Knows every method."""

    def __init__(self, answer: Callable[[], object]) -> None:
        self._answer = answer

    def _dispatch(self, _method: str, _params: tuple[object, ...]) -> object:
        return self._answer()


class Peer(NamedTuple):
    """A peer that serves."""

    port: int
    pid: int


def start_peer(shop: Workshop, kind: str, content: bytes) -> Peer:
    """Start a peer that answers with some bytes."""
    path = shop.folder / f"{kind}-{len(content)}"
    path.write_bytes(content)
    program = shop.start("-m", "tests.bench.peers", kind, str(path))
    return Peer(int(program.read_line()), program.process.pid)


def _tell_port(port: int) -> None:
    sys.stdout.write(f"{port}\n")
    sys.stdout.flush()


SERVERS: Mapping[str, Callable[[bytes], None]] = {
    "static": lambda content: asyncio.run(serve_static(content)),
    "waiting": lambda content: asyncio.run(serve_waiting(content)),
    "stdlib": serve_stdlib,
}

if __name__ == "__main__":
    SERVERS[sys.argv[1]](Path(sys.argv[2]).read_bytes())
