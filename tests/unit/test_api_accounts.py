"""Users beside root: who may add them, what they may do, and when they have to log in again."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

import pytest

from tests.apistack import GIB, LOCAL, NETWORK, PASSWORD, Stack, running_stack
from xcpmem.api.datamodel import load_datamodel
from xcpmem.errors import XcpmemError
from xcpmem.users import ROLES

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

SECRET = "correct horse"
REFUSED = ["SESSION_AUTHENTICATION_FAILED", "eve", "Authentication failure"]


@pytest.fixture
async def stack(tmp_path: Path) -> AsyncIterator[Stack]:
    async with running_stack(tmp_path) as stack:
        yield stack


async def log_in(stack: Stack, uname: str, pwd: str = SECRET) -> str:
    return str(await stack.call("session.login_with_password", uname, pwd))


async def failure(stack: Stack, method: str, *params: object) -> list[str]:
    with pytest.raises(XcpmemError) as refusal:
        await stack.call(method, *params)
    return [refusal.value.code, *refusal.value.params]


async def outcome(stack: Stack, method: str, *params: object) -> list[str]:
    """Call; the error's code and parameters, or nothing if there was none."""
    try:
        await stack.call(method, *params)
    except XcpmemError as error:
        return [error.code, *error.params]
    return []


async def test_password_that_is_reset_is_not_changed_by_who_knew_the_one_before(stack: Stack) -> None:
    root = await stack.login()
    await stack.call("Memory.add_user", root, "eve", "pool-operator", SECRET)
    session = await log_in(stack, "eve")
    change, reset = await asyncio.gather(
        outcome(stack, "Memory.change_password", session, SECRET, "eve's"),
        outcome(stack, "Memory.set_user_password", root, "eve", "root's"),
    )
    assert reset == []
    assert change in ([], REFUSED)  # as it came before the reset or behind it
    assert await failure(stack, "session.login_with_password", "eve", "eve's") == REFUSED
    assert await log_in(stack, "eve", "root's")


async def test_password_is_changed_once_by_who_knows_it(stack: Stack) -> None:
    root = await stack.login()
    await stack.call("Memory.add_user", root, "eve", "pool-operator", SECRET)
    one, two = await log_in(stack, "eve"), await log_in(stack, "eve")
    changes = await asyncio.gather(
        outcome(stack, "Memory.change_password", one, SECRET, "one's"),
        outcome(stack, "Memory.change_password", two, SECRET, "two's"),
    )
    assert sorted(changes) == [[], REFUSED]
    assert await log_in(stack, "eve", "one's" if changes[0] == [] else "two's")


@pytest.mark.parametrize("role", ROLES)
async def test_user_may_exactly_what_the_role_says(stack: Stack, role: str) -> None:
    root = await stack.login()
    await stack.call("Memory.add_user", root, "alice", role, SECRET)
    session = await log_in(stack, "alice")
    record = stack.records.record("session", session)
    assert (record["auth_user_name"], record["auth_user_sid"]) == ("alice", "alice")
    assert record["is_local_superuser"] is False
    permitted = record["rbac_permissions"]
    assert isinstance(permitted, tuple)
    before = stack.state()
    for message in load_datamodel().messages():
        if not message.needs_session or message.wire_name in {"session.logout", "event.from", "event.next"}:
            continue
        answer = await outcome(stack, message.wire_name, session, *[()] * message.required)
        denial = ["RBAC_PERMISSION_DENIED", message.permission, "No permission in user session"]
        assert (answer == denial) == (role not in message.roles) == (message.permission not in permitted)
    assert stack.state() == before


async def test_root_has_no_list_of_permissions_as_in_xapi(stack: Stack) -> None:
    for session in (await stack.login(), await stack.login("alice", peer=LOCAL)):
        record = stack.records.record("session", session)
        assert (record["is_local_superuser"], record["rbac_permissions"]) == (True, ())
        assert record["auth_user_sid"] == ""


async def test_users_outlive_the_daemon(tmp_path: Path) -> None:
    async with running_stack(tmp_path) as stack:
        root = await stack.login()
        await stack.call("Memory.add_user", root, "alice", "vm-operator", SECRET)
        await stack.call("Memory.add_user", root, "bob", "read-only", SECRET)
        await stack.call("Memory.remove_user", root, "bob")
    async with running_stack(tmp_path) as stack:
        assert await log_in(stack, "alice")
        assert await stack.call("Memory.get_users", await stack.login()) == {"alice": "vm-operator"}
        code, *_ = await failure(stack, "session.login_with_password", "bob", SECRET)
        assert code == "SESSION_AUTHENTICATION_FAILED"


async def test_user_who_is_changed_has_to_log_in_again(stack: Stack) -> None:
    root = await stack.login()
    await stack.call("Memory.add_user", root, "alice", "vm-operator", SECRET)
    changes: list[tuple[str, list[object]]] = [
        ("Memory.set_user_role", ["alice", "read-only"]),
        ("Memory.set_user_password", ["alice", SECRET]),
        ("Memory.remove_user", ["alice"]),
    ]
    for method, params in changes:
        session = await log_in(stack, "alice")
        await stack.call(method, root, *params)
        assert (await failure(stack, "VM.get_all", session))[0] == "SESSION_INVALID"
    assert await failure(stack, "Memory.remove_user", root, "alice") == ["HANDLE_INVALID", "user", "alice"]


async def test_new_role_holds_from_the_next_login_on(stack: Stack) -> None:
    root = await stack.login()
    await stack.call("Memory.add_user", root, "alice", "read-only", SECRET)
    await stack.call("Memory.set_user_role", root, "alice", "vm-power-admin")
    session = await log_in(stack, "alice")
    await stack.call("VM.set_memory_dynamic_range", session, stack.vm("web1").ref, GIB, GIB)
    assert stack.vm("web1").memory_dynamic_max == GIB


async def test_user_changes_the_own_password_and_goes_on(stack: Stack) -> None:
    root = await stack.login()
    await stack.call("Memory.add_user", root, "alice", "read-only", SECRET)
    session, other = await log_in(stack, "alice"), await log_in(stack, "alice")
    assert await failure(stack, "Memory.change_password", session, "wrong", "new") == [
        "SESSION_AUTHENTICATION_FAILED",
        "alice",
        "Authentication failure",
    ]
    assert (await failure(stack, "Memory.change_password", session, SECRET, ""))[0] == "INVALID_VALUE"
    await stack.call("Memory.change_password", session, SECRET, "new one")
    await stack.call("VM.get_all", session)
    assert (await failure(stack, "VM.get_all", other))[0] == "SESSION_INVALID"
    assert await log_in(stack, "alice", "new one")
    assert (await failure(stack, "session.login_with_password", "alice", SECRET))[0].endswith("FAILED")
    assert (await failure(stack, "Memory.change_password", root, PASSWORD, "x"))[0] == "OPERATION_NOT_ALLOWED"


@pytest.mark.parametrize("uname", ["", "root", " alice", "a/b", "a\nb", "x" * 65])
async def test_name_that_could_be_mistaken_is_refused(stack: Stack, uname: str) -> None:
    root = await stack.login()
    assert await failure(stack, "Memory.add_user", root, uname, "read-only", SECRET) == [
        "INVALID_VALUE",
        "uname",
        uname,
    ]


async def test_nonsense_changes_nobody(stack: Stack) -> None:
    root = await stack.login()
    await stack.call("Memory.add_user", root, "alice", "read-only", SECRET)
    refusals = [
        await failure(stack, "Memory.add_user", root, "alice", "pool-admin", SECRET),
        await failure(stack, "Memory.add_user", root, "bob", "client-cert", SECRET),
        await failure(stack, "Memory.set_user_role", root, "alice", "emperor"),
        await failure(stack, "Memory.set_user_role", root, "nobody", "read-only"),
        await failure(stack, "Memory.set_user_password", root, "nobody", SECRET),
    ]
    assert refusals == [
        ["SUBJECT_ALREADY_EXISTS"],
        ["INVALID_VALUE", "role", "client-cert"],
        ["INVALID_VALUE", "role", "emperor"],
        ["HANDLE_INVALID", "user", "nobody"],
        ["HANDLE_INVALID", "user", "nobody"],
    ]
    assert await stack.call("Memory.get_users", root) == {"alice": "read-only"}


@pytest.mark.parametrize("pwd", ["two\nlines", "x" * 1025, "nul\0"])
async def test_password_is_shown_nowhere(stack: Stack, pwd: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    root = await stack.login()
    code, field, shown = await failure(stack, "Memory.add_user", root, "alice", "read-only", pwd)
    assert (code, field) == ("INVALID_VALUE", "pwd")
    await stack.call("Memory.add_user", root, "alice", "read-only", SECRET)
    logged = "".join(str(record.__dict__) for record in caplog.records)
    assert not any(secret in text for secret in (pwd, SECRET) for text in (shown, logged))


async def test_user_without_a_password_gets_in_by_none(stack: Stack) -> None:
    root = await stack.login()
    await stack.call("Memory.add_user", root, "alice", "pool-admin", "")
    for pwd in ("", SECRET, "None"):
        assert (await failure(stack, "session.login_with_password", "alice", pwd))[0].endswith("FAILED")


async def test_session_of_a_network_user_called_like_the_unix_sockets_stays_apart(stack: Stack) -> None:
    trusted = await stack.login("alice", peer=LOCAL)
    await stack.call("Memory.add_user", trusted, "alice", "read-only", SECRET)
    await stack.call("Memory.remove_user", trusted, "alice")
    await stack.call("VM.get_all", trusted, peer=NETWORK)
