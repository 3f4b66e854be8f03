"""What dying domains still hold: pages that Xen takes back bit by bit, or that somebody else keeps from it.

Xen gives a dying domain no page more, whatever its maxmem, so it costs what it holds and nothing beyond. Its
pages come back to the reservation that is for it, if there is one, or else to everybody. A domain of which a
backend keeps some pages mapped (a zombie) dies for ever: what it holds is no longer waited for.

Xen calls a domain dying when it has taken back all pages that nobody keeps. Until then one that is being
destroyed costs what it might still take, and all of that is waited for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from xcpmem.engine.belief import Caution
    from xcpmem.engine.model import DomainState, HostState, Reservation


class Remains(NamedTuple):
    """How reservations and dying domains stand to each other, sizes KiB.

    Args:
        reserved_kib: what is reserved and no domain accounts for: a living one does for all of what is
            reserved for it, a dying one for the pages that it still holds, if the reservation passed to it or
            to a domain of its VM: what was set aside since is not made of them.
        left_kib: by domid, what each dying domain holds beyond what is reserved for it.
    """

    reserved_kib: int
    left_kib: Mapping[int, int]

    @classmethod
    def of(cls, domains: Sequence[DomainState], reservations: Iterable[Reservation]) -> Remains:
        """Count; no page of a dying domain counts for two reservations."""
        dying = [domain for domain in domains if domain.is_dying]
        living = [domain for domain in domains if not domain.is_dying] if dying else domains
        domids, uuids = {domain.domid for domain in living}, {domain.uuid for domain in living}
        left_kib = {domain.domid: domain.actual_kib for domain in dying}
        reserved_kib = 0
        for reservation in reservations:
            if reservation.domid in domids or reservation.vm_uuid in uuids:
                continue
            open_kib = reservation.size_kib
            for domain in dying:
                if reservation.domid is not None and reservation.is_for(domain):
                    back_kib = min(left_kib[domain.domid], open_kib)
                    left_kib[domain.domid] -= back_kib
                    open_kib -= back_kib
            reserved_kib += open_kib
        return cls(reserved_kib, left_kib)


class Decay(NamedTuple):
    """How a dying domain gives its pages back.

    Args:
        uuid: whose domain it is: a domid may be used again.
        held_kib: what it held at the last look.
        since_s: since when it holds that, monotonic seconds.
    """

    uuid: str
    held_kib: int
    since_s: float

    def goes_on(self, now_s: float, caution: Caution) -> bool:
        """Tell whether its pages are still coming: some came within a guest's patience.

        All time counts, also such as nobody looked in: a domain does not die more slowly for that.
        """
        return now_s - self.since_s <= caution.patience_s


def watch_decay(
    before: Mapping[int, Decay], domains: Iterable[DomainState], now_s: float
) -> Mapping[int, Decay]:
    """Follow the domains that are dying or will be in a moment, by domid.

    Args:
        before: as this said at the last look.
        domains: as seen; those that live on are none of its concern.
        now_s: monotonic seconds.
    """
    decays = {}
    for domain in domains:
        if domain.is_dying or domain.is_ending:
            now = Decay(domain.uuid, domain.actual_kib, now_s)
            then = before.get(domain.domid, now)
            is_still = (then.uuid, then.held_kib) == (now.uuid, now.held_kib)
            decays[domain.domid] = then if is_still else now
    return decays


def returning_kib(host: HostState, decays: Mapping[int, Decay], now_s: float, caution: Caution) -> int:
    """Count what dying domains, and those that will be, are about to give back to everybody, KiB.

    Args:
        host: as seen.
        decays: of these domains, as `watch_decay` followed them up to this look.
        now_s: monotonic seconds.
        caution: how long one may give nothing until its pages are no longer counted.
    """
    coming = {domid for domid, decay in decays.items() if decay.goes_on(now_s, caution)}
    if not coming:
        return 0
    left_kib = Remains.of(host.domains, host.reservations).left_kib
    return sum(
        left_kib[domain.domid] if domain.is_dying else _unkept_kib(domain, host)
        for domain in host.domains
        if domain.domid in coming
    )


def _unkept_kib(domain: DomainState, host: HostState) -> int:
    """Tell what a domain that is being destroyed costs beyond what is kept for the next one of its VM."""
    kept_kib = sum(each.size_kib for each in host.reservations if each.vm_uuid == domain.uuid)
    return max(0, domain.held_kib - kept_kib)
