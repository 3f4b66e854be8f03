"""Addresses are a daemon's own from the start on, and whoever comes before it serves waits for that."""

from __future__ import annotations

import asyncio
import socket
import stat
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import pytest

from tests.wire.test_server import make_app, talk
from xcpmem.api.addresses import Addresses
from xcpmem.api.server import TCP, UNIX, Server
from xcpmem.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def folder() -> Iterator[Path]:
    with TemporaryDirectory(prefix="xm-") as name:  # a socket's path may have 107 characters at most
        yield Path(name)


@pytest.fixture
def addresses() -> Iterator[Addresses]:
    taken = Addresses(8)
    yield taken
    taken.release()


async def test_who_connects_before_the_daemon_serves_is_answered_once_it_does(
    addresses: Addresses, folder: Path
) -> None:
    await addresses.take_tcp(TCP, "127.0.0.1", 0)
    addresses.take_unix(UNIX, folder / "s")
    early = [
        asyncio.create_task(talk(*await asyncio.open_connection("127.0.0.1", addresses.port))),
        asyncio.create_task(talk(*await asyncio.open_unix_connection(folder / "s"))),
    ]
    server = Server(make_app(), addresses=addresses)
    assert await server.start() == addresses.port
    assert [answer.endswith(b"here") for answer in await asyncio.gather(*early)] == [True, True]
    await server.close()
    addresses.release()
    assert not (folder / "s").exists()


async def test_nobody_else_can_take_an_address_that_is_not_served_yet(
    addresses: Addresses, folder: Path
) -> None:
    await addresses.take_tcp(TCP, "127.0.0.1", 0)
    addresses.take_unix(UNIX, folder / "s")
    other = Addresses(8)
    with pytest.raises(ConfigError, match=rf"^settings: listen: 127\.0\.0\.1:{addresses.port}: ") as tcp:
        await other.take_tcp(TCP, "127.0.0.1", addresses.port)
    with pytest.raises(ConfigError, match=rf"^settings: socket: {folder}/s: ") as unix:
        other.take_unix(UNIX, folder / "s")
    assert (tcp.value.may_pass, unix.value.may_pass) == (True, True)
    other.release()
    assert (folder / "s").is_socket()


async def test_address_that_only_another_setting_can_mend_is_told_as_such(
    addresses: Addresses, folder: Path
) -> None:
    (folder / "file").touch()
    for path, why in (
        (folder / "file", "there is a file that is no socket"),
        (folder / "no" / "s", "No such file or directory"),
        (folder / "file" / "s", "Not a directory"),
    ):
        with pytest.raises(ConfigError, match=f"^settings: socket: {path}: {why}$") as failure:
            addresses.take_unix(UNIX, path)
        assert not failure.value.may_pass
    with pytest.raises(ConfigError, match=r"^settings: listen: \.\.: ") as nameless:
        await addresses.take_tcp(TCP, "..", 0)
    assert not nameless.value.may_pass


async def test_address_that_this_machine_does_not_have_may_come(addresses: Addresses) -> None:
    with pytest.raises(ConfigError, match=r"^settings: listen: 192\.0\.2\.1:80: ") as failure:
        await addresses.take_tcp(TCP, "192.0.2.1", 80)
    assert failure.value.may_pass


async def test_name_with_several_addresses_has_one_port(addresses: Addresses) -> None:
    await addresses.take_tcp(TCP, "localhost", 0)
    assert {each.getsockname()[1] for each in addresses.sockets(TCP)} == {addresses.port}


def test_daemon_that_ends_leaves_the_next_ones_socket_alone(addresses: Addresses, folder: Path) -> None:
    ending = Addresses(8)
    ending.take_unix(UNIX, folder / "s")
    for each in ending.sockets(UNIX):
        each.close()
    addresses.take_unix(UNIX, folder / "s")
    ending.release()
    assert (folder / "s").is_socket()
    addresses.release()
    assert not (folder / "s").exists()


def test_folder_is_made_with_its_mode_where_one_is_wanted(addresses: Addresses, folder: Path) -> None:
    addresses.take_unix(UNIX, folder / "made" / "s", folder_mode=0o750)
    assert stat.S_IMODE((folder / "made").stat().st_mode) == 0o750
    assert stat.S_IMODE((folder / "made" / "s").stat().st_mode) == 0o600


def test_socket_whose_daemon_has_no_room_for_callers_is_left_alone(
    addresses: Addresses, folder: Path
) -> None:
    with socket.socket(socket.AF_UNIX) as busy, socket.socket(socket.AF_UNIX) as first:
        busy.bind(str(folder / "s"))
        busy.listen(0)
        first.connect(str(folder / "s"))
        with pytest.raises(ConfigError, match="in use"):
            addresses.take_unix(UNIX, folder / "s")
