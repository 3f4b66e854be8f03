"""Work that goes on after its call was answered, and the objects that tell how far it is.

``Async.X.y`` answers with the reference of a task; its client waits for the task's events, reads the result
and destroys it. With ``task.create`` a client makes a task for work of its own and keeps it up to date
itself. Tasks live in memory: the end of the daemon ends the work, and its tasks are gone.
"""

from __future__ import annotations

import asyncio
import logging
from contextvars import copy_context
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

from xcpmem.api import codec, fields
from xcpmem.api.task import CANCELLED, FAILURE, SUCCESS, TEXT_MOST_BYTES, Task, cut
from xcpmem.api.typenames import EPOCH
from xcpmem.errors import (
    HandleInvalid,
    InternalError,
    InvalidValue,
    MapDuplicateKey,
    PermissionDenied,
    TaskCancelled,
    TooBusy,
    XcpmemError,
)
from xcpmem.refs import CURRENT_TASK

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from xcpmem.api.dispatch import Caller, Handler
    from xcpmem.api.sessions import Session
    from xcpmem.api.values import Record

    Work = Callable[[str], Coroutine[Any, Any, object]]

FINISHED_MOST: Final = 200
"""So many finished tasks are kept for whoever has not read them yet (xapi's max_tasks)."""

KEPT: Final = timedelta(hours=24)
"""... for so long; a task on which nobody works is forgotten after the same time, finished or not."""

UNFINISHED_MOST: Final = 1000
"""So many tasks may be under way; more are refused, so that memory stays bounded."""

KEPT_FOR_MASTERS: Final = 200
"""So many of them are kept for those who may end the tasks of others."""

TIDY_S: Final = 3600.0
"""As long as there are tasks, old ones are looked for this often."""

CLOSE_S: Final = 2.0
"""Work that does not end within this time after it was told to is left behind."""

# Of the roles, those that xapi gives the permission "task.destroy/any".
_MASTERS: Final = frozenset({"pool-admin", "pool-operator"})

_log = logging.getLogger(__name__)


class Tasks:
    """All tasks, and the work behind those that have some here.

    Args:
        host_ref: the host that they reside on.
        now: the time of day.
    """

    def __init__(self, host_ref: str, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._host_ref = host_ref
        self._now = now
        self._tasks: dict[str, Task] = {}
        self._finished: dict[str, None] = {}  # the one that finished first comes first
        self._records: dict[str, Record] = {}
        self._work: dict[str, asyncio.Task[object]] = {}
        self._give_up: dict[str, Callable[[], bool]] = {}
        self._listeners: list[Callable[[str], None]] = []
        self._tidying: asyncio.TimerHandle | None = None

    def on_change(self, callback: Callable[[str], None]) -> None:
        """Call back, in the loop, with the reference of each task that is new, changed or gone."""
        self._listeners.append(callback)

    def __contains__(self, ref: object) -> bool:
        return ref in self._tasks

    def refs(self) -> tuple[str, ...]:
        """List the references of all tasks, the oldest first."""
        return tuple(self._tasks)

    def record(self, ref: str) -> Record:
        """Give the record of a task.

        Raises:
            HandleInvalid: there is none of that reference.
        """
        if ref not in self._records:
            self._records[ref] = fields.complete("task", fields.task_fields(self._find(ref), self._host_ref))
        return self._records[ref]

    def create(self, session: Session, label: str, description: str) -> str:
        """Make a task for work that is done elsewhere.

        Returns:
            Its reference.

        Raises:
            InvalidValue: label and description are longer than `TEXT_MOST_BYTES`.
            TooBusy: too many tasks are under way.
        """
        task = Task(str(uuid4()), label, description, session.uname, self._now())
        _check_length(task, 0, "label" if len(label) > len(description) else "description")
        return self._add(session, task)

    def start(self, session: Session, label: str, work: Work) -> str:
        """Begin work that its caller does not wait for; it goes on when the session has ended.

        Args:
            session: whose it is.
            label: the call.
            work: is handed the task's reference; what it returns is the result, and an XcpmemError that it
                raises is the task's.

        Returns:
            The task's reference.

        Raises:
            TooBusy: too many tasks are under way.
        """
        task = Task(str(uuid4()), label, "", session.uname, self._now())
        ref = self._add(session, task)
        context = copy_context()
        context.run(CURRENT_TASK.set, ref)
        job = asyncio.create_task(work(ref), name=f"{label} {task.uuid}", context=context)
        job.add_done_callback(lambda _: self._end(ref, job))
        self._work[ref] = job
        return ref

    def allow_cancel(self, ref: str, give_up: Callable[[], bool] = lambda: False) -> None:
        """Let clients cancel a task from now on; for the work to say, when it knows how it can be given up.

        Args:
            ref: of the task; the null reference, which stands for a call without one, is let pass.
            give_up: makes the work end with TaskCancelled, sooner or later; or tells by False that it can be
                cancelled where it waits, and leaves things as if it had not begun.
        """
        if ref in self._work:
            self._give_up[ref] = give_up
            self._put(replace(self._tasks[ref], is_cancellable=True))

    def destroy(self, session: Session, ref: str) -> None:
        """Forget a task; one that is not finished is only marked, and forgotten in its time.

        Raises:
            HandleInvalid: there is none of that reference.
            PermissionDenied: it is somebody else's.
        """
        task = self._find_own(session, ref)
        if task.is_finished:
            self._remove(ref)
        else:
            self._put(replace(task, current_operations={**task.current_operations, "task": "destroy"}))

    def cancel(self, session: Session, ref: str, by: str) -> None:
        """Ask that a task's work be given up; where that cannot be, it is noted and the work goes on.

        Args:
            session: who asks.
            ref: of the task.
            by: the reference of the task that stands for the asking.

        Raises:
            HandleInvalid: there is none of that reference.
            PermissionDenied: it is somebody else's.
        """
        task = self._find_own(session, ref)
        if task.is_finished:
            return
        self._put(replace(task, current_operations={by: "cancel"}))
        if ref in self._give_up and not self._give_up[ref]():
            self._work[ref].cancel()

    def change(self, session: Session, ref: str, **values: object) -> None:
        """Set fields of a task, by whoever keeps it up to date.

        Raises:
            HandleInvalid: there is none of that reference.
            PermissionDenied: it is somebody else's.
            InvalidValue: more than `TEXT_MOST_BYTES` would be written on it.
        """
        before = self._find_own(session, ref)
        from_clients = before.from_clients | values.keys()
        task = replace(before, from_clients=from_clients, **values)  # type: ignore[arg-type]  # by the datamodel
        _check_length(task, before.text_bytes, *values)
        if task.is_finished and task.finished == EPOCH:
            task = replace(task, finished=self._now())
        self._put(task)
        self._make_room()

    def add_to_other_config(self, session: Session, ref: str, key: str, value: str) -> None:
        """Add a note.

        Raises:
            MapDuplicateKey: the key is there already; further errors as `change`.
        """
        notes = self._find(ref).other_config
        if key in notes:
            raise MapDuplicateKey("task", "other_config", ref, key)
        self.change(session, ref, other_config={**notes, key: value})

    def remove_from_other_config(self, session: Session, ref: str, key: str) -> None:
        """Remove a note; a missing one is no error. Raises as `change`."""
        notes = self._find(ref).other_config
        self.change(session, ref, other_config={name: note for name, note in notes.items() if name != key})

    def expire(self) -> None:
        """Forget the tasks whose time is over."""
        oldest = self._now() - KEPT
        for ref, task in list(self._tasks.items()):
            since = task.finished if task.is_finished else task.created
            if since <= oldest and ref not in self._work:
                self._remove(ref)

    async def close(self) -> None:
        """End all work."""
        if self._tidying is not None:
            self._tidying.cancel()
        for job in self._work.values():
            job.cancel()
        if self._work:
            _, left = await asyncio.wait(self._work.values(), timeout=CLOSE_S)
            for job in left:
                _log.warning("%s did not end in time", job.get_name(), extra={"task": job.get_name()})

    def _find(self, ref: str) -> Task:
        task = self._tasks.get(ref)
        if task is None:
            raise HandleInvalid("task", ref)
        return task

    def _find_own(self, session: Session, ref: str) -> Task:
        task = self._find(ref)
        if session.uname != task.uname and session.role not in _MASTERS:
            raise PermissionDenied("task.destroy/any", "No permission in user session")
        return task

    def _add(self, session: Session, task: Task) -> str:
        kept = 0 if session.role in _MASTERS else KEPT_FOR_MASTERS
        if len(self._tasks) - len(self._finished) >= UNFINISHED_MOST - kept:
            raise TooBusy
        self._put(task)
        if self._tidying is None:
            self._tidying = asyncio.get_running_loop().call_later(TIDY_S, self._tidy)
        return task.ref

    def _put(self, task: Task) -> None:
        ref = task.ref
        self._tasks[ref] = task
        self._records.pop(ref, None)
        if task.is_finished:
            self._finished.setdefault(ref)
        else:
            self._finished.pop(ref, None)
        self._tell(ref)

    def _remove(self, ref: str) -> None:
        del self._tasks[ref]
        self._records.pop(ref, None)
        self._finished.pop(ref, None)
        self._tell(ref)

    def _tell(self, ref: str) -> None:
        for callback in self._listeners:
            callback(ref)

    def _make_room(self) -> None:
        while len(self._finished) > FINISHED_MOST:
            self._remove(next(iter(self._finished)))

    def _tidy(self) -> None:
        self._tidying = None
        self.expire()
        if self._tasks:
            self._tidying = asyncio.get_running_loop().call_later(TIDY_S, self._tidy)

    def _end(self, ref: str, job: asyncio.Task[object]) -> None:
        """Note how the work ended, unless somebody has declared the task finished before."""
        del self._work[ref]
        self._give_up.pop(ref, None)
        error = TaskCancelled(ref) if job.cancelled() else job.exception()
        task = self._tasks.get(ref)
        if task is None or task.is_finished:
            return
        task = replace(task, progress=1.0, finished=self._now())
        if error is None:
            result = codec.encode_value(job.result()).decode()
            own = task.from_clients - {"result"}
            task = replace(task, status=SUCCESS, result=result, from_clients=own)
        else:
            told = error if isinstance(error, XcpmemError) else InternalError(type(error).__name__)
            status = CANCELLED if told.code == TaskCancelled.code else FAILURE
            info, own = (told.code, *map(cut, told.params)), task.from_clients - {"error_info"}
            task = replace(task, status=status, error_info=info, from_clients=own)
            _log.debug("%s failed", job.get_name(), extra={"task": job.get_name(), "why": str(told)})
        self._put(task)
        self._make_room()


def _check_length(task: Task, before_bytes: int, *names: str) -> None:
    """Refuse what is more than before and too much in memory.

    Raises:
        InvalidValue: names the fields that were to be written.
    """
    if task.text_bytes > max(before_bytes, TEXT_MOST_BYTES):
        text = f"makes {task.text_bytes} bytes of text on the task; at most {TEXT_MOST_BYTES} are kept"
        raise InvalidValue(", ".join(names), text)


class TaskMethods:
    """The messages of class task.

    Args:
        tasks: all of them.
    """

    def __init__(self, tasks: Tasks) -> None:
        self._tasks = tasks

    def handlers(self) -> dict[str, Handler]:
        """Give the handlers by ``Class.message``."""
        tasks = self._tasks
        written = ("status", "progress", "result", "error_info", "other_config")
        return {
            "task.create": self._create,
            "task.destroy": _of_session(tasks.destroy),
            "task.cancel": self._cancel,
            **{f"task.set_{name}": self._setter(name) for name in written},
            "task.add_to_other_config": _of_session(tasks.add_to_other_config),
            "task.remove_from_other_config": _of_session(tasks.remove_from_other_config),
        }

    async def _create(self, caller: Caller, label: str, description: str) -> str:
        return self._tasks.create(caller.owner, label, description)

    async def _cancel(self, caller: Caller, ref: str) -> None:
        self._tasks.cancel(caller.owner, ref, caller.task)

    def _setter(self, name: str) -> Callable[..., Awaitable[None]]:
        async def handle(caller: Caller, ref: str, value: object) -> None:
            self._tasks.change(caller.owner, ref, **{name: value})

        return handle


def _of_session(act: Callable[..., None]) -> Callable[..., Awaitable[None]]:
    async def handle(caller: Caller, *args: object) -> None:
        act(caller.owner, *args)

    return handle
