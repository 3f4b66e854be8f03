"""``event.from`` and its older sister ``event.next``: calls that wait until something has happened.

A token is the number of the last change that a client knows; the journal tells what came after it. Who
waits costs a future and a timer, and nothing else until an object changes that it asked for. Nothing is
followed before the first client asks. All who ask for the same get the same answer, encoded once.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from xcpmem.api.feed import Feed, followed_classes
from xcpmem.api.journal import EVERYTHING, Journal, Subscription, keys_of
from xcpmem.api.values import Record, parse_int64
from xcpmem.errors import (
    ConnectionLost,
    EventsLost,
    EventTokenInvalid,
    HandleInvalid,
    SessionInvalid,
    SessionNotRegistered,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence

    from xcpmem.api.dispatch import Caller, Handler
    from xcpmem.api.feed import Timer, Watched
    from xcpmem.api.journal import Change
    from xcpmem.api.records import Records
    from xcpmem.api.sessions import Session, Sessions
    from xcpmem.api.tasks import Tasks

BATCH_S: Final = 0.05
"""After the first change ``event.from`` waits so long for others (xapi); for tasks alone not at all."""

LONGEST_WAIT_S: Final = 3600.0
"""Who is ready to wait longer gets an empty answer, and asks again."""

NEXT_WAIT_S: Final = 60.0
"""``event.next`` has no timeout of its own: after so long it answers that nothing happened."""

ANSWERS_KEPT: Final = 16
"""So many different answers are kept for others who ask for the same, until the next change."""

_MICROSECONDS_PER_S: Final = 1_000_000


def _call_later(delay_s: float, callback: Callable[[], None]) -> asyncio.TimerHandle:
    return asyncio.get_running_loop().call_later(delay_s, callback)


@dataclass(frozen=True, slots=True)
class EventClock:
    """What events know of time; tests bring their own.

    Args:
        now_s: Unix time, seconds; the first token is made of it, so that it is later than those of a daemon
            that ended before.
        monotonic_s: seconds, never set back.
        sleep: waits so many seconds.
        call_later: calls back after so many seconds.
    """

    now_s: Callable[[], float] = time.time
    monotonic_s: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    call_later: Callable[[float, Callable[[], None]], Timer] = _call_later


@dataclass(slots=True)
class _Registration:
    """What a session wants of ``event.next``, and the last change that it was told of."""

    known: int
    wanted: Subscription = field(default_factory=Subscription)


class Events:
    """Who waits for what.

    Args:
        watched: the VMs, the host and the pool.
        tasks: all of them.
        records: make the snapshots.
        sessions: whose end ends their calls.
        clock: the time.
    """

    def __init__(
        self,
        watched: Watched,
        tasks: Tasks,
        records: Records,
        sessions: Sessions,
        clock: EventClock | None = None,
    ) -> None:
        self._clock = clock or EventClock()
        self._records = records
        self._sessions = sessions
        generation = int(self._clock.now_s() * _MICROSECONDS_PER_S)
        self._journal = Journal(followed_classes(), generation, self._clock.now_s, self._tell)
        self._feed = Feed(
            watched,
            tasks,
            records,
            self._journal,
            monotonic_s=self._clock.monotonic_s,
            call_later=self._clock.call_later,
        )
        self._waiting: dict[str, set[asyncio.Future[bool]]] = {}
        self._alarms: set[asyncio.Task[None]] = set()
        self._registrations: dict[str, _Registration] = {}
        self._answers: dict[tuple[Subscription, int], Record] = {}
        self._is_closed = False
        sessions.on_end(self._end_session)

    async def wait_from(self, caller: Caller, classes: Iterable[str], token: str, timeout_s: float) -> Record:
        """Serve ``event.from``.

        Args:
            caller: the end of whose session or connection ends the call.
            classes: ``*``, classes in any case, or ``class/reference``.
            token: of the last answer, or empty for everything there is.
            timeout_s: how long to wait if nothing has happened yet; at most `LONGEST_WAIT_S`.

        Returns:
            ``events``, ``valid_ref_counts`` and ``token``.

        Raises:
            EventTokenInvalid: the token is none.
            SubscriptionInvalid: a class is none.
            InvalidValue: they are too many.
            SessionInvalid: the session ended meanwhile.
            ConnectionLost: the daemon ends, or the client hung up.
        """
        known = self._read_token(token)
        subscription = Subscription.parse(classes)
        self._open()
        deadline_s = asyncio.get_running_loop().time() + min(max(timeout_s, 0.0), LONGEST_WAIT_S)
        is_patient = not subscription.is_task_only
        keys = tuple(_patient_key(key) if is_patient else key for key in subscription.keys)
        while not (answer := self._answer(known, subscription))["events"]:
            if not await self._wait(caller, keys, deadline_s):
                return self._answer(known, subscription)
        return answer

    def inject(self, class_name: str, ref: str) -> str:
        """Serve ``event.inject``: pretend that an object changed; the token of the moment before.

        Args:
            class_name: XenAPI's spelling.
            ref: of the object.

        Raises:
            HandleInvalid: no object of the class has the reference.
        """
        self._open()
        if not self._journal.knows(class_name, ref):
            raise HandleInvalid(class_name, ref)
        token = self._token()
        self._journal.put(class_name, ref)
        return token

    def next_id(self) -> int:
        """Serve ``event.get_current_id``: the number of the next change."""
        return self._journal.generation + 1

    def register(self, session: Session, classes: Iterable[str]) -> None:
        """Serve ``event.register``. Raises as `Subscription.parse`, of all together."""
        keys = Subscription.parse(classes).keys
        registration = self._registration(session)
        registration.wanted = Subscription(registration.wanted.keys | keys)
        self._wake(_session_key(session))  # calls that wait already are to wait for these too

    def unregister(self, session: Session, classes: Iterable[str]) -> None:
        """Serve ``event.unregister``. Raises as `Subscription.parse`."""
        keys = Subscription.parse(classes).keys
        registration = self._registration(session)
        registration.wanted = Subscription(registration.wanted.keys - keys)

    async def wait_next(self, caller: Caller) -> tuple[dict[str, object], ...]:
        """Serve ``event.next``: what happened since the last call, nothing after `NEXT_WAIT_S`.

        Raises:
            SessionNotRegistered: before ``event.register``.
            EventsLost: too much happened since the last call; from now on all is told again.
            SessionInvalid: the session ended meanwhile.
            ConnectionLost: the daemon ends, or the client hung up; the events are left for another call.
        """
        session = caller.owner
        registration = self._registrations.get(session.uuid)
        if registration is None:
            raise SessionNotRegistered(session.ref)
        deadline_s = asyncio.get_running_loop().time() + NEXT_WAIT_S
        while True:
            known, registration.known = registration.known, self._journal.generation
            if known < self._journal.forgotten:
                raise EventsLost
            changes = self._journal.since(known, registration.wanted)
            events = tuple(self._events(changes, is_legacy=True))
            if events or not await self._wait(caller, registration.wanted.keys, deadline_s):
                return events

    def close(self) -> None:
        """Follow nothing any more, and tell all who wait that the daemon ends."""
        self._is_closed = True
        self._feed.close()
        for alarm in self._alarms:
            alarm.cancel()
        self._wake(*self._waiting)

    def _open(self) -> None:
        if self._is_closed:
            raise ConnectionLost
        if not self._feed.is_open:
            self._feed.open()

    def _registration(self, session: Session) -> _Registration:
        self._open()
        return self._registrations.setdefault(session.uuid, _Registration(self._journal.generation))

    def _read_token(self, token: str) -> int:
        """Read the number of a token; one that is yet to come is of a daemon whose clock went wrong."""
        if not token:
            return EVERYTHING
        try:
            known, _ = (parse_int64(part) for part in token.split(","))
        except ValueError as error:
            raise EventTokenInvalid(token) from error
        return known if 0 < known <= self._journal.generation else EVERYTHING

    def _token(self) -> str:
        return f"{self._journal.generation:020d},{0:020d}"

    def _answer(self, known: int, subscription: Subscription) -> Record:
        """Make the answer, or give the one that was made for others since the last change."""
        key = (subscription, known)
        answer = self._answers.get(key)
        if answer is None:
            changes = self._journal.since(known, subscription)
            answer = Record(
                {
                    "events": tuple(self._events(changes)),
                    "valid_ref_counts": self._journal.counts,
                    "token": self._token(),
                }
            )
            if len(self._answers) >= ANSWERS_KEPT:
                self._answers.clear()
            self._answers[key] = answer
        return answer

    def _events(self, changes: Sequence[Change], *, is_legacy: bool = False) -> Iterator[dict[str, object]]:
        for change in changes:
            event: dict[str, object] = {
                "id": str(change.generation),
                "timestamp": repr(change.time_s) if is_legacy else "0.0",
                "class": change.class_name.lower(),
                "operation": change.operation,
                "ref": change.ref,
            }
            if change.operation != "del":
                try:
                    event["snapshot"] = self._records.record(change.class_name, change.ref)
                except HandleInvalid:
                    continue  # it has just gone, and the event of that is the next one
            yield event

    async def _wait(self, caller: Caller, keys: Iterable[str], deadline_s: float) -> bool:
        """Wait until something changes that is wanted; False when the time is over."""
        loop = asyncio.get_running_loop()
        woken: asyncio.Future[bool] = loop.create_future()
        timer = loop.call_at(deadline_s, _settle, woken, False)
        keys = (*keys, _session_key(caller.owner))
        for key in keys:
            self._waiting.setdefault(key, set()).add(woken)
        presence = caller.peer.presence
        presence.watch(woken)
        try:
            has_changed = await woken
        finally:
            timer.cancel()
            presence.forget(woken)
            self._forget(woken, keys)
        if has_changed:
            self._check(caller)
        return has_changed

    def _forget(self, woken: asyncio.Future[bool], keys: Iterable[str]) -> None:
        """Let somebody wait under keys no more."""
        for key in keys:
            waiting = self._waiting.get(key)
            if waiting is not None:
                waiting.discard(woken)
                if not waiting:
                    del self._waiting[key]

    def _check(self, caller: Caller) -> None:
        """Go on with a call only if it still can be answered."""
        if self._is_closed:
            raise ConnectionLost
        caller.peer.presence.require()
        if not self._sessions.is_open(caller.owner.uuid):
            raise SessionInvalid(caller.owner.ref)

    def _tell(self, class_name: str, ref: str) -> None:
        self._answers.clear()
        keys = keys_of(class_name, ref)
        self._wake(*keys)
        if patient := [woken for key in keys for woken in self._waiting.pop(_patient_key(key), ())]:
            alarm = asyncio.create_task(self._wake_later(patient))
            self._alarms.add(alarm)
            alarm.add_done_callback(self._alarms.discard)

    async def _wake_later(self, patient: Iterable[asyncio.Future[bool]]) -> None:
        """Wake all together who know of a first change, when others have had time to follow it."""
        await self._clock.sleep(BATCH_S)
        _wake_all(patient)

    def _wake(self, *keys: str) -> None:
        for key in keys:
            _wake_all(self._waiting.pop(key, ()))

    def _end_session(self, session: Session) -> None:
        self._registrations.pop(session.uuid, None)
        self._wake(_session_key(session))


def _wake_all(waiting: Iterable[asyncio.Future[bool]]) -> None:
    for woken in waiting:
        _settle(woken, True)


def _settle(woken: asyncio.Future[bool], has_changed: bool) -> None:
    """Let somebody go on, knowing whether something has changed."""
    if not woken.done():
        woken.set_result(has_changed)


def _patient_key(key: str) -> str:
    """Give the key under which those wait who let `BATCH_S` pass after the first change."""
    return f"~{key}"


def _session_key(session: Session) -> str:
    """Give the key under which all calls of a session wait; no class is called so."""
    return f"@{session.uuid}"


class EventMethods:
    """The messages of class event.

    Args:
        events: who waits for what.
    """

    def __init__(self, events: Events) -> None:
        self._events = events

    def handlers(self) -> dict[str, Handler]:
        """Give the handlers by ``Class.message``."""
        return {
            "event.from": self._from,
            "event.inject": self._inject,
            "event.register": self._register,
            "event.unregister": self._unregister,
            "event.next": self._next,
            "event.get_current_id": self._get_current_id,
        }

    async def _from(self, caller: Caller, classes: Iterable[str], token: str, timeout_s: float) -> Record:
        return await self._events.wait_from(caller, classes, token, timeout_s)

    async def _inject(self, _: Caller, class_name: str, ref: str) -> str:
        return self._events.inject(class_name, ref)

    async def _register(self, caller: Caller, classes: Iterable[str]) -> None:
        self._events.register(caller.owner, classes)

    async def _unregister(self, caller: Caller, classes: Iterable[str]) -> None:
        self._events.unregister(caller.owner, classes)

    async def _next(self, caller: Caller) -> tuple[dict[str, object], ...]:
        return await self._events.wait_next(caller)

    async def _get_current_id(self, _: Caller) -> int:
        return self._events.next_id()
