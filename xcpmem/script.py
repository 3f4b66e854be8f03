"""What can happen in a scenario: the calls of a script, each a frozen value.

`simulate` acts them out. Sizes are KiB, times seconds of virtual time.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Final, NamedTuple, get_args

from xcpmem.errors import ConfigError
from xcpmem.specs import FOLLOWS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from xcpmem.specs import GuestSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class ReserveMemory:
    """``Memory.reserve_memory``; ``as_name`` names the reservation for later calls."""

    word: ClassVar[str] = "reserve_memory"
    size_kib: int
    as_name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReserveMemoryRange:
    """``Memory.reserve_memory_range``."""

    word: ClassVar[str] = "reserve_memory_range"
    min_kib: int
    max_kib: int
    as_name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferReservation:
    """``Memory.transfer_reservation_to_domain``; the reservation by name or id."""

    word: ClassVar[str] = "transfer_reservation_to_domain"
    reservation: str
    domid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _NamedReservation:
    """Which reservation is meant: by name or id, by the domain that it was transferred to, or by both."""

    reservation: str = ""
    domid: int = FOLLOWS

    def __post_init__(self) -> None:
        if not self.reservation and self.domid == FOLLOWS:
            raise ConfigError("", "reservation", "is missing, and so is domid: one of them is needed")


@dataclass(frozen=True, slots=True, kw_only=True)
class DeleteReservation(_NamedReservation):
    """``Memory.delete_reservation``; by both: unless it was transferred to another domain."""

    word: ClassVar[str] = "delete_reservation"


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryReservation(_NamedReservation):
    """``Memory.query_reservation_of_domain``; by a name: if a domain that is there has got it."""

    word: ClassVar[str] = "query_reservation_of_domain"


@dataclass(frozen=True, slots=True, kw_only=True)
class BalanceMemory:
    """``Memory.balance_memory``."""

    word: ClassVar[str] = "balance_memory"


@dataclass(frozen=True, slots=True, kw_only=True)
class GetHostReservedMemory:
    """``Memory.get_host_reserved_memory``."""

    word: ClassVar[str] = "get_host_reserved_memory"


@dataclass(frozen=True, slots=True, kw_only=True)
class GetHostInitialFreeMemory:
    """``Memory.get_host_initial_free_memory``."""

    word: ClassVar[str] = "get_host_initial_free_memory"


@dataclass(frozen=True, slots=True, kw_only=True)
class GetDomainZeroPolicy:
    """``Memory.get_domain_zero_policy``."""

    word: ClassVar[str] = "get_domain_zero_policy"


@dataclass(frozen=True, slots=True, kw_only=True)
class GetDiagnostics:
    """``Memory.get_diagnostics``."""

    word: ClassVar[str] = "get_diagnostics"


@dataclass(frozen=True, slots=True, kw_only=True)
class SetDynamicRange:
    """An administrator changes a VM's range."""

    word: ClassVar[str] = "set_dynamic_range"
    domid: int
    min_kib: int
    max_kib: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SetPolicy:
    """An administrator chooses a policy and its parameters."""

    word: ClassVar[str] = "set_policy"
    name: str
    parameters: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """A VM is started: its range is reserved, then it appears with what was granted."""

    word: ClassVar[str] = "start"
    guest: GuestSpec

    def __post_init__(self) -> None:
        if self.guest.domid == 0:
            raise ConfigError("", "guest.domid", "0 is domain 0, which nobody starts")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shutdown:
    """A domain is gone at once, its pages are free; domain 0 stays."""

    word: ClassVar[str] = "shutdown"
    domid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SetBalloon:
    """A guest changes its character; ``changes`` are keys of `BalloonSpec`."""

    word: ClassVar[str] = "set_balloon"
    domid: int
    changes: Mapping[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class TakeMemory:
    """Free memory vanishes as if someone else had used it."""

    word: ClassVar[str] = "take_memory"
    size_kib: int


@dataclass(frozen=True, slots=True, kw_only=True)
class KillDaemon:
    """The daemon dies as by kill -9 and starts again after ``down_s`` seconds."""

    word: ClassVar[str] = "kill_daemon"
    down_s: float = 0.0


DaemonCall = (
    ReserveMemory
    | ReserveMemoryRange
    | TransferReservation
    | DeleteReservation
    | QueryReservation
    | BalanceMemory
    | GetHostReservedMemory
    | GetHostInitialFreeMemory
    | GetDomainZeroPolicy
    | GetDiagnostics
    | SetDynamicRange
    | SetPolicy
    | Start
)
"""Calls that the daemon answers: made while it is down, they wait for it."""

WorldCall = Shutdown | SetBalloon | TakeMemory | KillDaemon
"""Things that happen to the host whether the daemon lives or not."""

Call = DaemonCall | WorldCall

CALLS: Final[Mapping[str, type[Call]]] = {call.word: call for call in get_args(Call)}
"""The calls by their names in scripts."""


class ScriptCall(NamedTuple):
    """One line of the script: when, and what."""

    at_s: float
    call: Call
