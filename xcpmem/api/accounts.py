"""The messages about users: who may log in beside root, in which role, with which password; who did what.

They are of class ``Memory``, ours, for XenAPI's own classes know users of a directory, never their passwords.
Whoever is changed has to log in again. A password stands in no answer, no error and no log.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from xcpmem.errors import InvalidValue, OperationNotAllowed, UserExists
from xcpmem.users import User

if TYPE_CHECKING:
    from collections.abc import Mapping

    from xcpmem.api.dispatch import Caller, Handler
    from xcpmem.api.sessions import Sessions
    from xcpmem.audit import AuditTrail
    from xcpmem.users import Users

USER_CHANGES: Final = (
    "Memory.add_user",
    "Memory.remove_user",
    "Memory.set_user_role",
    "Memory.set_user_password",
)
"""The messages that change users; `Users.roles` before and after shows what they did."""
_LONGEST_PASSWORD: Final = 1024
_HIDDEN: Final = "(not shown: empty, over 1024 characters or with some that cannot be printed)"


class AccountMethods:
    """The messages of class Memory that are about users.

    Args:
        users: all but root.
        sessions: compare and hash passwords, and end with the rights of their users.
        trail: what all users have changed.
    """

    def __init__(self, users: Users, sessions: Sessions, trail: AuditTrail) -> None:
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
        }

    async def _add(self, _: Caller, uname: str, role: str, pwd: str) -> None:
        user = User(uname, role)
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

    async def _get_all(self, _: Caller) -> Mapping[str, str]:
        return self._users.roles()

    async def _change_password(self, caller: Caller, old_pwd: str, new_pwd: str) -> None:
        uname = caller.owner.uname
        if caller.owner.is_local_superuser:
            raise OperationNotAllowed("root's password stands in a file of the daemon; write a new one there")
        if not new_pwd:
            raise InvalidValue("new_pwd", _HIDDEN)
        await self._sessions.authenticate(uname, old_pwd, caller.peer)
        await self._users.set_password_hash(uname, await self._hash(new_pwd))
        self._sessions.end_all_of(uname, but=caller.owner)

    async def _get_audit(self, _: Caller, count: int) -> tuple[str, ...]:
        return self._trail.latest(count)

    async def _hash(self, pwd: str) -> str:
        if len(pwd) > _LONGEST_PASSWORD or not pwd.isprintable():
            raise InvalidValue("pwd", _HIDDEN)
        return await self._sessions.hash(pwd)
