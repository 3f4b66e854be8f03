"""XenAPI's own classes about rights: what each role permits, and who has which."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.apistack import Stack, running_stack
from tests.unit.test_api_methods import NOBODY, Client
from xcpmem.api.datamodel import ROLES, load_datamodel
from xcpmem.errors import AuthenticationFailed, SessionInvalid
from xcpmem.refs import NULL_REF, named_uuid

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

SECRET = "correct horse"


@pytest.fixture
async def stack(tmp_path: Path) -> AsyncIterator[Stack]:
    async with running_stack(tmp_path) as stack:
        yield stack


@pytest.fixture
async def client(stack: Stack) -> Client:
    return Client(stack, await stack.login())


@pytest.mark.parametrize("name", ROLES)
async def test_role_is_made_of_the_permissions_that_it_gives(client: Client, name: str) -> None:
    (ref,) = await client("role.get_by_name_label", name)
    names = await client("role.get_permissions_name_label", ref)
    assert names == load_datamodel().permissions_of(name)
    record = await client("role.get_record", ref)
    assert record["is_internal"] is (name == "client-cert")
    assert await client("role.get_permissions", ref) == record["subroles"] != ()
    records = await client("role.get_all_records")
    assert tuple(records[each]["name_label"] for each in record["subroles"]) == names
    assert await client("role.get_by_uuid", record["uuid"]) == ref


async def test_permission_is_a_role_without_subroles(client: Client) -> None:
    (ref,) = await client("role.get_by_name_label", "vm.set_memory")
    assert await client("role.get_subroles", ref) == ()
    assert await client("role.get_permissions", ref) == (ref,)
    having = await client("role.get_by_permission", ref)
    assert having == await client("role.get_by_permission_name_label", "vm.set_memory")
    names = [await client("role.get_name_label", each) for each in having]
    assert names == ["pool-admin", "pool-operator", "vm-power-admin"]
    assert await client("role.get_by_permission_name_label", "no.such") == ()
    for name in ("get_record", "get_permissions", "get_by_permission"):
        assert await client.failure(f"role.{name}", NOBODY) == ["HANDLE_INVALID", "role", NOBODY]


async def test_user_is_a_subject_with_the_role(client: Client) -> None:
    assert await client("subject.get_all") == ()
    await client("Memory.add_user", "alice", "vm-operator", SECRET)
    (ref,) = await client("subject.get_all")
    (role,) = await client("subject.get_roles", ref)
    assert await client("role.get_name_label", role) == "vm-operator"
    assert await client("subject.get_record", ref) == {
        "uuid": named_uuid("subject", "alice"),
        "subject_identifier": "alice",
        "other_config": {"subject-name": "alice"},
        "roles": (role,),
    }
    permitted = load_datamodel().permissions_of("vm-operator")
    assert await client("subject.get_permissions_name_label", ref) == permitted
    await client("Memory.set_user_role", "alice", "read-only")
    (role,) = (await client("subject.get_all_records"))[ref]["roles"]
    assert await client("role.get_name_label", role) == "read-only"
    await client("Memory.remove_user", "alice")
    assert await client.failure("subject.get_record", ref) == ["HANDLE_INVALID", "subject", ref]


async def test_sdk_finds_the_role_of_whoever_is_not_root(stack: Stack, client: Client) -> None:
    """The C# SDK goes through all roles with subroles, and takes those named among the permissions."""
    await client("Memory.add_user", "alice", "vm-admin", SECRET)
    session = str(await stack.call("session.login_with_password", "alice", SECRET))
    alice = Client(stack, session)
    assert await alice("session.get_is_local_superuser", session) is False
    subject = await alice("session.get_subject", session)
    assert await alice("subject.get_subject_identifier", subject) == "alice"
    permitted = await alice("session.get_rbac_permissions", session)
    roles = (await alice("role.get_all_records")).values()
    assert [each["name_label"] for each in roles if each["subroles"] and each["name_label"] in permitted] == [
        "vm-admin"
    ]


async def test_root_is_no_subject(stack: Stack, client: Client) -> None:
    session = await stack.login()
    assert await client("session.get_subject", session) == NULL_REF


async def test_subject_logs_in_once_it_has_a_role_and_is_out_when_it_has_none(
    stack: Stack, client: Client
) -> None:
    operator, admin, permission = [
        (await client("role.get_by_name_label", name))[0]
        for name in ("vm-operator", "pool-admin", "vm.set_memory")
    ]
    given = {"subject_identifier": "alice", "other_config": {"subject-gecos": "Alice"}}
    ref = await client("subject.create", given)
    record = await client("subject.get_record", ref)
    assert (record["subject_identifier"], record["roles"]) == ("alice", ())
    assert record["other_config"] == {"subject-name": "alice", "subject-gecos": "Alice"}
    assert await client("subject.get_permissions_name_label", ref) == ()
    await client("Memory.set_user_password", "alice", SECRET)
    denied = ["SESSION_AUTHENTICATION_FAILED", "alice", "Authentication failure"]
    assert await refused_login(stack) == denied
    await client("subject.add_to_roles", ref, operator)
    session = await stack.call("session.login_with_password", "alice", SECRET)
    await client("subject.add_to_roles", ref, admin)
    with pytest.raises(SessionInvalid):
        await stack.call("VM.get_all", session)
    assert await client("subject.get_roles", ref) == (operator, admin)
    assert await client("Memory.get_users") == {"alice": "pool-admin"}
    assert "subject.create" in await client("subject.get_permissions_name_label", ref)
    await client("subject.remove_from_roles", ref, admin)
    assert await client("subject.get_roles", ref) == (operator,)
    await client("subject.remove_from_roles", ref, operator)
    assert await refused_login(stack) == denied
    assert await client.failure("subject.add_to_roles", ref, permission) == ["ROLE_NOT_FOUND"]
    assert await client.failure("subject.remove_from_roles", ref, operator) == ["ROLE_NOT_FOUND"]
    await client("subject.add_to_roles", ref, operator)
    assert await client.failure("subject.add_to_roles", ref, operator) == ["ROLE_ALREADY_EXISTS"]
    assert await client.failure("subject.create", given) == ["SUBJECT_ALREADY_EXISTS"]
    await client("subject.destroy", ref)
    assert await client("subject.get_all") == ()
    for call in (("destroy",), ("add_to_roles", operator), ("remove_from_roles", operator)):
        assert await client.failure(f"subject.{call[0]}", ref, *call[1:]) == [
            "HANDLE_INVALID",
            "subject",
            ref,
        ]


async def refused_login(stack: Stack) -> list[str]:
    with pytest.raises(AuthenticationFailed) as refusal:
        await stack.call("session.login_with_password", "alice", SECRET)
    return [refusal.value.code, *refusal.value.params]


async def test_subject_without_a_name_or_with_an_odd_one_is_refused(client: Client) -> None:
    assert await client.failure("subject.create", {"other_config": {}}) == [
        *("FIELD_TYPE_ERROR", "subject_identifier"),
    ]
    for name in ("root", "", "a/b", "x" * 65):
        assert await client.failure("subject.create", {"subject_identifier": name}) == [
            *("INVALID_VALUE", "uname", name),
        ]
    assert await client("subject.get_all") == ()


async def test_subjects_and_their_roles_outlive_the_daemon(tmp_path: Path) -> None:
    async with running_stack(tmp_path) as stack:
        client = Client(stack, await stack.login())
        ref = await client("subject.create", {"subject_identifier": "alice"})
        for name in ("read-only", "vm-admin"):
            await client("subject.add_to_roles", ref, (await client("role.get_by_name_label", name))[0])
        record = await client("subject.get_record", ref)
    async with running_stack(tmp_path) as stack:
        client = Client(stack, await stack.login())
        assert await client("subject.get_record", ref) == record


async def test_user_that_an_older_release_kept_has_its_role(tmp_path: Path) -> None:
    async with running_stack(tmp_path) as stack:
        kept = '[{"name": "alice", "role": "vm-admin", "password_hash": ""}]'
        await stack.service._ledger.post(lambda entry: entry.put_value("users", kept))
    async with running_stack(tmp_path) as stack:
        assert stack.service.users.roles() == {"alice": "vm-admin"}
