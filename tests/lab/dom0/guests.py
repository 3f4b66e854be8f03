"""Real PV guests: started with xl, seen through the hypervisor, xenstore and their own MemTotal."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.lab.dom0.host import (
    INACCURACY_KIB,
    KIB_PER_MIB,
    Hypervisor,
    run,
    wait_until,
    xenstore_read,
    xenstore_tree,
    xenstore_write,
)
from tests.lab.dom0.report import require

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

BOOT_DEADLINE_S: Final = 90
BALLOON_DEADLINE_S: Final = 60
MEMORY_KIB: Final = 600 * KIB_PER_MIB
STATIC_MAX_KIB: Final = 800 * KIB_PER_MIB
# The balloon takes whole pages out of MemTotal, and page tables of grown memory stay in the kernel's hand.
MEM_TOTAL_TOLERANCE_KIB: Final = 2 * KIB_PER_MIB

_CONFIG: Final = """
name = "{name}"
type = "pv"
memory = {memory_mib}
maxmem = {maxmem_mib}
vcpus = 1
kernel = "/opt/guest/vmlinux"
ramdisk = "{ramdisk}"
extra = "console=hvc0 quiet psi=1 {kernel_words}"
"""
_ROOT: Final = Path("/opt/guest/guest.cpio.gz")
# Laid over it where a boot's checks want more of their guests; the kernel unpacks one after the other.
_OVERLAY: Final = Path("/opt/guest/needy.cpio.gz")
_RAMDISK: Final = Path("/run/guest.cpio.gz")


@dataclass(frozen=True, slots=True)
class Guest:
    """One running guest."""

    name: str
    domid: int
    uuid: str

    def key(self, name: str) -> str:
        """The path of one of the domain's keys in xenstore."""
        return f"/local/domain/{self.domid}/{name}"

    def memory(self, name: str) -> int:
        """A key below memory/, KiB."""
        return int(xenstore_read(self.key(f"memory/{name}"))[0])

    def target_kib(self) -> int:
        """What the guest is asked to hold."""
        return self.memory("target")

    def mem_total_kib(self) -> int:
        """The MemTotal that the guest's own kernel reports."""
        return int(xenstore_read(self.key("data/lab_memtotal"))[0])

    def xl_list_mib(self) -> int:
        """The column Mem of `xl list`."""
        heading, row = run("xl", "list", self.name).splitlines()
        return int(row.split()[heading.split().index("Mem")])


def start_guests(hypervisor: Hypervisor, names: Sequence[str]) -> tuple[Guest, ...]:
    """Start one guest for each name and wait until every one reports its MemTotal."""
    for name in names:
        create_guest(name, MEMORY_KIB, STATIC_MAX_KIB)
    guests = tuple(find_guest(hypervisor, name) for name in names)
    for guest in guests:
        wait_for_first_report(guest)
    wait_at_targets(hypervisor, dict.fromkeys(guests, MEMORY_KIB))
    return guests


def create_guest(
    name: str, memory_kib: int, static_max_kib: int, kernel_words: str = "", *, paused: bool = False
) -> None:
    """Let xl build a guest; its configuration stays at `config_of` it."""
    if not _RAMDISK.exists():
        _RAMDISK.write_bytes(b"".join(part.read_bytes() for part in (_ROOT, _OVERLAY) if part.exists()))
    config = Path(config_of(name))
    config.write_text(
        _CONFIG.format(
            name=name,
            memory_mib=memory_kib // KIB_PER_MIB,
            maxmem_mib=static_max_kib // KIB_PER_MIB,
            ramdisk=_RAMDISK,
            kernel_words=kernel_words,
        ),
    )
    # -e: no process stays behind to wait for the guest's end.
    run("xl", "create", *(["-p"] if paused else []), "-q", "-e", str(config))


def config_of(name: str) -> str:
    """The path of a guest's configuration for xl."""
    return f"/run/{name}.cfg"


def find_guest(hypervisor: Hypervisor, name: str) -> Guest:
    """The running guest of that name, as it is now: its domid is another one after each start."""
    domid = int(run("xl", "domid", name))
    return Guest(name, domid, hypervisor.domains()[domid].uuid)


def wait_for_first_report(guest: Guest) -> None:
    """Wait until a guest is up: it has said its MemTotal."""
    wait_until(
        lambda: "lab_memtotal" in xenstore_tree(guest.key("data")),
        f"{guest.name} reports its MemTotal",
        BOOT_DEADLINE_S,
        lambda: xenstore_tree(guest.key("memory")),
    )


def write_targets(targets: Mapping[Guest, int]) -> None:
    """Ask guests to hold so much, as an administrator's script would: by plain `xenstore-write`."""
    xenstore_write({guest.key("memory/target"): str(size_kib) for guest, size_kib in targets.items()})


def wait_at_targets(hypervisor: Hypervisor, targets: Mapping[Guest, int]) -> float:
    """Wait until each guest holds what is given for it; return the seconds it took."""

    def distances() -> dict[str, int]:
        domains = hypervisor.domains()
        return {guest.name: domains[guest.domid].mem_kib - size_kib for guest, size_kib in targets.items()}

    return wait_until(
        lambda: all(abs(distance) <= INACCURACY_KIB for distance in distances().values()),
        "guests hold "
        + ", ".join(f"{guest.name} {size_kib}" for guest, size_kib in targets.items())
        + " KiB",
        BALLOON_DEADLINE_S,
        lambda: f"{distances()} KiB beside it",
    )


def wait_for_mem_total(guest: Guest, size_kib: int) -> int:
    """Wait until the guest's own MemTotal is about size_kib; return it exactly."""
    wait_until(
        lambda: abs(guest.mem_total_kib() - size_kib) <= MEM_TOTAL_TOLERANCE_KIB,
        f"{guest.name} sees a MemTotal of about {size_kib} KiB",
        BALLOON_DEADLINE_S,
        guest.mem_total_kib,
    )
    return guest.mem_total_kib()


def require_same_size_in_xl(hypervisor: Hypervisor, guest: Guest) -> None:
    """Require that `xl list` shows the MiB that the hypervisor counts."""
    listed_mib, mem_kib = guest.xl_list_mib(), hypervisor.mem_kib(guest.domid)
    # xl leaves the shared info page and the like in or out by a rounding.
    require(
        abs(listed_mib - mem_kib // KIB_PER_MIB) <= 1,
        f"xl list shows {listed_mib} MiB for {guest.name}, the hypervisor {mem_kib} KiB",
    )
