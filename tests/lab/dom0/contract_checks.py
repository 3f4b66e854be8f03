"""The contract suite of the host port, on real Xen: the laws that the simulated hosts keep as well."""

from __future__ import annotations

import asyncio
import traceback
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tests.contract.host_laws import LAWS
from tests.lab.dom0 import report
from tests.lab.dom0.guests import wait_at_targets
from tests.lab.dom0.host import INACCURACY_KIB, KIB_PER_MIB
from tests.lab.dom0.report import require
from xcpmem.xen.hypervisor import open_hypervisor
from xcpmem.xen.live import LiveDriver
from xcpmem.xen.xenstore import Xenstore

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.lab.dom0.lab import Lab
    from xcpmem.xen.driver import HostDriver

XENSTORED_SOCKET: Final = "/run/xenstored/socket"
SLUSH_KIB: Final = 72 * KIB_PER_MIB
LAW_DEADLINE_S: Final = 60


@dataclass(frozen=True, slots=True)
class RealWorld:
    """The emulated host, as the laws want it described."""

    domids: Sequence[int]
    step_kib: int = 64 * KIB_PER_MIB
    patience_s: float = 30.0
    inaccuracy_kib: int = INACCURACY_KIB

    async def open(self) -> HostDriver:
        """Open one more driver on the host."""
        driver = LiveDriver(Xenstore(XENSTORED_SOCKET), open_hypervisor(), slush_kib=SLUSH_KIB)
        await driver.start()
        return driver


def host_port_keeps_its_contract(lab: Lab) -> str:
    """Every law of tests/contract holds. No daemon runs, which would put its own targets back."""
    if lab.daemon.is_running:
        lab.daemon.stop()
    targets_kib = lab.targets_kib()
    wait_at_targets(lab.hypervisor, targets_kib)
    world = RealWorld(domids=[guest.domid for guest in lab.guests])
    broken = []
    for law in LAWS:
        try:
            asyncio.run(asyncio.wait_for(law(world), LAW_DEADLINE_S))
        except Exception as error:  # noqa: BLE001 - the next law is still tried
            broken.append(f"{law.__name__} ({type(error).__name__}: {error})")
            report.log(f"{law.__name__}\n{traceback.format_exc(limit=-3)}")
    require(not broken, f"all laws hold, but {len(broken)} of {len(LAWS)} are broken: {'; '.join(broken)}")
    require(
        lab.targets_kib() == targets_kib, f"the laws leave targets at {targets_kib}, not {lab.targets_kib()}"
    )
    return f"{len(LAWS)} laws"
