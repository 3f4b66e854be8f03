"""Sessions: who is logged in, since when, and what ends with them.

A session's reference is a secret: whoever has it is logged in. It is made of 122 random bits, never
logged, and never used as a name for anything that others may see; reservations belong to the session's
uuid instead. Sessions live in memory: a restart of the daemon ends them all, clients log in again.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import time
from collections import Counter, OrderedDict
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from ipaddress import IPv4Address, ip_address, ip_network
from typing import TYPE_CHECKING, Final
from uuid import UUID

from xcpmem.api.brake import GuessBrake
from xcpmem.api.passwords import POOL_ADMIN, hash_password
from xcpmem.api.presence import Presence
from xcpmem.errors import AuthenticationFailed, SessionInvalid, XcpmemError
from xcpmem.readers import is_loopback
from xcpmem.users import LOGIN_REFUSED, LONGEST_NAME, ROOT

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from xcpmem.api.passwords import Authenticator

IDLE_LIMIT_S: Final = 24 * 60 * 60.0
WRONG_PASSWORD_DELAY_S: Final = 5.0
_LONGEST_ORIGINATOR: Final = 256
_IPV6_SUBSCRIBER: Final = 64  # one subscriber's addresses share so many bits (RFC 6177)
_DEFAULT_GROUP: Final = ("default", "")
_ADDRESSES_KEPT: Final = 1024  # as many as a listener has connections

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Peer:
    """The other end of a connection.

    Args:
        address: for logs; ``unix`` for a Unix socket.
        uid: the user at the other end of a Unix socket, as the kernel tells; None on a network.
        presence: whether it is still there.
    """

    address: str
    uid: int | None = None
    presence: Presence = field(default_factory=Presence, repr=False, compare=False)

    @property
    def is_trusted(self) -> bool:
        """Whether it needs no password: root, or the daemon's own user, on the same machine."""
        return self.uid is not None and self.uid in {0, os.getuid()}

    @property
    def is_on_this_machine(self) -> bool:
        """Whether it came over the Unix socket or from loopback."""
        return self.uid is not None or is_loopback(self.address)

    @property
    def where(self) -> str:
        """The address, for people; of a Unix socket with the user at its other end."""
        return self.address if self.uid is None else f"{self.address} uid {self.uid}"

    @property
    def source(self) -> str:
        """What its guesses at passwords are counted under: a user, an IPv4 address or an IPv6 /64."""
        return _source_of(self.address) if self.uid is None else f"uid {self.uid}"


@lru_cache(_ADDRESSES_KEPT)
def _source_of(address: str) -> str:
    try:
        ip = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(ip, IPv4Address) or ip.ipv4_mapped is not None:
        return str(getattr(ip, "ipv4_mapped", None) or ip)
    return str(ip_network((ip, _IPV6_SUBSCRIBER), strict=False))


@dataclass(slots=True, eq=False)
class Session:
    """One login.

    Args:
        ref: the secret reference that clients send.
        uuid: the public name.
        uname: as given at login.
        originator: the client's name for itself, or empty.
        role: one of XenAPI's.
        group: sessions of one group share a limit.
        login_time: when it was opened.
        last_active: when it was last used.
        last_active_s: the same on the monotonic clock, seconds.
        is_local_superuser: whether it is root's, by password or by the Unix socket.
        source: where it was opened from; see `Peer.source`.
    """

    ref: str = field(repr=False)
    uuid: str
    uname: str
    originator: str
    role: str
    group: tuple[str, str]
    login_time: datetime
    last_active: datetime
    last_active_s: float
    is_local_superuser: bool = False
    source: str = ""

    @property
    def user(self) -> str:
        """Whose session it is; on the Unix socket anybody may log in by any name, and is root."""
        return ROOT if self.is_local_superuser else self.uname


@dataclass(frozen=True, slots=True)
class SessionLimits:
    """How many sessions there may be; above, the least recently used one of the same group ends.

    Args:
        default_group: of clients that give no originator (xapi: 400).
        per_originator: of clients that give the same one (xapi: 500).
        total: of all; an originator is whatever a client says it is.
    """

    default_group: int = 400
    per_originator: int = 500
    total: int = 5000


@dataclass(frozen=True, slots=True)
class SessionClock:
    """What sessions know of time; tests bring their own.

    Args:
        monotonic_s: seconds, never set back.
        now: the time of day.
        sleep: waits so many seconds.
    """

    monotonic_s: Callable[[], float] = time.monotonic
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep


class Sessions:
    """All open sessions.

    Args:
        authenticator: knows users and passwords.
        release: called with a session's uuid when it has ended; gives back what it owned.
        limits: how many.
        clock: the time.
        idle_limit_s: an unused session ends after so many seconds (xapi: 24 h).
        wrong_password_delay_s: how long a failed login waits for its answer (xapi: 5 s).
    """

    def __init__(
        self,
        authenticator: Authenticator,
        release: Callable[[str], Awaitable[None]],
        *,
        limits: SessionLimits | None = None,
        clock: SessionClock | None = None,
        idle_limit_s: float = IDLE_LIMIT_S,
        wrong_password_delay_s: float = WRONG_PASSWORD_DELAY_S,
    ) -> None:
        self._authenticator = authenticator
        self._release = release
        self._limits = limits or SessionLimits()
        self._clock = clock or SessionClock()
        self._idle_limit_s = idle_limit_s
        self._wrong_password_delay_s = wrong_password_delay_s
        self._by_ref: OrderedDict[str, Session] = OrderedDict()  # the least recently used one first
        self._by_uuid: dict[str, Session] = {}
        self._group_sizes: Counter[tuple[str, str]] = Counter()
        self._source_sizes: Counter[str] = Counter()
        self._revocations: Counter[str] = Counter()
        self._brake = GuessBrake(self._clock.monotonic_s, self._clock.sleep)
        self._expiry: asyncio.TimerHandle | None = None
        self._releases: set[asyncio.Task[None]] = set()
        self._listeners: list[Callable[[Session], None]] = []
        self.login_failures = 0

    def __len__(self) -> int:
        return len(self._by_ref)

    async def login(self, uname: str, pwd: str, peer: Peer, originator: str = "") -> Session:
        """Open a session; a trusted peer is root, whatever user and password it gives.

        Raises:
            AuthenticationFailed: wrong user or password, told after a delay.
        """
        role = POOL_ADMIN if peer.is_trusted else await self.authenticate(uname, pwd, peer)
        originator = originator[:_LONGEST_ORIGINATOR]
        now, now_s = self._clock.now(), self._clock.monotonic_s()
        session = Session(
            ref=f"OpaqueRef:{_random_uuid()}",
            uuid=_random_uuid(),
            uname=uname,
            originator=originator,
            role=role,
            group=_group(uname, originator),
            login_time=now,
            last_active=now,
            last_active_s=now_s,
            is_local_superuser=peer.is_trusted or uname == ROOT,
            source=peer.source,
        )
        self.expire()
        self._make_room(session.group)
        self._by_ref[session.ref] = self._by_uuid[session.uuid] = session
        self._group_sizes[session.group] += 1
        self._source_sizes[session.source] += 1
        self._watch_expiry()
        _log.info(
            "%s logged in from %s",
            session.user,
            peer.where,
            extra={"user": uname, "from": peer.address, "originator": originator, "session": session.uuid},
        )
        return session

    async def authenticate(self, uname: str, pwd: str, peer: Peer) -> str:
        """Give the role of a user whose password is right; see `GuessBrake` for how long that may take.

        Raises:
            AuthenticationFailed: wrong user or password, told after a delay.
        """
        source, revocations = peer.source, self._revocations[uname]
        role = None
        if await self._brake.wait(source, uname):
            role = await self._brake.compare(
                source, uname, lambda: self._authenticator.authenticate(uname, pwd)
            )
            if role is None:
                self._brake.note_wrong(uname)
                self.login_failures += 1
                claimed = uname[:LONGEST_NAME]
                _log.warning(
                    "login as %r from %s was refused: wrong user or password",
                    claimed,
                    peer.where,
                    extra={"user": claimed, "from": peer.address},
                )
                await self._clock.sleep(self._wrong_password_delay_s)
        if role is None or self._revocations[uname] != revocations:
            raise AuthenticationFailed(uname, LOGIN_REFUSED)
        self._brake.note_right(source, uname)
        return role

    async def hash(self, pwd: str) -> str:
        """Hash a password for keeping, off the loop and in turn with the comparisons."""
        return await self._brake.compare("", "", lambda: hash_password(pwd))

    def find(self, ref: str) -> Session:
        """Find an open session and note that it was used.

        Raises:
            SessionInvalid: there is none, or it has expired.
        """
        session = self._by_ref.get(ref)
        now_s = self._clock.monotonic_s()
        if session is not None and now_s - session.last_active_s >= self._idle_limit_s:
            self.expire()
            session = None
        if session is None:
            raise SessionInvalid(ref)
        session.last_active, session.last_active_s = self._clock.now(), now_s
        self._by_ref.move_to_end(ref)
        return session

    def peek(self, ref: str) -> Session | None:
        """Find an open session without using it, or None."""
        return self._by_ref.get(ref)

    def find_by_uuid(self, uuid: str) -> Session | None:
        """Find an open session by its public name without using it, or None."""
        return self._by_uuid.get(uuid)

    def is_open(self, uuid: str) -> bool:
        """Tell whether the owner of that public name is a session that still lives."""
        return uuid in self._by_uuid

    def has_source(self, source: str) -> bool:
        """Tell whether any open session was opened from there."""
        return source in self._source_sizes

    def on_end(self, callback: Callable[[Session], None]) -> None:
        """Call back, in the loop, with each session that ends, however it ends."""
        self._listeners.append(callback)

    async def logout(self, session: Session) -> None:
        """End a session; return when what it owned has been given back."""
        if session.ref in self._by_ref:
            self._forget(session)
            await self._give_back(session)

    def end_all_of(self, uname: str, *, but: Session | None = None) -> None:
        """End a user's sessions, whose rights or password have changed; logins under way come to nothing."""
        self._revocations[uname] += 1
        for session in [s for s in self._by_ref.values() if s.uname == uname and not s.is_local_superuser]:
            if session is not but:
                self._end(session, "the user was changed")

    def expire(self) -> None:
        """End the sessions that have been idle for too long."""
        oldest_s = self._clock.monotonic_s() - self._idle_limit_s
        while self._by_ref and next(iter(self._by_ref.values())).last_active_s <= oldest_s:
            self._end(next(iter(self._by_ref.values())), "idle for too long")

    async def close(self) -> None:
        """Stop watching for expiry and let releases that are under way finish; sessions stay as they are."""
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None
        if self._releases:
            await asyncio.wait(self._releases)

    def _make_room(self, group: tuple[str, str]) -> None:
        limit = self._limits.default_group if group == _DEFAULT_GROUP else self._limits.per_originator
        if self._group_sizes[group] >= limit:
            self._end(next(s for s in self._by_ref.values() if s.group == group), "too many of its group")
        if len(self._by_ref) >= self._limits.total:
            self._end(next(iter(self._by_ref.values())), "too many sessions")

    def _end(self, session: Session, why: str) -> None:
        self._forget(session)
        _log.info(
            "session %s of %s ended: %s",
            session.uuid,
            session.user,
            why,
            extra={"why": why, "user": session.uname, "session": session.uuid},
        )
        task = asyncio.ensure_future(self._give_back(session))
        self._releases.add(task)
        task.add_done_callback(self._releases.discard)

    def _forget(self, session: Session) -> None:
        del self._by_ref[session.ref], self._by_uuid[session.uuid]
        self._group_sizes[session.group] -= 1
        if not self._group_sizes[session.group]:
            del self._group_sizes[session.group]
        self._source_sizes[session.source] -= 1
        if not self._source_sizes[session.source]:
            del self._source_sizes[session.source]
        for callback in self._listeners:
            callback(session)

    async def _give_back(self, session: Session) -> None:
        try:
            await self._release(session.uuid)
        except XcpmemError as error:
            _log.warning(
                "what session %s of %s had reserved could not be given back: %s",
                session.uuid,
                session.user,
                error,
                extra={"session": session.uuid, "user": session.uname, "why": error},
            )

    def _watch_expiry(self) -> None:
        """Be called when the session that has been idle longest reaches the limit."""
        if self._expiry is None and self._by_ref:
            idle_s = self._clock.monotonic_s() - next(iter(self._by_ref.values())).last_active_s
            self._expiry = asyncio.get_running_loop().call_later(self._idle_limit_s - idle_s, self._on_expiry)

    def _on_expiry(self) -> None:
        self._expiry = None
        self.expire()
        self._watch_expiry()


def _group(uname: str, originator: str) -> tuple[str, str]:
    """Tell which sessions share a limit: those of an originator, else of a user, root being the default."""
    if originator:
        return ("originator", originator)
    return _DEFAULT_GROUP if uname == ROOT else ("user", uname)


def _random_uuid() -> str:
    return str(UUID(bytes=secrets.token_bytes(16), version=4))
