"""XenAPI's classes ``role`` and ``subject``: what each role permits, and who has which.

As in xapi every permission is a role too, one without subroles; SDKs tell by that, and look the user's role
up when somebody else than root logs in. Roles never change; subjects are xcpmem's users, whose passwords are
class ``Memory``'s business, since a subject of xapi's has none.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Final

from xcpmem.api import fields
from xcpmem.api.datamodel import ROLES, load_datamodel
from xcpmem.api.values import RecordMap
from xcpmem.refs import named_uuid, opaque_ref

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from xcpmem.api.dispatch import Caller, Handler
    from xcpmem.api.records import Records
    from xcpmem.api.values import Record
    from xcpmem.users import User

ROLE: Final = "role"
SUBJECT: Final = "subject"
_INTERNAL: Final = "client-cert"
_WORDS: Final[Mapping[str, str]] = {
    "pool-admin": "Everything, users among it",
    "pool-operator": "Everything but users",
    "vm-power-admin": "All that concerns VMs, memory limits and the host they start on among it",
    "vm-admin": "VMs, but not their memory limits",
    "vm-operator": "Starts and stops VMs",
    "client-cert": "Programs of other hosts",
    "read-only": "Looks at everything, changes nothing",
}


def role_ref(name: str) -> str:
    """Give the reference of a role or permission."""
    return opaque_ref(ROLE, named_uuid(ROLE, name))


@cache
def role_records() -> RecordMap:
    """Give the records of all roles, and of the permissions that they are made of."""
    served = load_datamodel()
    permissions = dict.fromkeys(name for role in ROLES for name in served.permissions_of(role))
    known: list[fields.Fields] = [
        {
            "name_label": role,
            "name_description": _WORDS[role],
            "subroles": tuple(map(role_ref, served.permissions_of(role))),
            "is_internal": role == _INTERNAL,
        }
        for role in ROLES
    ]
    known += [{"name_label": name, "name_description": "A permission"} for name in permissions]
    records = {}
    for each in known:
        name = str(each["name_label"])
        records[role_ref(name)] = fields.complete(ROLE, {**each, "uuid": named_uuid(ROLE, name)})
    return RecordMap(records)


class Subjects:
    """The records of all users but root.

    Args:
        users: all of them by name.
    """

    def __init__(self, users: Callable[[], Mapping[str, User]]) -> None:
        self._users = users
        self._made: tuple[Mapping[str, User], RecordMap] = ({}, RecordMap({}))

    def records(self) -> RecordMap:
        """Give them by reference: the same mapping until a user is changed."""
        users = self._users()
        if users != self._made[0]:
            records = {fields.subject_ref(uname): _record(user) for uname, user in users.items()}
            self._made = (users, RecordMap(records))
        return self._made[1]


def _record(user: User) -> Record:
    known = {
        "uuid": named_uuid(SUBJECT, user.name),
        "subject_identifier": user.name,
        "other_config": {"subject-name": user.name, **user.other_config},
        "roles": tuple(map(role_ref, user.roles)),
    }
    return fields.complete(SUBJECT, known)


class RoleMethods:
    """What roles permit, and which roles permit something.

    Args:
        records: of roles and subjects.
        roles: every user's mightiest role by name, empty where there is none.
    """

    def __init__(self, records: Records, roles: Callable[[], Mapping[str, str]]) -> None:
        self._records = records
        self._roles = roles

    def handlers(self) -> dict[str, Handler]:
        """Give the handlers by ``Class.message``."""
        return {
            "role.get_permissions": self._get_permissions,
            "role.get_permissions_name_label": self._get_permissions_name_label,
            "role.get_by_permission": self._get_by_permission,
            "role.get_by_permission_name_label": self._get_by_permission_name_label,
            "subject.get_permissions_name_label": self._get_permissions_of_subject,
        }

    async def _get_permissions(self, _: Caller, ref: str) -> tuple[str, ...]:
        return tuple(map(role_ref, self._permissions(ref)))

    async def _get_permissions_name_label(self, _: Caller, ref: str) -> tuple[str, ...]:
        return self._permissions(ref)

    async def _get_by_permission(self, _: Caller, ref: str) -> tuple[str, ...]:
        return _roles_with(self._name(ref))

    async def _get_by_permission_name_label(self, _: Caller, label: str) -> tuple[str, ...]:
        return _roles_with(label)

    async def _get_permissions_of_subject(self, _: Caller, ref: str) -> tuple[str, ...]:
        uname = str(self._records.record(SUBJECT, ref)["subject_identifier"])
        role = self._roles()[uname]
        return load_datamodel().permissions_of(role) if role else ()

    def _permissions(self, ref: str) -> tuple[str, ...]:
        """Give what a role is made of; a permission is made of itself."""
        name = self._name(ref)
        return load_datamodel().permissions_of(name) if name in ROLES else (name,)

    def _name(self, ref: str) -> str:
        return str(self._records.record(ROLE, ref)["name_label"])


def _roles_with(permission: str) -> tuple[str, ...]:
    return tuple(role_ref(role) for role in ROLES if permission in load_datamodel().permissions_of(role))
