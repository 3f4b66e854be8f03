"""Watches calls that change something, and notes each in the audit trail and in the log.

What a change did is found by looking at its object before and after: the fields that differ. A new object
shows all it was made of, one that is gone all it was.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Final

from xcpmem.api.typenames import Ref
from xcpmem.audit import CUT_SHORT, Change
from xcpmem.errors import ConnectionLost, HandleInvalid, HostError, XcpmemError
from xcpmem.refs import NULL_REF

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from xcpmem.api.datamodel import Message
    from xcpmem.api.dispatch import Caller, Handler
    from xcpmem.api.records import Records
    from xcpmem.audit import AuditTrail

    View = Callable[[], Mapping[str, object]]

_UNCHANGING: Final = ("get_", "assert_", "compute_", "query_")
_CHANGING_READERS: Final = frozenset({"Memory.change_password"})
_SECRETS: Final = frozenset({"pwd", "old_pwd", "new_pwd"})
_SEEN: Final = frozenset({"VM", "host", "pool"})
_PASSING: Final = frozenset({"allowed_operations", "current_operations"})
_MOVING: Final = frozenset({"memory_target", "resident_VMs"})
"""Fields that change while a call is under way without its doing."""
_LONGEST_TEXT: Final = 200

_log = logging.getLogger(__name__)


class Auditor:
    """Notes changes.

    Args:
        trail: where they are kept.
        records: show VMs, hosts and pools before and after.
        views: by the name of a message, what else shows its effect: texts by name.
        now: the time of day.
    """

    def __init__(
        self,
        trail: AuditTrail,
        records: Records,
        views: Mapping[str, View] | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._trail = trail
        self._records = records
        self._views = views or {}
        self._now = now

    def watches(self, message: Message) -> bool:
        """Tell whether a message changes something that people answer for."""
        if message.role == "read-only":
            return message.wire_name in _CHANGING_READERS
        return not message.name.startswith(_UNCHANGING)

    def surround(self, message: Message, handler: Handler) -> Handler:
        """Have the calls of a message noted if it is watched; else give back its handler as it is."""
        return partial(self._carry_out, message, handler) if self.watches(message) else handler

    async def _carry_out(
        self, message: Message, handler: Handler, caller: Caller, *arguments: object
    ) -> object:
        """Carry out a call and note what it did, be it by half, or that nobody knows.

        Raises:
            XcpmemError: as the handler; whoever calls knows more of it, and calls `tell_failure`.
        """
        target, before = self._look(message, arguments)
        change = self._describe(message, caller, arguments, target)
        with self._trail.expecting(change):
            try:
                result = await handler(caller, *arguments)
            except XcpmemError as error:
                failed = self._fail(change, error, before, self._look(message, arguments)[1])
                if failed is not None:
                    self._note(failed)
                raise
            except BaseException:
                # Cancelled, or a bug: what was made durable before is there all the same.
                self._note(replace(change, outcome=CUT_SHORT))
                raise
            if isinstance(message.result, Ref) and message.result.of in _SEEN:
                before = {}
                target, after = self._find(message.result.of, str(result))
            else:
                now, after = self._look(message, arguments)
                target = target or now
            was, became = _differing(before, after)
            self._note(replace(change, time=self._time(), target=target, before=was, after=became))
        return result

    def tell_failure(
        self, message: Message, caller: Caller, arguments: Sequence[object], code: str, why: str
    ) -> None:
        """Put a change that was refused or failed into the log; what it did by half is noted before.

        Args:
            message: that was called.
            caller: who called.
            arguments: typed as far as that went, the session not among them.
            code: of the error that came of it.
            why: that was so, or what to do about it; may be empty.
        """
        session = caller.owner
        target, _ = self._look(message, arguments)
        _log.info(
            "%s%s by %s from %s failed: %s%s",
            message.wire_name,
            f" of {target}" if target else "",
            session.user,
            caller.peer.where,
            code,
            f", {why}" if why else "",
            extra={
                "user": session.user,
                "role": session.role,
                "from": caller.peer.where,
                "call": message.wire_name,
                "target": target,
                "why": code,
            },
        )

    def _describe(self, message: Message, caller: Caller, arguments: Sequence[object], target: str) -> Change:
        """Say what is known of a change before it is made."""
        session = caller.owner
        return Change(
            time=self._time(),
            user=session.user,
            role=session.role,
            source=caller.peer.where,
            call=message.wire_name,
            target=target,
            arguments={
                param.name: "(hidden)" if param.name in _SECRETS else _text(value)
                for param, value in zip(message.params, arguments, strict=False)
                if not (isinstance(param.type, Ref) and param.type.of == message.class_name)
            },
            task="" if caller.task == NULL_REF else caller.task,
        )

    def _fail(
        self,
        change: Change,
        error: XcpmemError,
        before: Mapping[str, object],
        after: Mapping[str, object],
    ) -> Change | None:
        """Say what came of a change that ended in an error; None if nothing did, and it was just refused."""
        if isinstance(error, ConnectionLost):
            return replace(change, outcome=CUT_SHORT)
        was, became = _differing(before, after)
        if not isinstance(error, HostError) or was.keys() | became.keys() <= _MOVING:
            return None  # what is the caller's fault was refused before anything was done
        return replace(change, time=self._time(), before=was, after=became, outcome=error.code)

    def _time(self) -> str:
        return self._now().strftime("%Y-%m-%dT%H:%M:%SZ")

    def _note(self, change: Change) -> None:
        self._trail.keep(change)
        _log.info(
            "%s began %s%s" if change.outcome else "%s did %s%s",
            change.user,
            change.call,
            f" to {change.target}" if change.target else "",
            extra={
                "user": change.user,
                "role": change.role,
                "from": change.source,
                "call": change.call,
                "target": change.target,
                "arguments": _line(change.arguments),
                "before": _line(change.before),
                "after": _line(change.after),
                "outcome": change.outcome,
            },
        )

    def _look(self, message: Message, arguments: Sequence[object]) -> tuple[str, Mapping[str, object]]:
        """See the object of a call: its name and its fields."""
        view = self._views.get(message.wire_name)
        if view is not None:
            return "", dict(view())
        if message.class_name in _SEEN and arguments:
            return self._find(message.class_name, str(arguments[0]))
        return "", {}

    def _find(self, class_name: str, ref: str) -> tuple[str, Mapping[str, object]]:
        try:
            record = self._records.record(class_name, ref)
        except HandleInvalid:
            return "", {}
        return f"{class_name} {record['uuid']} ({record['name_label']})", record


def _differing(
    before: Mapping[str, object], after: Mapping[str, object]
) -> tuple[dict[str, str], dict[str, str]]:
    """Keep what is different: of a change the fields that changed, of a birth or an end everything."""
    names = [name for name in dict.fromkeys((*before, *after)) if name not in _PASSING]
    names = [name for name in names if (name in before, before.get(name)) != (name in after, after.get(name))]
    return (
        {name: _text(before[name]) for name in names if name in before},
        {name: _text(after[name]) for name in names if name in after},
    )


def _text(value: object) -> str:
    match value:
        case Mapping():
            text = "; ".join(f"{key}: {entry}" for key, entry in value.items())
        case str():
            text = value
        case Collection():
            text = "; ".join(map(str, value))
        case _:
            text = str(value)
    return text if len(text) <= _LONGEST_TEXT else f"{text[:_LONGEST_TEXT]}…"


def _line(fields: Mapping[str, str]) -> str:
    return ", ".join(f"{name}={text}" for name, text in fields.items())
