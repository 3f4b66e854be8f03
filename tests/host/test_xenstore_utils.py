"""Debian's xenstore-utils, with their own C library, on the double."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

import pytest

from xcpmem.xen.simstore import StoreServer
from xcpmem.xen.storetree import Store
from xcpmem.xen.xenstore import Xenstore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

DEADLINE_S = 20.0
DOMAIN = "/local/domain/7"
TARGET = f"{DOMAIN}/memory/target"


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[StoreServer]:
    store = Store()
    store.write(f"{DOMAIN}/name", "a guest")
    store.write(TARGET, "1048576")
    server = StoreServer(store)
    await server.start(str(tmp_path / "s"))
    async with asyncio.timeout(DEADLINE_S):
        yield server
    await server.close()


async def start(server: StoreServer, *words: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *words,
        env={**os.environ, "XENSTORED_PATH": server.path},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def run(server: StoreServer, *words: str) -> str:
    """Return what a tool prints; AssertionError if it fails."""
    process = await start(server, *words)
    out, complaint = await process.communicate()
    assert process.returncode == 0, complaint.decode()
    return out.decode()


async def complaint(server: StoreServer, *words: str) -> str:
    """Return what a tool complains of; AssertionError if it does not fail."""
    process = await start(server, *words)
    _, text = await process.communicate()
    assert process.returncode != 0
    return text.decode()


async def test_ls_shows_the_tree(server: StoreServer) -> None:
    assert await run(server, "xenstore-ls", "-f", "/local") == (
        '/local/domain = ""\n'
        '/local/domain/7 = ""\n'
        '/local/domain/7/name = "a guest"\n'
        '/local/domain/7/memory = ""\n'
        '/local/domain/7/memory/target = "1048576"\n'
    )


async def test_ls_shows_permissions(server: StoreServer) -> None:
    await run(server, "xenstore-chmod", f"{DOMAIN}/name", "n0", "r7")
    shown = await run(server, "xenstore-ls", "-f", "-p", DOMAIN)
    assert f'{DOMAIN}/name = "a guest"' in shown
    assert "(n0,r7)" in shown


async def test_ls_shows_more_than_fits_one_message(server: StoreServer) -> None:
    for number in range(500):
        server.store.mkdir(f"/vm/{number:036}")
    shown = await run(server, "xenstore-ls", "-f", "/vm")
    assert shown.count("\n") == 500


async def test_read_list_and_exists_tell_what_is_there(server: StoreServer) -> None:
    assert await run(server, "xenstore-read", TARGET, f"{DOMAIN}/name") == "1048576\na guest\n"
    assert await run(server, "xenstore-list", DOMAIN) == "name\nmemory\n"
    assert await run(server, "xenstore-exists", TARGET) == ""
    assert "couldn't read path" in await complaint(server, "xenstore-read", "/absent")
    assert await complaint(server, "xenstore-exists", "/absent") == ""


async def test_write_and_rm_change_what_is_there(server: StoreServer) -> None:
    await run(server, "xenstore-write", TARGET, "524288", f"{DOMAIN}/memory/static-max", "2097152")
    assert server.store.read(TARGET) == "524288"
    assert server.store.read(f"{DOMAIN}/memory/static-max") == "2097152"

    await run(server, "xenstore-rm", f"{DOMAIN}/memory")
    assert server.store.list(DOMAIN) == ("name",)


async def test_watch_prints_each_change(server: StoreServer) -> None:
    process = await start(server, "xenstore-watch", "-n", "3", DOMAIN)
    assert process.stdout is not None
    assert await process.stdout.readline() == f"{DOMAIN}\n".encode()
    await run(server, "xenstore-write", TARGET, "1")
    assert await process.stdout.readline() == f"{TARGET}\n".encode()
    server.store.remove(DOMAIN)
    assert await process.stdout.readline() == f"{DOMAIN}\n".encode()
    await process.communicate()
    assert process.returncode == 0


async def test_tools_and_daemon_see_the_same_store(server: StoreServer) -> None:
    changed = asyncio.Event()
    store = Xenstore(server.path, on_event=changed.set)
    await store.connect()
    await store.watch(DOMAIN, "t")
    await store.write(TARGET, "700000")
    assert await run(server, "xenstore-read", TARGET) == "700000\n"

    store.take_events()
    changed.clear()
    await run(server, "xenstore-write", TARGET, "800000")
    await changed.wait()
    assert store.take_events().paths == {TARGET}
    assert await store.read(TARGET) == "800000"
    await store.close()
