"""Who may log in beside root: names, roles and password hashes, kept in the store.

Root is nobody's to remove: it has its password in a file and every right. All others are listed here. What
a role may do is XenAPI's business and stands in its datamodel.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from xcpmem.errors import (
    AuthenticationFailed,
    ConfigError,
    HandleInvalid,
    InvalidValue,
    RoleExists,
    RoleNotFound,
    UserExists,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from xcpmem.ledger import Entry, Ledger

ROOT: Final = "root"
ROLES: Final = ("pool-admin", "pool-operator", "vm-power-admin", "vm-admin", "vm-operator", "read-only")
"""XenAPI's roles, the mightiest first; each includes those behind it."""

LOGIN_REFUSED: Final = "Authentication failure"
"""What whoever gives a wrong name or password is told, as xapi words it."""

USERS_MOST: Final = 1000
LONGEST_NAME: Final = 64
"""No user's name is longer; of what strangers call themselves no more is kept or told."""

_VALUE: Final = "users"


@dataclass(frozen=True, slots=True)
class User:
    """Somebody who may log in.

    Args:
        name: 1 to `LONGEST_NAME` printable characters without blanks at either end or ``/``; not root's.
        roles: some of `ROLES`, each once; without one nobody may log in.
        password_hash: as `api.passwords.hash_password` makes it; empty: somebody else, such as PAM, knows
            the password.
        other_config: as clients gave it; means nothing here.

    Raises:
        InvalidValue: names the field and the value that is out of its range.
    """

    name: str
    roles: tuple[str, ...]
    password_hash: str = ""
    other_config: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        is_named = 0 < len(self.name) <= LONGEST_NAME and self.name.isprintable()
        if not is_named or self.name != self.name.strip() or "/" in self.name or self.name == ROOT:
            raise InvalidValue("uname", self.name)
        for role in self.roles:
            if role not in ROLES or self.roles.count(role) > 1:
                raise InvalidValue("role", role)

    @property
    def role(self) -> str:
        """The mightiest of the roles, which includes all others; empty if there is none."""
        return next((role for role in ROLES if role in self.roles), "")


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
        """Find a user. Raises HandleInvalid if there is none of that name."""
        return _find(self._users, name)

    def all(self) -> Mapping[str, User]:
        """Give all users by name, in order."""
        return dict(sorted(self._users.items()))

    def all_roles(self) -> Mapping[str, tuple[str, ...]]:
        """Give all of every user's roles, by name in order."""
        return {name: user.roles for name, user in self.all().items()}

    def roles(self) -> Mapping[str, str]:
        """Give every user's mightiest role, by name in order."""
        return {name: user.role for name, user in self.all().items()}

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
        """Give a user another role, and only that.

        Raises:
            HandleInvalid: there is no such user.
            InvalidValue: there is no such role.
            HostError: it could not be stored.
        """
        await self._change(lambda present: _put(present, replace(_find(present, name), roles=(role,))))

    async def add_role(self, name: str, role: str) -> None:
        """Give a user one more role.

        Raises:
            HandleInvalid: there is no such user.
            RoleNotFound: there is no such role.
            RoleExists: the user has it.
            HostError: it could not be stored.
        """

        def rule(present: dict[str, User]) -> None:
            user = _find(present, name)
            if role not in ROLES:
                raise RoleNotFound
            if role in user.roles:
                raise RoleExists
            _put(present, replace(user, roles=(*user.roles, role)))

        await self._change(rule)

    async def remove_role(self, name: str, role: str) -> None:
        """Take a role from a user.

        Raises:
            HandleInvalid: there is no such user.
            RoleNotFound: the user does not have it.
            HostError: it could not be stored.
        """

        def rule(present: dict[str, User]) -> None:
            user = _find(present, name)
            if role not in user.roles:
                raise RoleNotFound
            _put(present, replace(user, roles=tuple(each for each in user.roles if each != role)))

        await self._change(rule)

    async def set_password_hash(self, name: str, password_hash: str, known: str | None = None) -> None:
        """Give a user another password.

        Args:
            name: of the user.
            password_hash: of the new password; empty: somebody else knows it.
            known: the hash of the one that it is to follow; None: whichever there is.

        Raises:
            HandleInvalid: there is no such user.
            AuthenticationFailed: the password was changed meanwhile and is not the known one any more.
            HostError: it could not be stored.
        """

        def rule(present: dict[str, User]) -> None:
            user = _find(present, name)
            if known is not None and user.password_hash != known:
                raise AuthenticationFailed(name, LOGIN_REFUSED)
            _put(present, replace(user, password_hash=password_hash))

        await self._change(rule)

    async def remove(self, name: str) -> None:
        """Remove a user.

        Raises:
            HandleInvalid: there is no such user.
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
        raise HandleInvalid("user", name)
    return user


def _load(values: Mapping[str, str]) -> dict[str, User]:
    """Read the list. Raises ValueError, TypeError or InvalidValue when it is none."""
    users = [_user(known) for known in json.loads(values.get(_VALUE, "[]"))]
    if any(not isinstance(user.password_hash, str) for user in users):
        raise TypeError("a password hash is no text")
    return {user.name: user for user in users}


def _user(known: dict[str, Any]) -> User:
    """Make a user of what was kept; an older release kept one role."""
    role = known.pop("role", None)
    roles = known.pop("roles", [role])
    return User(**known, roles=tuple(roles))
