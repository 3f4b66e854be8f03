"""The PyPI package XenAPI as client of the daemon, with the sizes of the checks: KiB."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import XenAPI

from tests.lab.dom0.report import CheckError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.lab.dom0.guests import Guest

BYTES_PER_KIB: Final = 1024
API_VERSION: Final = "1.0"
XL_CONFIG_KEY: Final = "xcpmem-xl-config"
ORIGINATOR: Final = "xcpmem lab"
# Less than the minute after which the daemon answers whether the host is stable or not.
STABLE_DEADLINE_S: Final = 45


@dataclass(frozen=True, slots=True)
class Reservation:
    """What `Memory.reserve_memory_range` granted."""

    id: str
    granted_kib: int


@dataclass(frozen=True, slots=True)
class Limits:
    """The memory fields of a VM record that are limits."""

    static_min_kib: int
    dynamic_min_kib: int
    dynamic_max_kib: int
    static_max_kib: int

    @property
    def are_ordered(self) -> bool:
        """Whether static_min <= dynamic_min <= dynamic_max <= static_max."""
        return self.static_min_kib <= self.dynamic_min_kib <= self.dynamic_max_kib <= self.static_max_kib


class Client:
    """A logged-in session. One thread at a time may use it."""

    def __init__(self, url: str, password: str) -> None:
        self._session: Any = XenAPI.Session(url)
        self._session.xenapi.login_with_password("root", password, API_VERSION, ORIGINATOR)

    def limits_by_domid(self) -> Mapping[int, Limits]:
        """The limits of every VM record that has a domain."""
        records: dict[str, dict[str, Any]] = self._session.xenapi.VM.get_all_records()
        return {
            int(record["domid"]): _limits(record) for record in records.values() if int(record["domid"]) >= 0
        }

    def limits(self, guest: Guest) -> Limits:
        """The limits in the record of one guest's VM."""
        return _limits(self._session.xenapi.VM.get_record(self._vm(guest)))

    def set_dynamic_range(self, guest: Guest, min_kib: int, max_kib: int) -> None:
        """Call `VM.set_memory_dynamic_range`."""
        self._session.xenapi.VM.set_memory_dynamic_range(
            self._vm(guest), str(min_kib * BYTES_PER_KIB), str(max_kib * BYTES_PER_KIB)
        )

    def dynamic_range_error(self, guest: Guest, min_kib: int, max_kib: int) -> list[str]:
        """Call `VM.set_memory_dynamic_range` with what must be refused; return the failure's details."""
        try:
            self.set_dynamic_range(guest, min_kib, max_kib)
        except XenAPI.Failure as failure:
            return [str(detail) for detail in failure.details]
        raise CheckError(f"dynamic range {min_kib} to {max_kib} KiB was accepted for {guest.name}")

    def reserve_range(self, min_kib: int, max_kib: int) -> Reservation:
        """Call `Memory.reserve_memory_range`, which returns when the memory is free."""
        identifier, granted_kib = self._session.xenapi.Memory.reserve_memory_range(str(min_kib), str(max_kib))
        return Reservation(identifier, int(granted_kib))

    def delete_reservation(self, reservation: Reservation) -> None:
        """Call `Memory.delete_reservation`."""
        self._session.xenapi.Memory.delete_reservation(reservation.id)

    def set_limits(self, guest: Guest, limits: Limits) -> None:
        """Call `VM.set_memory_limits`; the VM must be halted."""
        sizes = (limits.static_min_kib, limits.static_max_kib, limits.dynamic_min_kib, limits.dynamic_max_kib)
        texts = [str(size_kib * BYTES_PER_KIB) for size_kib in sizes]
        self._session.xenapi.VM.set_memory_limits(self._vm(guest), *texts)

    def set_config(self, guest: Guest, path: str) -> None:
        """Say which file for `xl` a VM is to be built from."""
        vm = self._vm(guest)
        self._session.xenapi.VM.remove_from_other_config(vm, XL_CONFIG_KEY)
        self._session.xenapi.VM.add_to_other_config(vm, XL_CONFIG_KEY, path)

    def start(self, guest: Guest) -> None:
        """Call `VM.start`, which returns when the VM runs."""
        self._session.xenapi.VM.start(self._vm(guest), False, False)

    def start_error(self, guest: Guest) -> list[str]:
        """Call `VM.start` where it must be refused; return the failure's details."""
        try:
            self.start(guest)
        except XenAPI.Failure as failure:
            return [str(detail) for detail in failure.details]
        raise CheckError(f"{guest.name} was started, and should have been refused")

    def hard_shutdown(self, guest: Guest) -> None:
        """Call `VM.hard_shutdown`."""
        self._session.xenapi.VM.hard_shutdown(self._vm(guest))

    def suspend(self, guest: Guest) -> None:
        """Call `VM.suspend`, which returns when the domain has gone."""
        self._session.xenapi.VM.suspend(self._vm(guest))

    def resume(self, guest: Guest) -> None:
        """Call `VM.resume`, which returns when the VM runs."""
        self._session.xenapi.VM.resume(self._vm(guest), False, False)

    def power_state(self, guest: Guest) -> str:
        """Call `VM.get_power_state`."""
        return str(self._session.xenapi.VM.get_power_state(self._vm(guest)))

    def power_state_or_none(self, guest: Guest) -> str | None:
        """Call `VM.get_power_state`; None while the daemon does not know the VM yet."""
        try:
            return self.power_state(guest)
        except XenAPI.Failure as failure:
            if failure.details[0] == "UUID_INVALID":
                return None
            raise

    def reservation_error(self, min_kib: int, max_kib: int) -> list[str]:
        """Call `Memory.reserve_memory_range` where it must be refused; return the failure's details."""
        try:
            granted = self.reserve_range(min_kib, max_kib)
        except XenAPI.Failure as failure:
            return [str(detail) for detail in failure.details]
        self.delete_reservation(granted)
        raise CheckError(f"{min_kib} to {max_kib} KiB were granted, and should have been refused")

    def why(self, guest: Guest) -> str:
        """Call `Memory.get_diagnostics`: what it says of one domain."""
        lines = str(self._session.xenapi.Memory.get_diagnostics()).splitlines()
        return next(line for line in lines if guest.uuid in line)

    def slush_kib(self) -> int:
        """Call `Memory.get_host_reserved_memory`: what the host always keeps free beside reservations."""
        return int(self._session.xenapi.Memory.get_host_reserved_memory())

    def policy(self) -> str:
        """Call `Memory.get_policy`: the name of the one in force."""
        return str(self._session.xenapi.Memory.get_policy()["name"])

    def set_policy(self, name: str) -> None:
        """Call `Memory.set_policy`, with no parameter of its own."""
        self._session.xenapi.Memory.set_policy(name, {})

    def balance(self) -> None:
        """Call `Memory.balance_memory`; require that the host became stable, not that a deadline passed."""
        began = time.perf_counter()
        self._session.xenapi.Memory.balance_memory()
        if time.perf_counter() - began > STABLE_DEADLINE_S:
            diagnostics = self._session.xenapi.Memory.get_diagnostics()
            raise CheckError(f"the host is stable within {STABLE_DEADLINE_S} s, but it is\n{diagnostics}")

    def _vm(self, guest: Guest) -> str:
        return str(self._session.xenapi.VM.get_by_uuid(guest.uuid))


def _limits(record: Mapping[str, Any]) -> Limits:
    return Limits(
        static_min_kib=int(record["memory_static_min"]) // BYTES_PER_KIB,
        dynamic_min_kib=int(record["memory_dynamic_min"]) // BYTES_PER_KIB,
        dynamic_max_kib=int(record["memory_dynamic_max"]) // BYTES_PER_KIB,
        static_max_kib=int(record["memory_static_max"]) // BYTES_PER_KIB,
    )
