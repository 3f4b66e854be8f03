"""Every error of xcpmem, each with its code on the XenAPI wire.

::

    XcpmemError                       INTERNAL_ERROR [message]
    ├── ApiError                      the caller's fault
    │   ├── SessionInvalid            SESSION_INVALID [handle]
    │   ├── SessionNotRegistered      SESSION_NOT_REGISTERED [handle]
    │   ├── AuthenticationFailed      SESSION_AUTHENTICATION_FAILED [uname, message]
    │   ├── MethodUnknown             MESSAGE_METHOD_UNKNOWN [method]
    │   ├── MethodRemoved             MESSAGE_REMOVED []
    │   ├── NoAsyncMode               Fault [text]
    │   ├── ParameterCount            MESSAGE_PARAMETER_COUNT_MISMATCH [method, expected, received]
    │   ├── ArgumentType              INTERNAL_ERROR [text]
    │   ├── InternalError             INTERNAL_ERROR [text]
    │   ├── PermissionDenied          RBAC_PERMISSION_DENIED [permission, message]
    │   ├── InvalidValue              INVALID_VALUE [field, value]
    │   ├── FieldType                 FIELD_TYPE_ERROR [field]
    │   ├── MapDuplicateKey           MAP_DUPLICATE_KEY [class, field, ref, key]
    │   ├── EventTokenInvalid         EVENT_FROM_TOKEN_PARSE_FAILURE [token]
    │   ├── SubscriptionInvalid       EVENT_SUBSCRIPTION_PARSE_FAILURE [subscription]
    │   ├── EventsLost                EVENTS_LOST []
    │   ├── HandleInvalid             HANDLE_INVALID [class, handle]
    │   ├── UserExists                SUBJECT_ALREADY_EXISTS []
    │   ├── RoleNotFound              ROLE_NOT_FOUND []
    │   ├── RoleExists                ROLE_ALREADY_EXISTS []
    │   ├── UuidInvalid               UUID_INVALID [class, uuid]
    │   ├── BadPowerState             VM_BAD_POWER_STATE [vm, expected, actual]
    │   ├── OperationNotAllowed       OPERATION_NOT_ALLOWED [reason]
    │   ├── OperationBlocked          OPERATION_BLOCKED [vm, code]
    │   ├── OtherOperationInProgress  OTHER_OPERATION_IN_PROGRESS [class, object, operation, task]
    │   ├── VmIsTemplate              VM_IS_TEMPLATE [vm, operation]
    │   ├── OnlyTemplates             ONLY_PROVISION_TEMPLATE []
    │   ├── VmIsSnapshot              VM_IS_SNAPSHOT [vm, operation]
    │   ├── NoSuspendSr               VM_NO_SUSPEND_SR [vm]
    │   ├── SrFull                    SR_FULL [requested, maximum]
    │   ├── VmUsesNestedVirt          VM_IS_USING_NESTED_VIRT [vm]
    │   ├── UnknownReservation        UNKNOWN_RESERVATION [id]
    │   ├── NoReservation             NO_RESERVATION [domid]
    │   ├── NotEnoughPcpus            HOST_NOT_ENOUGH_PCPUS [vcpus, pcpus]
    │   ├── NoHostsAvailable          NO_HOSTS_AVAILABLE []
    │   ├── ConstraintOrder           MEMORY_CONSTRAINT_VIOLATION_ORDER []
    │   └── ConstraintMaxPin          MEMORY_CONSTRAINT_VIOLATION_MAXPIN [reason]
    ├── HostError                     the world's fault
    │   ├── NotEnoughMemory           HOST_NOT_ENOUGH_FREE_MEMORY [needed, free]
    │   ├── DomainsUncooperative      VMS_FAILED_TO_COOPERATE [vm…]
    │   ├── TargetWaitTimeout         VM_MEMORY_TARGET_WAIT_TIMEOUT [task]
    │   ├── ShutdownTimeout           VM_SHUTDOWN_TIMEOUT [vm, timeout]
    │   ├── TaskCancelled             TASK_CANCELLED [task]
    │   ├── ToolstackError            INTERNAL_ERROR [text]
    │   ├── NotSeen                   INTERNAL_ERROR [text]
    │   ├── TooBusy                   TOO_BUSY []
    │   ├── ConnectionLost            INTERNAL_ERROR [connection lost]
    │   ├── SwitchLost                INTERNAL_ERROR [text]
    │   └── DriverError               INTERNAL_ERROR [text]
    │       ├── DriverTimeout
    │       ├── DriverDisconnected
    │       ├── DomainVanished
    │       └── StoreError
    ├── ConfigError                   exit status 2, one line
    ├── CommandError                  a sentence on standard error, exit status 1
    │   └── UsageError                the same, and where to find help
    └── WireError                     HTTP 500, a small plain page
        └── NotThinCli
"""

from __future__ import annotations

from typing import ClassVar


class XcpmemError(Exception):
    """What nobody foresaw, and the root of all errors; ``code`` and ``params`` are what a client sees."""

    code: ClassVar[str] = "INTERNAL_ERROR"

    advice: str = ""
    """What to do about it, for the log and whoever types commands; never on the XenAPI wire."""

    def __init_subclass__(cls, code: str = "") -> None:
        """Give the class a code of its own, if one is given."""
        if code:
            cls.code = code

    @property
    def params(self) -> tuple[str, ...]:
        """The parameters after the code, as strings, in xapi's order."""
        return (str(self),)


class ApiError(XcpmemError):
    """The caller's fault: nothing was changed."""

    def __init__(self, *params: object) -> None:
        self._params = tuple(str(param) for param in params)
        super().__init__(f"{self.code}({', '.join(self._params)})")

    @property
    def params(self) -> tuple[str, ...]:
        """The constructor's arguments as strings."""
        return self._params


class SessionInvalid(ApiError, code="SESSION_INVALID"):
    """The session reference is unknown or has expired: [handle]."""


class SessionNotRegistered(ApiError, code="SESSION_NOT_REGISTERED"):
    """``event.next`` before ``event.register``: [handle]."""


class AuthenticationFailed(ApiError, code="SESSION_AUTHENTICATION_FAILED"):
    """User or password is wrong, without a hint which: [uname, message]."""


class MethodUnknown(ApiError, code="MESSAGE_METHOD_UNKNOWN"):
    """No such message: [method]."""


class MethodRemoved(ApiError, code="MESSAGE_REMOVED"):
    """The message or field is no longer part of XenAPI: []."""


class NoAsyncMode(ApiError, code="Fault"):
    """``Async.`` before a message that has no such form: [text], under the code that xapi gives it."""


class ParameterCount(ApiError, code="MESSAGE_PARAMETER_COUNT_MISMATCH"):
    """Wrong number of arguments, the session not counted: [method, expected, received]."""


class ArgumentType(ApiError, code="INTERNAL_ERROR"):
    """An argument has another type than the datamodel says: [text], as xapi words it."""


class InternalError(ApiError, code="INTERNAL_ERROR"):
    """Refused where xapi itself has no better word for it: [text], as xapi words it."""


class PermissionDenied(ApiError, code="RBAC_PERMISSION_DENIED"):
    """The session's role does not include the call: [permission, message]."""


class InvalidValue(ApiError, code="INVALID_VALUE"):
    """A value is out of its range: [field, value]."""


class FieldType(ApiError, code="FIELD_TYPE_ERROR"):
    """A field of a record is missing or has another type: [field]."""


class MapDuplicateKey(ApiError, code="MAP_DUPLICATE_KEY"):
    """A map already has the key: [class, field, ref, key]."""


class EventTokenInvalid(ApiError, code="EVENT_FROM_TOKEN_PARSE_FAILURE"):
    """A token that ``event.from`` never gave: [token]."""


class SubscriptionInvalid(ApiError, code="EVENT_SUBSCRIPTION_PARSE_FAILURE"):
    """Neither ``*`` nor a class nor a class and a reference: [subscription]."""


class EventsLost(ApiError, code="EVENTS_LOST"):
    """So much was deleted since the last ``event.next`` that not all of it can be told: []."""


class HandleInvalid(ApiError, code="HANDLE_INVALID"):
    """The reference names no living object: [class, handle]."""


class UserExists(ApiError, code="SUBJECT_ALREADY_EXISTS"):
    """A user has the name already: []."""


class RoleNotFound(ApiError, code="ROLE_NOT_FOUND"):
    """There is no such role, or the user does not have it: []."""


class RoleExists(ApiError, code="ROLE_ALREADY_EXISTS"):
    """The user has the role already: []."""


class UuidInvalid(ApiError, code="UUID_INVALID"):
    """No object has the uuid: [class, uuid]."""


class BadPowerState(ApiError, code="VM_BAD_POWER_STATE"):
    """The VM is in a power state that forbids the call: [vm, expected, actual]."""


class OperationNotAllowed(ApiError, code="OPERATION_NOT_ALLOWED"):
    """The operation is never allowed on such an object: [reason]."""


class OperationBlocked(ApiError, code="OPERATION_BLOCKED"):
    """An administrator blocked the operation: [vm, code]."""


class OtherOperationInProgress(ApiError, code="OTHER_OPERATION_IN_PROGRESS"):
    """Something else is being done to the object: [class, object, operation, task]."""


class VmIsTemplate(ApiError, code="VM_IS_TEMPLATE"):
    """Templates cannot be run: [vm, operation]."""


class OnlyTemplates(ApiError, code="ONLY_PROVISION_TEMPLATE"):
    """Only a template can be provisioned: []."""


class VmIsSnapshot(ApiError, code="VM_IS_SNAPSHOT"):
    """Snapshots cannot be changed: [vm, operation]."""


class NoSuspendSr(ApiError, code="VM_NO_SUSPEND_SR"):
    """There is no storage in which the VM's memory could be kept: [vm]."""


class SrFull(ApiError, code="SR_FULL"):
    """The disk has no room for what a VM holds that is to be suspended: [requested, maximum], bytes."""


class VmUsesNestedVirt(ApiError, code="VM_IS_USING_NESTED_VIRT"):
    """The VM uses nested virtualisation: [vm]."""


class UnknownReservation(ApiError, code="UNKNOWN_RESERVATION"):
    """No such reservation: [id]."""


class NoReservation(ApiError, code="NO_RESERVATION"):
    """The domain has no reservation: [domid]."""


class NotEnoughPcpus(ApiError, code="HOST_NOT_ENOUGH_PCPUS"):
    """The VM has more virtual CPUs than the host has physical ones: [vcpus, pcpus]."""


class NoHostsAvailable(ApiError, code="NO_HOSTS_AVAILABLE"):
    """No host can take the VM, for another reason than its memory: []."""


class ConstraintOrder(ApiError, code="MEMORY_CONSTRAINT_VIOLATION_ORDER"):
    """static-min <= dynamic-min <= dynamic-max <= static-max does not hold: []."""


class ConstraintMaxPin(ApiError, code="MEMORY_CONSTRAINT_VIOLATION_MAXPIN"):
    """The VM must have dynamic-min = dynamic-max = static-max: [reason]."""


class HostError(XcpmemError):
    """The world's fault: the call was right, the host could not.

    Args:
        text: a sentence for people.
        params: what a XenAPI client is told after the code; after INTERNAL_ERROR by default the sentence.
    """

    def __init__(self, text: str, *params: object) -> None:
        default = (text,) if self.code == XcpmemError.code else ()
        self._params = tuple(str(param) for param in params) or default
        super().__init__(text)

    @property
    def params(self) -> tuple[str, ...]:
        """What was given, or else the default."""
        return self._params


class NotEnoughMemory(HostError, code="HOST_NOT_ENOUGH_FREE_MEMORY"):
    """The memory cannot be had, even with every willing guest at dynamic-min.

    Args:
        needed: what was asked for, bytes (KiB only where xapi answers KiB).
        available: the most that could be had, same unit.
        unit: the same in words.
    """

    def __init__(self, needed: int, available: int, unit: str = "bytes") -> None:
        self.needed = needed
        self.available = available
        super().__init__(f"{needed} {unit} are needed, {available} {unit} can be had", needed, available)


class DomainsUncooperative(HostError, code="VMS_FAILED_TO_COOPERATE"):
    """Guests did not give back what they were asked for; ``vms`` are references (in the ring domids)."""

    def __init__(self, *vms: str) -> None:
        self.vms = vms
        super().__init__(f"did not cooperate: {', '.join(vms)}", *vms)


class TargetWaitTimeout(HostError, code="VM_MEMORY_TARGET_WAIT_TIMEOUT"):
    """A guest did not reach its target in time; [task] on the wire."""

    def __init__(self, task: str) -> None:
        super().__init__(f"target not reached in time, task {task}", task)


class ShutdownTimeout(HostError, code="VM_SHUTDOWN_TIMEOUT"):
    """A guest did not shut down; ``timeout`` is how long it had, as xapi writes seconds: ``1200.``."""

    def __init__(self, vm: str, timeout: str) -> None:
        super().__init__(f"{vm} did not shut down within {timeout} s", vm, timeout)


class TaskCancelled(HostError, code="TASK_CANCELLED"):
    """Somebody else ended what was under way; [task] on the wire."""

    def __init__(self, task: str) -> None:
        super().__init__(f"cancelled: {task}", task)


class ToolstackError(HostError):
    """A domain could not be built, ended, paused or let run; the text names the VM and says why."""


class NotSeen(HostError):
    """What was waited for did not show at the host in time; the text says what, and how long that was."""


class TooBusy(HostError, code="TOO_BUSY"):
    """The server has as much to do as it can take at once; later it may have less."""

    def __init__(self) -> None:
        super().__init__("too busy, try again later")


class ConnectionLost(HostError):
    """The daemon ended while the call waited, or its client hung up."""

    def __init__(self) -> None:
        super().__init__("connection lost")


class SwitchLost(HostError):
    """The message switch is gone or does not keep to its protocol; it is connected to again."""


class DriverError(HostError):
    """The host did not answer as it should; the ring tries again, and tells who waited in vain."""


class DriverTimeout(DriverError):
    """A call to xenstore or the hypervisor passed its deadline."""


class DriverDisconnected(DriverError):
    """The connection to xenstore or the hypervisor is gone."""


class DomainVanished(DriverError):
    """The domain ended between look and touch: normal life."""


class StoreError(DriverError):
    """Xenstored refused a request.

    Args:
        name: the errno's name, such as ``EACCES``.
        request: what was asked, for people.
    """

    def __init__(self, name: str, request: str) -> None:
        self.name = name
        self.request = request
        super().__init__(f"xenstored answers {name} to {request}")


class ConfigError(XcpmemError):
    """A bad option or configuration: file, key and why, on one line; ``may_pass``: it may be good later."""

    def __init__(self, where: str, key: str, why: str, *, may_pass: bool = False) -> None:
        self.where = where
        self.key = key
        self.why = why
        self.may_pass = may_pass
        super().__init__(f"{where}: {key}: {why}" if key else f"{where}: {why}")


class WireError(XcpmemError):
    """Bytes that are no message of the protocol."""


class NotThinCli(WireError):
    """The other end of a command line's connection begins with ``start``; ``HTTP`` means an error page."""

    def __init__(self, start: bytes) -> None:
        self.start = start
        super().__init__(f"not the thin CLI protocol: {start!r}")


class CommandError(XcpmemError):
    """A command of the command line cannot be carried out: a sentence for whoever typed it."""


class UsageError(CommandError):
    """A command line that is no command: what is wrong and with which word."""
