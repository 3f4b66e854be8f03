"""Who may read without calling."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.apistack import LOCAL, NETWORK, PASSWORD, OneUser, no_delay
from xcpmem.api.gates import OriginGate, ReadGate
from xcpmem.api.passwords import make_password_file, read_token
from xcpmem.api.sessions import Peer, SessionClock, Sessions
from xcpmem.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

TOKEN = "a token for readers"


async def forget(_: str) -> None:
    """Give nothing back."""


def make_sessions() -> Sessions:
    return Sessions(OneUser(), forget, clock=SessionClock(sleep=no_delay))


@pytest.mark.parametrize("address", ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1", "::1%lo"])
async def test_this_machine_reads_freely(address: str) -> None:
    gate = ReadGate(make_sessions(), TOKEN)
    assert gate.admits(Peer(address))
    assert gate.admits(LOCAL)
    assert gate.admits(Peer("unix", 12345))


@pytest.mark.parametrize(
    "address", ["192.0.2.1", "2001:db8::1", "::ffff:192.0.2.1", "unknown", "127.0.0.1.example"]
)
async def test_others_read_with_nothing_but_a_token_or_a_session(address: str) -> None:
    sessions = make_sessions()
    gate, peer = ReadGate(sessions, TOKEN), Peer(address)
    refused = ["", "Bearer", "Bearer ", "Bearer wrong", f"Basic {TOKEN}", TOKEN, "Bearer \udcff"]
    assert not any(gate.admits(peer, header) for header in refused)
    assert gate.admits(peer, f"Bearer {TOKEN}")
    assert gate.admits(peer, f"bearer  {TOKEN}")
    session = await sessions.login("reader", PASSWORD, NETWORK)
    assert gate.admits(peer, f"Bearer {session.ref}")
    assert gate.admits(peer, cookie=session.ref)
    await sessions.logout(session)
    assert not gate.admits(peer, f"Bearer {session.ref}", session.ref)


async def test_reading_on_is_no_use_of_a_session() -> None:
    sessions = make_sessions()
    session = await sessions.login("reader", PASSWORD, NETWORK)
    gate, before_s = ReadGate(sessions, TOKEN), session.last_active_s
    for header in (f"Bearer {session.ref}", f"Bearer {TOKEN}"):
        assert gate.admits(NETWORK, header, uses_session=False)
    assert session.last_active_s == before_s
    await sessions.logout(session)
    assert not gate.admits(NETWORK, f"Bearer {session.ref}", uses_session=False)


async def test_without_a_token_an_empty_one_opens_nothing() -> None:
    gate = ReadGate(make_sessions())
    assert not any(gate.admits(NETWORK, header) for header in ("", "Bearer", "Bearer "))


def test_token_is_the_file_without_the_space_around_it(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text(f"\n {TOKEN}\n")
    assert read_token(path) == TOKEN
    assert read_token(None) == ""
    path.write_text(" \n")
    for missing in (path, tmp_path / "none"):
        with pytest.raises(ConfigError, match="read_token_file"):
            read_token(missing)


def test_password_is_made_once_and_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "root.password"
    make_password_file(path)
    first = path.read_text()
    make_password_file(path)
    assert path.read_text() == first
    assert len(first.strip()) >= 24
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("host", ["xen1", "XEN1:8080", "192.0.2.1:443", "[2001:db8::1]:8080", "localhost"])
def test_own_page_may_call_under_every_name_that_is_ours(host: str) -> None:
    gate = OriginGate(["xen1", ""])
    scheme = "https" if host.endswith(":443") else "http"
    assert gate.admits(f"{scheme}://{host.removesuffix(':443')}", host)


def test_page_of_another_may_call_only_if_it_is_trusted() -> None:
    gate = OriginGate(trusted=" https://XO.example/, http://other.example")
    assert gate.admits("https://xo.example", "127.0.0.1")
    assert gate.admits("http://other.example", "127.0.0.1")
    refused = ["https://xo.example.evil.example", "http://xo.example", "file://", "null", "", "xo.example"]
    assert not any(gate.admits(origin, "127.0.0.1") for origin in refused)
    assert not gate.admits("http://", "")


def test_program_that_is_no_browser_is_not_asked() -> None:
    assert OriginGate().admits(None, "whatever it likes")
