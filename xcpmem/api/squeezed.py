"""squeezed's own calls: what each means, whichever transport brings it.

The wire names, the order of parameters and the errors are squeezed's (xapi-project/xen-api,
ocaml/xapi-idl/memory), the work is done as for the class ``Memory``. Sizes are KiB, but bytes in
``get_host_initial_free_memory`` and ``get_domain_zero_policy``, as squeezed has them and not as its interface
description says. A session is the name of a service, is never invalid, and needs no login: xenopsd logs in
once in its life and would else never start a VM again after our restart.
"""

from __future__ import annotations

import hashlib
import logging
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from uuid import UUID, uuid5

from xcpmem.api.values import INT64_MAX, INT64_MIN
from xcpmem.errors import (
    DomainsUncooperative,
    InvalidValue,
    NoReservation,
    NotEnoughMemory,
    UnknownReservation,
    XcpmemError,
)
from xcpmem.refs import service_owner
from xcpmem.units import bytes_to_kib_floor

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from xcpmem.api.boottime import BootMemory
    from xcpmem.service import Service

_log = logging.getLogger(__name__)

_RESERVATIONS: Final = UUID("b4c1c5f6-3d0e-5f4c-9c57-4f0e7f1d2a68")
_SIZES: Final = frozenset({"size_kib", "min_kib", "max_kib"})
_DIGITS: Final = re.compile(r"-?[0-9]{1,19}")

REMEMBERED: Final = frozenset({"login", "reserve_memory", "reserve_memory_range"})
"""Calls that must not be carried out again when a transport delivers them twice."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a call came to, as plain values: exactly one of the two counts.

    Args:
        value: the result; None is unit.
        error: a variant: its name, or a list of its name and what it carries; None when the call worked.
    """

    value: object = None
    error: str | list[object] | None = None


class SqueezedCalls:
    """Carries out squeezed's calls.

    Args:
        service: does the work.
        boot_memory: what was free when the host booted.
    """

    def __init__(self, service: Service, boot_memory: BootMemory) -> None:
        self._service = service
        self._boot_memory = boot_memory
        self._methods: Mapping[str, tuple[Callable[..., Awaitable[object]], tuple[type, ...]]] = {
            "get_diagnostics": (self._get_diagnostics, ()),
            "login": (self._login, (str,)),
            "reserve_memory": (self._reserve_memory, (str, int)),
            "reserve_memory_range": (self._reserve_memory_range, (str, int, int)),
            "delete_reservation": (self._delete_reservation, (str, str)),
            "transfer_reservation_to_domain": (self._transfer, (str, str, int)),
            "query_reservation_of_domain": (self._query, (str, int)),
            "balance_memory": (self._balance_memory, ()),
            "get_host_reserved_memory": (self._get_host_reserved_memory, ()),
            "get_host_initial_free_memory": (self._get_host_initial_free_memory, ()),
            "get_domain_zero_policy": (self._get_domain_zero_policy, ()),
        }

    async def call(self, method: str, params: Sequence[object], *, name: str = "") -> Answer:
        """Carry out a call; whatever goes wrong is an answer as well.

        Args:
            method: its wire name.
            params: the debug text and the parameters, all by position.
            name: what a transport knows this very call by, also when it delivers it again; empty if it
                delivers each only once.

        Returns:
            The result, or the error as a variant of squeezed's.
        """
        try:
            work, types = self._find(method)
            arguments = _arguments(method, params, types)
            if method.startswith("reserve_"):
                arguments.append(str(uuid5(_RESERVATIONS, name)) if name else "")
            return Answer(await work(*arguments))
        except XcpmemError as error:
            _log.info("%s: %s", method, error)
            return Answer(error=variant_of(error))
        except Exception:  # noqa: BLE001 -- a caller must hear something
            _log.exception("%s failed", method)
            return Answer(error=["Internal_error", f"{method} failed; the log of xcpmemd says why"])

    def _find(self, method: str) -> tuple[Callable[..., Awaitable[object]], tuple[type, ...]]:
        if method not in self._methods:
            raise InvalidValue("method", method)
        return self._methods[method]

    async def _login(self, service: str) -> str:
        """Give back all that a former life of this service has left, and take its name for its session."""
        await self._service.reservations.release(service_owner(service), transferred_too=True)
        return service

    async def _reserve_memory(self, session: str, size_kib: int, reservation_id: str) -> str:
        reserved, _ = await self._reserve(session, size_kib, size_kib, reservation_id)
        return reserved

    async def _reserve_memory_range(
        self, session: str, min_kib: int, max_kib: int, reservation_id: str
    ) -> tuple[str, int]:
        return await self._reserve(session, min_kib, max_kib, reservation_id)

    async def _reserve(
        self, session: str, min_kib: int, max_kib: int, reservation_id: str
    ) -> tuple[str, int]:
        for size_kib in (min_kib, max_kib):
            if size_kib < 0:
                raise InvalidValue("size_kib", size_kib)
        if min_kib > max_kib:
            raise InvalidValue("max_kib", max_kib)
        reservation = await self._service.reservations.reserve_for_service(
            service_owner(session), min_kib, max_kib, reservation_id
        )
        return reservation.reservation_id, reservation.size_kib

    async def _delete_reservation(self, _session: str, reservation_id: str) -> None:
        await self._service.reservations.delete(reservation_id)

    async def _transfer(self, _session: str, reservation_id: str, domid: int) -> None:
        await self._service.reservations.transfer(reservation_id, domid)

    async def _query(self, _session: str, domid: int) -> str:
        return self._service.reservations.of_domain(domid)

    async def _balance_memory(self) -> None:
        """Return when the host is stable or the time is over; never fail, or a range change would."""
        try:
            await self._service.reservations.balance()
        except XcpmemError as error:
            _log.warning("balance_memory ended early: %s", error)

    async def _get_diagnostics(self) -> str:
        return self._service.get_diagnostics()

    async def _get_host_reserved_memory(self) -> int:
        return self._service.get_host_reserved_memory()

    async def _get_host_initial_free_memory(self) -> int:
        return self._boot_memory.bytes(self._service.get_host_initial_free_memory())

    async def _get_domain_zero_policy(self) -> object:
        return self._service.get_domain_zero_policy()


def call_name(*parts: str) -> str:
    """Make one name of what a transport tells a call by."""
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogateescape")).hexdigest()


def _arguments(method: str, params: Sequence[object], types: Sequence[type]) -> list[object]:
    """Type what came by position, without the debug text before it; integers may come as text.

    Raises:
        InvalidValue: there are too few or too many, or one is of another type.
    """
    if len(params) != len(types) + 1:
        raise InvalidValue(f"parameters of {method}", len(params))
    return [_typed(value, kind) for value, kind in zip(params[1:], types, strict=True)]


def _typed(value: object, kind: type) -> object:
    if kind is str and isinstance(value, str):
        return value
    if kind is int:
        if isinstance(value, str) and _DIGITS.fullmatch(value):
            value = int(value)
        if isinstance(value, int) and not isinstance(value, bool) and INT64_MIN <= value <= INT64_MAX:
            return value
    raise InvalidValue("string" if kind is str else "64-bit integer", value)


def variant_of(error: XcpmemError) -> str | list[object]:
    """Say in squeezed's words what went wrong; sizes KiB."""
    match error:
        case NotEnoughMemory(params=(needed, free)):
            sizes = [bytes_to_kib_floor(int(needed)), bytes_to_kib_floor(int(free))]
            return ["Cannot_free_this_much_memory", sizes]
        case DomainsUncooperative(params=domids):
            return ["Domains_refused_to_cooperate", [int(domid) for domid in domids]]
        case UnknownReservation(params=(reservation_id,)):
            return ["Unknown_reservation", reservation_id]
        case NoReservation():
            return "No_reservation"
        case InvalidValue(params=(field, size)) if field in _SIZES:
            return ["Invalid_memory_value", int(size)]
    return ["Internal_error", str(error)]
