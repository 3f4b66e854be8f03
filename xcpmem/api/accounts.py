"""The messages about users: who may log in beside root, in which role, with which password; who did what.

Those about passwords are of class ``Memory``, ours: XenAPI's class ``subject`` knows users of a directory,
and whoever is made by it has a password elsewhere, or gets one here by `Memory.set_user_password`.
Whoever is changed has to log in again. A password stands in no answer, no error and no log.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from xcpmem.api.fields import subject_ref
from xcpmem.api.roles import SUBJECT, role_ref
from xcpmem.errors import FieldType, InvalidValue, OperationNotAllowed, UserExists
from xcpmem.users import ROLES, User

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from xcpmem.api.dispatch import Caller, Handler
    from xcpmem.api.records import Records
    from xcpmem.api.sessions import Sessions
    from xcpmem.audit import AuditTrail
    from xcpmem.users import Users

USER_CHANGES: Final = (
    "Memory.add_user",
    "Memory.remove_user",
    "Memory.set_user_role",
    "Memory.set_user_password",
    "subject.create",
    "subject.destroy",
    "subject.add_to_roles",
    "subject.remove_from_roles",
)
"""The messages that change users; `Users.all_roles` before and after shows what they did."""
_LONGEST_PASSWORD: Final = 1024
_HIDDEN: Final = "(not shown: empty, over 1024 characters or with some that cannot be printed)"


class AccountMethods:
    """The messages of class Memory that are about users.

    Args:
        records: of subjects.
        users: all but root.
        sessions: compare and hash passwords, and end with the rights of their users.
        trail: what all users have changed.
    """

    def __init__(self, records: Records, users: Users, sessions: Sessions, trail: AuditTrail) -> None:
        self._records = records
        self._trail = trail
        self._users = users
        self._sessions = sessions

    def handlers(self) -> dict[str, Handler]:
        """Give the handlers by ``Class.message``."""
        return {
            "Memory.add_user": self._add,
            "Memory.remove_user": self._remove,
            "Memory.set_user_role": self._set_role,
            "Memory.set_user_password": self._set_password,
            "Memory.get_users": self._get_all,
            "Memory.change_password": self._change_password,
            "Memory.get_audit": self._get_audit,
            "subject.create": self._create_subject,
            "subject.destroy": self._on_subject(self._users.remove),
            "subject.add_to_roles": self._on_subject(self._add_role),
            "subject.remove_from_roles": self._on_subject(self._remove_role),
        }

    async def _add(self, _: Caller, uname: str, role: str, pwd: str) -> None:
        user = User(uname, (role,))
        if self._users.find(uname) is not None:
            raise UserExists
        if pwd:
            user = replace(user, password_hash=await self._hash(pwd))
        await self._users.add(user)

    async def _remove(self, _: Caller, uname: str) -> None:
        await self._users.remove(uname)
        self._sessions.end_all_of(uname)

    async def _set_role(self, _: Caller, uname: str, role: str) -> None:
        await self._users.set_role(uname, role)
        self._sessions.end_all_of(uname)

    async def _set_password(self, _: Caller, uname: str, pwd: str) -> None:
        self._users.require(uname)
        await self._users.set_password_hash(uname, await self._hash(pwd) if pwd else "")
        self._sessions.end_all_of(uname)

    async def _create_subject(self, _: Caller, given: Mapping[str, Any]) -> str:
        if "subject_identifier" not in given:
            raise FieldType("subject_identifier")
        user = User(given["subject_identifier"], (), other_config=dict(given.get("other_config") or {}))
        await self._users.add(user)
        return subject_ref(user.name)

    def _on_subject(self, act: Callable[..., Awaitable[None]]) -> Handler:
        async def handle(_: Caller, ref: str, *args: str) -> None:
            uname = str(self._records.record(SUBJECT, ref)["subject_identifier"])
            await act(uname, *args)
            self._sessions.end_all_of(uname)

        return handle

    async def _add_role(self, uname: str, ref: str) -> None:
        await self._users.add_role(uname, self._role(ref))

    async def _remove_role(self, uname: str, ref: str) -> None:
        await self._users.remove_role(uname, self._role(ref))

    def _role(self, ref: str) -> str:
        return next((role for role in ROLES if role_ref(role) == ref), "")

    async def _get_all(self, _: Caller) -> Mapping[str, str]:
        return self._users.roles()

    async def _change_password(self, caller: Caller, old_pwd: str, new_pwd: str) -> None:
        uname = caller.owner.uname
        if caller.owner.is_local_superuser:
            raise OperationNotAllowed("root's password stands in a file of the daemon; write a new one there")
        if not new_pwd:
            raise InvalidValue("new_pwd", _HIDDEN)
        user = self._users.find(uname)
        known = user.password_hash if user else ""
        await self._sessions.authenticate(uname, old_pwd, caller.peer)
        # Both took their time: a password that was reset meanwhile stays.
        await self._users.set_password_hash(uname, await self._hash(new_pwd), known)
        self._sessions.end_all_of(uname, but=caller.owner)

    async def _get_audit(self, _: Caller, count: int) -> tuple[str, ...]:
        return self._trail.latest(count)

    async def _hash(self, pwd: str) -> str:
        if len(pwd) > _LONGEST_PASSWORD or not pwd.isprintable():
            raise InvalidValue("pwd", _HIDDEN)
        return await self._sessions.hash(pwd)
