"""What guests say of their own memory: text from strangers, read now and then and never waited for.

Nobody is woken by it: a guest that writes without end costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from xcpmem.xen import paths
from xcpmem.xen.domainkeys import read_size_kib

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from xcpmem.xen.xenstore import Xenstore

READ_EVERY_S: Final = 10.0
"""Agents report every 60 to 120 s; more often than this there is nothing new to read."""


class GuestReports:
    """Free memory inside each guest, as its agent last said in ``data/meminfo_free``.

    Args:
        xenstore: where to read.
    """

    def __init__(self, xenstore: Xenstore) -> None:
        self._xenstore = xenstore
        self._read_s: float | None = None
        self._free_kib: Mapping[int, int] = {}

    async def free_kib(self, domids: Sequence[int], now_s: float) -> Mapping[int, int]:
        """Tell what is free in each guest that says so.

        Args:
            domids: the domains that exist now.
            now_s: monotonic seconds.

        Returns:
            KiB by domid, at most `READ_EVERY_S` old; what is no size is left out.

        Raises:
            DriverError: xenstored does not answer.
        """
        if domids and (self._read_s is None or now_s - self._read_s >= READ_EVERY_S):
            values = await self._xenstore.read_many([paths.meminfo_free(domid) for domid in domids])
            sizes = zip(domids, map(read_size_kib, values), strict=True)
            self._free_kib = {domid: size_kib for domid, size_kib in sizes if size_kib is not None}
            self._read_s = now_s
        return self._free_kib
