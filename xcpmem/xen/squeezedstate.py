"""squeezed's own reservations in xenstore, read only.

``/squeezed/state/<service>/<id>`` holds the KiB and, once transferred, ``in-transfer`` below it the domid. A
service whose name we would not keep as it is (`refs.service_owner`) is left to squeezed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from xcpmem.engine.model import Reservation
from xcpmem.refs import service_of, service_owner
from xcpmem.xen import paths
from xcpmem.xen.domainkeys import read_size_kib

if TYPE_CHECKING:
    from xcpmem.xen.xenstore import Xenstore


async def squeezed_reservations(xenstore: Xenstore) -> list[Reservation]:
    """Read what squeezed has reserved, with owners as we name them; what is no size is left out.

    Raises:
        DriverError: xenstored does not answer.
    """
    found = []
    for service in await xenstore.list(paths.squeezed_reservations()):
        owner = service_owner(service)
        if service_of(owner) != service:
            continue
        names = await xenstore.list(paths.squeezed_reservations_of(service))
        sizes = await xenstore.read_many([paths.squeezed_reservation(service, name) for name in names])
        marks = await xenstore.read_many([paths.squeezed_in_transfer(service, name) for name in names])
        found += [
            Reservation(name, owner, size_kib, read_size_kib(mark))
            for name, size, mark in zip(names, sizes, marks, strict=True)
            if (size_kib := read_size_kib(size)) is not None
        ]
    return found
