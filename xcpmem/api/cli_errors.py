"""What the command line says of a XenAPI error: a sentence, then each parameter with its name.

`xe` prints the description from xapi's datamodel and one ``name: value`` line for each parameter that is
declared there; the names are the datamodel's, the sentences our own. A code that is not listed here goes
out in an Error frame, which the client prints bare.
"""

from __future__ import annotations

from itertools import zip_longest
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_EVERY_VM: Final = ("VM",)

DESCRIPTIONS: Final[Mapping[str, tuple[str, tuple[str, ...]]]] = {
    "INTERNAL_ERROR": ("The server failed to carry out the call.", ("message",)),
    "SESSION_INVALID": ("The session is unknown or has expired.", ("handle",)),
    "SESSION_NOT_REGISTERED": ("The session has registered for no events yet.", ("handle",)),
    "SESSION_AUTHORIZATION_FAILED": ("This user may not log in here.", ("user", "msg")),
    "SESSION_AUTHENTICATION_FAILED": ("User and password do not fit.", ("user", "msg")),
    "SUBJECT_ALREADY_EXISTS": ("There is a user of this name already.", ()),
    "MESSAGE_METHOD_UNKNOWN": ("The server does not know this call.", ("method",)),
    "MESSAGE_REMOVED": ("This call is no longer part of XenAPI.", ()),
    "MESSAGE_PARAMETER_COUNT_MISMATCH": (
        "The call has another number of arguments than it should.",
        ("method", "expected", "received"),
    ),
    "RBAC_PERMISSION_DENIED": ("This user's role does not include the call.", ("permission", "message")),
    "INVALID_VALUE": ("The value is out of its range.", ("field", "value")),
    "VALUE_NOT_SUPPORTED": ("The value is not supported.", ("field", "value", "reason")),
    "MAP_DUPLICATE_KEY": ("The map has the key already.", ("type", "param_name", "uuid", "key")),
    "EVENT_FROM_TOKEN_PARSE_FAILURE": ("That is no token of an earlier answer.", ("token",)),
    "EVENT_SUBSCRIPTION_PARSE_FAILURE": ("One subscribes to *, class or class/reference.", ("subscription",)),
    "EVENTS_LOST": ("More has happened than is remembered; read all objects anew.", ()),
    "HANDLE_INVALID": ("The object is gone, or never was.", ("class", "handle")),
    "ROLE_NOT_FOUND": ("There is no such role, or the user does not have it.", ()),
    "ROLE_ALREADY_EXISTS": ("The user has the role already.", ()),
    "UUID_INVALID": ("No object has this uuid.", ("type", "uuid")),
    "VM_BAD_POWER_STATE": ("The VM is in a power state that forbids this.", ("vm", "expected", "actual")),
    "OPERATION_NOT_ALLOWED": ("This is never allowed on such an object.", ("reason",)),
    "OPERATION_BLOCKED": ("An administrator has blocked this operation.", ("ref", "code")),
    "OTHER_OPERATION_IN_PROGRESS": (
        "Another operation on the object is under way; try again when it has ended.",
        ("class", "object", "operation_type", "operation_ref"),
    ),
    "VM_IS_SNAPSHOT": ("A snapshot cannot be changed.", ("vm", "operation")),
    "VM_IS_TEMPLATE": ("This cannot be done with a template.", ("vm", "operation")),
    "VM_NO_SUSPEND_SR": ("There is no storage in which the VM's memory could be kept.", ("vm",)),
    "SR_FULL": ("The disk has no room for the memory of the VM; bytes.", ("requested", "maximum")),
    "ONLY_PROVISION_TEMPLATE": ("Only a template can be provisioned.", ()),
    "FIELD_TYPE_ERROR": ("A field of the record is missing or has another type.", ("field",)),
    "VM_IS_USING_NESTED_VIRT": (
        "The VM uses nested virtualisation, so its memory cannot be ballooned.",
        ("VM",),
    ),
    "MEMORY_CONSTRAINT_VIOLATION": ("The memory limits of the VM contradict each other.", ("constraint",)),
    "MEMORY_CONSTRAINT_VIOLATION_ORDER": (
        "The limits must keep the order static-min <= dynamic-min <= dynamic-max <= static-max.",
        (),
    ),
    "MEMORY_CONSTRAINT_VIOLATION_MAXPIN": (
        "Such a VM must have dynamic-min, dynamic-max and static-max at the same size.",
        ("reason",),
    ),
    "HOST_NOT_ENOUGH_FREE_MEMORY": (
        "The host has not enough memory, even with every VM that obeys at its dynamic-min.",
        ("needed", "available"),
    ),
    "HOST_NOT_ENOUGH_PCPUS": (
        "The VM has more virtual CPUs than the host has physical ones.",
        ("vcpus", "pcpus"),
    ),
    "NO_HOSTS_AVAILABLE": ("No host can take the VM.", ()),
    "VMS_FAILED_TO_COOPERATE": ("These VMs did not give back the memory they were asked for.", _EVERY_VM),
    "VM_MEMORY_TARGET_WAIT_TIMEOUT": ("The VM did not reach its memory target in time.", ("task",)),
    "VM_SHUTDOWN_TIMEOUT": ("The VM was asked to shut down and did not.", ("vm", "timeout")),
    "TASK_CANCELLED": ("The task was cancelled.", ("task",)),
    "TOO_BUSY": ("The server has as much to do as it can take at once; try again later.", ()),
    "UNKNOWN_RESERVATION": ("No such reservation is open.", ("reservation",)),
    "NO_RESERVATION": ("The domain has no reservation.", ("domid",)),
}
"""Sentence and parameter names by error code."""


def describe_error(code: str, params: Sequence[str]) -> list[str]:
    """Put a XenAPI error into words.

    Args:
        code: as on the wire.
        params: the parameters, references already replaced by what people know the objects by.

    Returns:
        The sentence and a ``name: value`` line for each parameter, nothing if the code is not known. A
        parameter that is declared but missing reads ``<unknown>``, one too many is named ``<extra>``.
    """
    if code not in DESCRIPTIONS:
        return []
    sentence, names = DESCRIPTIONS[code]
    if names is _EVERY_VM:
        names = _EVERY_VM * len(params)
    pairs = zip_longest(names, params)
    return [
        sentence,
        *(f"{name or '<extra>'}: {'<unknown>' if value is None else value}" for name, value in pairs),
    ]
