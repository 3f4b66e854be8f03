"""Who may log in beside root: names, roles and password hashes, kept in the store.

Root is nobody's to remove: it has its password in a file and every right. All others are listed here. What
a role may do is XenAPI's business and stands in its datamodel.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Final

from xcpmem.errors import ConfigError, InvalidValue, UserExists, UserUnknown

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from xcpmem.ledger import Entry, Ledger

ROOT: Final = "root"
ROLES: Final = ("pool-admin", "pool-operator", "vm-power-admin", "vm-admin", "vm-operator", "read-only")
"""XenAPI's roles, the mightiest first; each includes those behind it."""

USERS_MOST: Final = 1000
_LONGEST_NAME: Final = 64
_VALUE: Final = "users"


@dataclass(frozen=True, slots=True)
class User:
    """Somebody who may log in.

    Args:
        name: 1 to 64 printable characters without blanks at either end or ``/``; not root's.
        role: one of `ROLES`.
        password_hash: as `api.passwords.hash_password` makes it; empty: somebody else, such as PAM, knows
            the password.

    Raises:
        InvalidValue: names the field and the value that is out of its range.
    """

    name: str
    role: str
    password_hash: str = ""

    def __post_init__(self) -> None:
        is_named = 0 < len(self.name) <= _LONGEST_NAME and self.name.isprintable()
        if not is_named or self.name != self.name.strip() or "/" in self.name or self.name == ROOT:
            raise InvalidValue("uname", self.name)
        if self.role not in ROLES:
            raise InvalidValue("role", self.role)


class Users:
    """All users but root.

    `find` may be called from any thread: what is read is replaced as a whole, never changed.

    Args:
        ledger: where they live.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._users: Mapping[str, User] = {}

    def start(self) -> None:
        """Take up what was kept.

        Raises:
            ConfigError: somebody edited it into nonsense.
        """
        try:
            self._users = _load(self._ledger.values)
        except (ValueError, TypeError, InvalidValue) as error:
            raise ConfigError("state", _VALUE, str(error)) from error

    def find(self, name: str) -> User | None:
        """Find a user; None if there is none of that name."""
        return self._users.get(name)

    def require(self, name: str) -> User:
        """Find a user. Raises UserUnknown if there is none of that name."""
        return _find(self._users, name)

    def roles(self) -> Mapping[str, str]:
        """Give every user's role, by name in order."""
        return {name: user.role for name, user in sorted(self._users.items())}

    async def add(self, user: User) -> None:
        """Add a user.

        Raises:
            UserExists: the name is taken.
            InvalidValue: there are `USERS_MOST` already.
            HostError: it could not be stored.
        """

        def rule(present: dict[str, User]) -> None:
            if user.name in present:
                raise UserExists
            if len(present) >= USERS_MOST:
                raise InvalidValue("uname", f"{user.name}: there are {USERS_MOST} users already")
            present[user.name] = user

        await self._change(rule)

    async def set_role(self, name: str, role: str) -> None:
        """Give a user another role.

        Raises:
            UserUnknown: there is no such user.
            InvalidValue: there is no such role.
            HostError: it could not be stored.
        """
        await self._change(lambda present: _put(present, replace(_find(present, name), role=role)))

    async def set_password_hash(self, name: str, password_hash: str) -> None:
        """Give a user another password.

        Raises:
            UserUnknown: there is no such user.
            HostError: it could not be stored.
        """
        await self._change(
            lambda present: _put(present, replace(_find(present, name), password_hash=password_hash))
        )

    async def remove(self, name: str) -> None:
        """Remove a user.

        Raises:
            UserUnknown: there is no such user.
            HostError: it could not be stored.
        """

        def rule(present: dict[str, User]) -> None:
            del present[_find(present, name).name]

        await self._change(rule)

    async def _change(self, rule: Callable[[dict[str, User]], None]) -> None:
        def decide(entry: Entry) -> None:
            present = _load(entry.values)
            rule(present)
            entry.put_value(_VALUE, json.dumps([asdict(user) for user in present.values()]))

        def then() -> None:
            self._users = _load(self._ledger.values)

        await self._ledger.post(decide, then)


def _put(present: dict[str, User], user: User) -> None:
    present[user.name] = user


def _find(present: Mapping[str, User], name: str) -> User:
    user = present.get(name)
    if user is None:
        raise UserUnknown(name)
    return user


def _load(values: Mapping[str, str]) -> dict[str, User]:
    """Read the list. Raises ValueError, TypeError or InvalidValue when it is none."""
    users = [User(**fields) for fields in json.loads(values.get(_VALUE, "[]"))]
    if any(not isinstance(user.password_hash, str) for user in users):
        raise TypeError("a password hash is no text")
    return {user.name: user for user in users}
