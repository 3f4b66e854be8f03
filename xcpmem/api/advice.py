"""What to do about an error: the one place that turns a bare code and its call into a sentence of advice.

XenAPI's errors are codes and parameters, and clients get exactly those. Whoever types commands, or reads the
log, also gets a sentence made from the call, its arguments and the object as it is. Sizes carry their units.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Final, NamedTuple

from xcpmem.api.typenames import Ref
from xcpmem.engine.accounting import DOMAIN_TYPES
from xcpmem.errors import HandleInvalid
from xcpmem.history import LIMIT_MOST
from xcpmem.units import BYTES_PER_MIB, UNITS_HINT, format_bytes, kib_to_bytes
from xcpmem.users import LONGEST_NAME, ROLES, USERS_MOST

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from xcpmem.api.datamodel import Message
    from xcpmem.api.records import Records
    from xcpmem.api.sessions import Session
    from xcpmem.errors import XcpmemError

_LIMITS: Final = ("static-min", "dynamic-min", "dynamic-max", "static-max")
_PAIRS: Final = (
    *(("static-min", "static-max"), ("static-min", "dynamic-max"), ("dynamic-min", "static-max")),
    *pairwise(_LIMITS),
)
"""Which limit must not be above which, the widest apart first: what breaks those needs most to be mended."""
_HALTED: Final = "the VM must be halted"
_SET_BY: Final[Mapping[str, tuple[str, ...]]] = {
    "set_memory_limits": ("static-min", "static-max", "dynamic-min", "dynamic-max"),
    "set_memory_static_range": ("static-min", "static-max"),
    "set_memory_static_min": ("static-min",),
    "set_memory_static_max": ("static-max",),
    "set_memory_dynamic_range": ("dynamic-min", "dynamic-max"),
    "set_memory_dynamic_min": ("dynamic-min",),
    "set_memory_dynamic_max": ("dynamic-max",),
    "set_memory": ("dynamic-min", "dynamic-max", "static-max"),
    "create": _LIMITS,
}
"""The limits that each call sets, in the order of its parameters; set_memory sets all to its one."""
_IN_KIB: Final = frozenset({"set_memory_dynamic_range", "set_memory_dynamic_min", "set_memory_dynamic_max"})
_PINNED: Final = {
    "DMC disabled": "this pool's licence has no dynamic memory control",
    "control domain": "domain 0 keeps one size",
    "nested virt": "a VM that runs VMs itself cannot be ballooned",
}


_EXPECTED: Final[Mapping[str, str]] = {
    "role": f"the roles are {', '.join(ROLES)}",
    "uname": (
        f"a name has 1 to {LONGEST_NAME} printable characters, no / and no blank at either end; it is not "
        f"root, and there are at most {USERS_MOST} of them"
    ),
    "limit": f"it is a whole number from 1 to {LIMIT_MOST}",
    "domain_type": f"the types are {', '.join(DOMAIN_TYPES)}",
    "VCPUs_at_startup": "it is at least 1 and at most VCPUs_max",
    "multiplier": "it is 1.0 or more, and not so large that no host could hold it",
}
"""What the value of a field can be, where its name does not say it."""


class Case(NamedTuple):
    """A call that failed, or would.

    Args:
        call: the message's name without its class.
        arguments: typed, the session not among them.
        params: of the error.
        vm: the record of the VM it was about; empty if it was about none.
        caller: who called, in which role: ``ann is read-only``.
        role: the least that may call it.
    """

    call: str
    arguments: Sequence[object]
    params: Sequence[str]
    vm: Mapping[str, object]
    caller: str = ""
    role: str = ""

    @property
    def name(self) -> str:
        """What people call the VM."""
        return str(self.vm.get("name_label", "the VM"))


def advise_on(code: str, case: Case) -> str:
    """Say what to do about an error.

    Args:
        code: of the error.
        case: the call that it came of.

    Returns:
        A sentence or two without a line's end; empty if there is nothing to say beyond the code.
    """
    make = _ADVICE.get(code)
    return make(case) if make is not None else ""


class Adviser:
    """Makes advice.

    Args:
        records: show the VM that a call was about.
    """

    def __init__(self, records: Records) -> None:
        self._records = records

    def advise(
        self, message: Message, arguments: Sequence[object], session: Session, error: XcpmemError
    ) -> str:
        """Say what to do about an error.

        Args:
            message: that was called.
            arguments: typed as far as that went, the session not among them.
            session: that called.
            error: that came of it.

        Returns:
            A sentence or two without a line's end; empty if there is nothing to say beyond the code.
        """
        if error.code not in _ADVICE:
            return ""
        vm: Mapping[str, object] = {}
        if message.params and arguments and message.params[0].type == Ref("VM"):
            try:
                vm = self._records.record("VM", str(arguments[0]))
            except HandleInvalid:
                vm = {}
        caller = f"{session.user} is {session.role}"
        return advise_on(error.code, Case(message.name, arguments, error.params, vm, caller, message.role))


def _order(case: Case) -> str:
    """Name two limits that contradict each other, and say which to change; empty if none do."""
    given, limits = _given(case), _given(case)
    if not given:
        return ""
    for name in _LIMITS:
        limits.setdefault(name, case.vm.get(_field(name)))
    for low, high in _PAIRS:
        least, most = limits[low], limits[high]
        if isinstance(least, int) and isinstance(most, int) and least > most:
            asked = {low: least, high: most}.items() & given.items()
            is_unit_missing = any(0 < size < BYTES_PER_MIB for _, size in asked)
            way = UNITS_HINT if is_unit_missing else _way(low, high, given)
            return f"{low} {format_bytes(least)} is above {high} {format_bytes(most)}; {way}"
    return ""


def _given(case: Case) -> dict[str, object]:
    """Find the limits that a call sets, and to what, bytes."""
    names = _SET_BY.get(case.call, ())
    if case.arguments and isinstance(case.arguments[0], Mapping):
        record = case.arguments[0]
        return {name: record.get(_field(name)) for name in names}
    values = [value for value in case.arguments[1:] if isinstance(value, int)]
    return dict(zip(names, values * len(names) if len(values) == 1 else values, strict=False))


def _field(name: str) -> str:
    return f"memory_{name.replace('-', '_')}"


def _way(low: str, high: str, given: Mapping[str, object]) -> str:
    """Say which of two limits to change, the one that the call left as it was."""
    if low in given and high in given:
        return "give sizes that keep the order"
    other, change = (high, "raise") if low in given else (low, "lower")
    return f"{change} {other} first" + (f", {_HALTED}" if other.startswith("static") else "")


def _max_pin(case: Case) -> str:
    why = _PINNED.get(case.params[0], case.params[0]) if case.params else ""
    return f"{why}: give dynamic-min, dynamic-max and static-max one size".lstrip(": ")


def _power_state(case: Case) -> str:
    _, expected, actual = case.params
    if actual == "suspended":
        discard = ", or discard what it held (vm-shutdown --force)" if "halted" in expected else ""
        return f"{case.name} is suspended: bring it back first (vm-resume){discard}"
    if expected == "halted" and "memory" in case.call:
        return (
            f"{case.name} is {actual}, and this changes only while it is halted; what can change now is its "
            "dynamic range (vm-memory-dynamic-range-set)"
        )
    if expected == "halted":
        return f"{case.name} is {actual}: shut it down first (vm-shutdown)"
    ways = {
        "halted": "start it first (vm-start)",
        "paused": "let it run on first (vm-unpause)",
    }
    return f"{case.name} is {actual}: {ways.get(actual, f'this needs it {expected}')}"


def _memory(case: Case) -> str:
    needed, available = (max(0, int(param)) for param in case.params)
    unit = "bytes"
    if case.call in _IN_KIB:
        unit, needed, available = "KiB", kib_to_bytes(needed), kib_to_bytes(available)
    lack = (
        f"{format_bytes(needed)} ({case.params[0]} {unit}) are needed and {format_bytes(available)} "
        f"({case.params[1]} {unit}) can be had, {format_bytes(max(0, needed - available))} too little"
    )
    # xapi looks at the memory first; no memory helps whoever asks for limits that cannot be.
    disorder = _order(case)
    if disorder:
        return f"{disorder}; besides, {lack}"
    return f"{lack}: lower another VM's dynamic-min, shut one down, or ask for less"


def _value(case: Case) -> str:
    return _EXPECTED.get(case.params[0], "") if case.params else ""


def _uncooperative(_: Case) -> str:
    return "look at their balloon drivers (explain vm=... says what each was asked for), or shut them down"


def _permission(case: Case) -> str:
    return (
        f"{case.caller}, and this needs {case.role} or mightier: a pool admin can change that (user-role-set)"
    )


def _busy(case: Case) -> str:
    operation = case.params[2] if len(case.params) > 2 else "another operation"  # noqa: PLR2004 class, object, operation
    return f"{operation} is under way: wait for it (task-list shows it), or cancel it"


def _say(sentence: str) -> Callable[[Case], str]:
    return lambda _: sentence


_ADVICE: Final[Mapping[str, Callable[[Case], str]]] = {
    "INVALID_VALUE": _value,
    "MEMORY_CONSTRAINT_VIOLATION_ORDER": _order,
    "MEMORY_CONSTRAINT_VIOLATION_MAXPIN": _max_pin,
    "VM_BAD_POWER_STATE": _power_state,
    "HOST_NOT_ENOUGH_FREE_MEMORY": _memory,
    "VMS_FAILED_TO_COOPERATE": _uncooperative,
    "RBAC_PERMISSION_DENIED": _permission,
    "OTHER_OPERATION_IN_PROGRESS": _busy,
    "OPERATION_BLOCKED": _say("the VM's blocked-operations say who blocked it and why; remove the key there"),
    "MAP_DUPLICATE_KEY": _say("remove the key first, or set it with map:key=value"),
    "VM_IS_TEMPLATE": _say("a template never runs: make a VM of it"),
    "VM_MEMORY_TARGET_WAIT_TIMEOUT": _say("its guest moves slowly or not at all: explain vm=... says which"),
    "VM_SHUTDOWN_TIMEOUT": _say("its guest does not react: end it with --force"),
    "NO_HOSTS_AVAILABLE": _say("VM.assert_can_boot_here tells what a host lacks"),
    "HOST_NOT_ENOUGH_PCPUS": _say("lower VCPUs_max while the VM is halted"),
    "UNKNOWN_RESERVATION": _say("a reservation ends when it is transferred, deleted, or its session ends"),
    "NO_RESERVATION": _say("reserve memory and transfer it to the domain first"),
    "TOO_BUSY": _say("try again in a moment"),
    "EVENT_FROM_TOKEN_PARSE_FAILURE": _say("give the last answer's token, or an empty one for everything"),
    "EVENTS_LOST": _say("read all objects anew, then go on with the new token"),
    "SESSION_NOT_REGISTERED": _say("call event.register first, or use event.from"),
    "SUBJECT_ALREADY_EXISTS": _say("change the user with user-role-set or user-password-set"),
}
"""What makes the sentence for a code."""
