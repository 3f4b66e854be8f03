"""Domain 0 as one of the balanced: only where an administrator asked for it.

Nobody writes domain 0's range to xenstore, so the daemon does, as squeezed does with ``manage-domain-zero``.
Xen's maxmem of domain 0 is the boot option's and is never changed; what counts is its target.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from xcpmem.errors import DomainVanished, InvalidValue
from xcpmem.xen import paths
from xcpmem.xen.domainkeys import read_size_kib

if TYPE_CHECKING:
    from xcpmem.xen.hypervisor import DomainInfo
    from xcpmem.xen.xenstore import Xenstore

DOMAIN_ZERO: Final = 0
CAN_BALLOON: Final = "1"


async def manage_domain_zero(xenstore: Xenstore, info: DomainInfo, floor_kib: int) -> None:
    """Write the keys that make domain 0 a domain like others.

    Args:
        xenstore: connected.
        info: domain 0 as Xen sees it now.
        floor_kib: its dynamic-min (squeezed's default: 1 GiB); its dynamic-max stays what it is, or becomes
            what domain 0 holds now.

    Raises:
        InvalidValue: the floor is above what domain 0 may have.
        DriverError: xenstored does not answer.
    """
    kept = [paths.dynamic_max(DOMAIN_ZERO), paths.target(DOMAIN_ZERO)]
    highest, target = await xenstore.read_many(kept)
    highest_kib = read_size_kib(highest) or info.actual_kib
    if floor_kib > highest_kib:
        raise InvalidValue("domain_zero_dynamic_min_kib", floor_kib)
    target_kib = min(max(read_size_kib(target) or highest_kib, floor_kib), highest_kib)
    keys = {
        paths.dynamic_max(DOMAIN_ZERO): str(highest_kib),
        paths.dynamic_min(DOMAIN_ZERO): str(floor_kib),
        paths.target(DOMAIN_ZERO): str(target_kib),
        paths.feature_balloon(DOMAIN_ZERO): CAN_BALLOON,
    }
    if not await xenstore.write_if_exists(keys, paths.domain(DOMAIN_ZERO)):
        raise DomainVanished("xenstore has no directory for domain 0")
