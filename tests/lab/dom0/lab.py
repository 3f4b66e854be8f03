"""What the checks share: the host, its guests, the daemon under test, and the state they begin from."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.lab.dom0 import report
from tests.lab.dom0.client import Client, Limits, Reservation
from tests.lab.dom0.daemon import Daemon
from tests.lab.dom0.guests import Guest, find_guest, wait_at_targets, wait_for_first_report
from tests.lab.dom0.host import KIB_PER_MIB, Hypervisor
from tests.lab.dom0.report import CheckError

if TYPE_CHECKING:
    from collections.abc import Mapping

GUEST_NAMES: Final = ("lab1", "lab2", "lab3")
DAEMON_DIRECTORY: Final = Path("/run/lab")
LISTEN: Final = "127.0.0.1:8080"

# Dynamic ranges at rest, of different widths so that equal shares are not equal sizes. The machine has
# room for all three at their maximum, with a few hundred MiB left.
RANGES_KIB: Final = (
    (200 * KIB_PER_MIB, 780 * KIB_PER_MIB),
    (300 * KIB_PER_MIB, 750 * KIB_PER_MIB),
    (400 * KIB_PER_MIB, 700 * KIB_PER_MIB),
)


@dataclass(frozen=True, slots=True)
class Settlement:
    """Where a reservation left the host: what was asked for, what was granted, who holds how much."""

    min_kib: int
    max_kib: int
    reservation: Reservation
    targets_kib: Mapping[Guest, int]


@dataclass(slots=True)
class Lab:
    """The emulated host with its running guests."""

    hypervisor: Hypervisor
    guests: tuple[Guest, ...]
    daemon: Daemon = field(default_factory=lambda: Daemon(DAEMON_DIRECTORY, LISTEN))
    granted: Settlement | None = None
    undisturbed: Settlement | None = None
    reserved: list[Reservation] = field(default_factory=list)
    _client: Client | None = None

    def client(self) -> Client:
        """A session with the daemon, which is started if it does not run."""
        if not self.daemon.is_running:
            self.start_daemon()
        if self._client is None:
            self._client = self.new_client()
        return self._client

    def start_daemon(self) -> None:
        """Start the daemon, with whom nobody has a session yet."""
        report.figure("daemon_start", self.daemon.start(), "s")
        self._client = None

    def new_client(self) -> Client:
        """A session of its own, for another thread."""
        return Client(self.daemon.url, self.daemon.root_password())

    def renew(self, guest: Guest) -> Guest:
        """Take a guest that was started again for what it is now, with its new domid, once it is up."""
        renewed = self.find(guest)
        wait_for_first_report(renewed)
        return renewed

    def find(self, guest: Guest) -> Guest:
        """Take a guest for what it is now, with its new domid."""
        found = find_guest(self.hypervisor, guest.name)
        self.guests = tuple(found if other.name == guest.name else other for other in self.guests)
        return found

    def usable_kib(self) -> int:
        """What is free and not kept as slush."""
        return self.hypervisor.free_kib() - self.client().slush_kib()

    def ranges_kib(self) -> dict[Guest, tuple[int, int]]:
        """Each guest's dynamic range at rest."""
        return dict(zip(self.guests, RANGES_KIB, strict=True))

    def rest(self) -> dict[Guest, int]:
        """Give each guest its dynamic range at rest and wait until it holds the maximum of it.

        Reservations that a failed check left behind are deleted first.

        Returns:
            The targets at rest.
        """
        client = self.client()
        self.delete_all()
        for guest, (min_kib, max_kib) in self.ranges_kib().items():
            limits = client.limits(guest)
            if (limits.dynamic_min_kib, limits.dynamic_max_kib) != (min_kib, max_kib):
                client.set_dynamic_range(guest, min_kib, max_kib)
        wait_at_targets(self.hypervisor, self.at_rest_kib())
        return self.at_rest_kib()

    def at_rest_kib(self) -> dict[Guest, int]:
        """What each guest holds at rest: the maximum of its dynamic range."""
        return {guest: max_kib for guest, (_, max_kib) in self.ranges_kib().items()}

    def range_to_reserve_kib(self) -> tuple[int, int]:
        """A range of memory that guests at rest can free, and only all of them together."""
        usable_kib = self.usable_kib()
        squeezable_kib = sum(max_kib - min_kib for min_kib, max_kib in self.ranges_kib().values())
        return (
            _whole_mib(usable_kib + squeezable_kib * 2 // 5),
            _whole_mib(usable_kib + squeezable_kib * 3 // 5),
        )

    def reserve(self, min_kib: int, max_kib: int) -> Reservation:
        """Reserve memory, to be deleted by the check or before the next one that needs rest."""
        reservation = self.client().reserve_range(min_kib, max_kib)
        self.reserved.append(reservation)
        return reservation

    def settle(self, min_kib: int, max_kib: int) -> Settlement:
        """Reserve memory and tell where that left the host."""
        return Settlement(min_kib, max_kib, self.reserve(min_kib, max_kib), self.targets_kib())

    def delete(self, reservation: Reservation) -> None:
        """Delete a reservation."""
        self.client().delete_reservation(reservation)
        self.reserved.remove(reservation)

    def delete_all(self) -> None:
        """Delete the reservations that are left."""
        for reservation in tuple(self.reserved):
            self.delete(reservation)

    def targets_kib(self) -> dict[Guest, int]:
        """What xenstore asks each guest to hold now."""
        return {guest: guest.target_kib() for guest in self.guests}

    def limits(self) -> dict[Guest, Limits]:
        """The limits in the VM record of each guest."""
        by_domid = self.client().limits_by_domid()
        missing = [guest.name for guest in self.guests if guest.domid not in by_domid]
        if missing:
            raise CheckError(f"no VM record for {', '.join(missing)}")
        return {guest: by_domid[guest.domid] for guest in self.guests}


def _whole_mib(size_kib: int) -> int:
    return size_kib // KIB_PER_MIB * KIB_PER_MIB
