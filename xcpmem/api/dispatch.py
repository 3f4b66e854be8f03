"""The one way in: a method's name and plain values become a typed answer or a XenAPI error.

Both wires and the command line call `Dispatcher.call`; it knows no bytes and no HTTP. What can be wrong
with a call is looked for in xapi's order, so that a client that relies on which error comes first is
served: the name, the number of parameters, messages that are no more, the session, the role, the text
encoding, ``Async.``, the types, and only then what the message itself has to say.
"""

from __future__ import annotations

import logging
import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, cast

from xcpmem.api.datamodel import load_datamodel
from xcpmem.api.marshal import check_strings, unmarshal
from xcpmem.api.typenames import Ref, Simple
from xcpmem.call_tally import HUNG_UP, SUCCESS
from xcpmem.errors import (
    ConnectionLost,
    HostError,
    InternalError,
    MethodRemoved,
    MethodUnknown,
    NoAsyncMode,
    OperationNotAllowed,
    ParameterCount,
    PermissionDenied,
    XcpmemError,
)
from xcpmem.refs import NULL_REF

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from xcpmem.api.advice import Adviser
    from xcpmem.api.auditor import Auditor
    from xcpmem.api.datamodel import Datamodel, Message
    from xcpmem.api.sessions import Peer, Session, Sessions
    from xcpmem.api.tasks import Tasks
    from xcpmem.api.values import Value

_ASYNC: Final = "Async."
_IS_ALIVE: Final = "system.isAlive:"
_SESSION: Final = Ref("session")
_LONGEST_NAME: Final = 64
_PATH: Final = re.compile(r"(?<![\w./:-])/(?:[\w.+@-]+/)+[\w.+@-]*")
"""A path of this machine's files: it stands in the log, and is nobody else's business."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls.

    Args:
        peer: the other end of the connection.
        session: open, and None only for messages that need none.
        task: the reference of the task that stands for the call; null unless it is an asynchronous one.
    """

    peer: Peer
    session: Session | None
    task: str = NULL_REF

    @property
    def owner(self) -> Session:
        """The session, for messages that need one."""
        if self.session is None:
            raise InternalError("the message is declared without a session and uses one")
        return self.session


if TYPE_CHECKING:
    Handler = Callable[..., Awaitable[object]]
    Observer = Callable[[str, str, float], None]
    Surround = Callable[[Message, Handler], Handler]


class Dispatcher:
    """Carries out calls.

    Args:
        sessions: the open ones.
        handlers: by ``Class.message``, one for each message of the datamodel; called with the `Caller` and
            the typed parameters, those that are optional and absent left out.
        tasks: carry on what nobody waits for.
        observe: told of every call: name, ``success``, the error's code or `HUNG_UP`, seconds.
        auditor: notes what changes something; None: nobody does.
        witness: puts itself around the handlers of messages whose calls it notes, and gives back the others.
        refusal: why nothing that changes the host is done; empty: it is.
        adviser: adds to errors what to do about them; None: nobody does.
        answers_removed: whether getters of fields that xapi has removed answer with the value, which is
            kinder than ``MESSAGE_REMOVED``.
        datamodel: what is served.

    Raises:
        ValueError: a message without a handler, or a handler without a message.
    """

    def __init__(
        self,
        sessions: Sessions,
        handlers: Mapping[str, Handler],
        tasks: Tasks,
        *,
        observe: Observer | None = None,
        auditor: Auditor | None = None,
        witness: Surround = lambda _, handler: handler,
        refusal: str = "",
        adviser: Adviser | None = None,
        answers_removed: bool = True,
        datamodel: Datamodel | None = None,
    ) -> None:
        self._sessions = sessions
        self._tasks = tasks
        self._observe = observe
        self._auditor = auditor
        self._refusal = refusal
        self._adviser = adviser
        self._answers_removed = answers_removed
        self._datamodel = datamodel or load_datamodel()
        odd = handlers.keys() ^ {message.wire_name for message in self._datamodel.messages()}
        if odd:
            raise ValueError(f"messages and handlers differ: {', '.join(sorted(odd))}")
        audit = auditor.surround if auditor is not None else lambda _, handler: handler
        self._handlers = {
            message.wire_name: witness(message, audit(message, handlers[message.wire_name]))
            for message in self._datamodel.messages()
        }
        self.unexpected_errors = 0

    async def call(self, method: str, params: Sequence[object], *, peer: Peer) -> object:
        """Carry out one call.

        Args:
            method: as the client spelled it: ``VM.get_all``, ``VM_get_all``, ``Async.VM.set_memory``.
            params: as they came, or typed already; the session first.
            peer: who sent it.

        Returns:
            What the message's result type says, in Python's types; None for void.

        Raises:
            XcpmemError: its code and parameters are the answer. Nothing else leaves here: what nobody
                expected is logged, counted and answered as INTERNAL_ERROR.
        """
        started_s = time.monotonic()
        status = SUCCESS
        try:
            return await self._guard(method, self._carry_out(method, cast("Sequence[Value]", params), peer))
        except XcpmemError as error:
            status = HUNG_UP if _was_left(peer, error) else error.code
            raise
        finally:
            took_s = time.monotonic() - started_s
            message = self._datamodel.find(method.removeprefix(_ASYNC))
            name = message.wire_name if message else method
            if _log.isEnabledFor(logging.DEBUG):
                _log.debug("called", extra={"method": name, "status": status, "took_s": round(took_s, 6)})
            if self._observe is not None:
                self._observe(name, status, took_s)

    async def _guard(self, method: str, work: Awaitable[object]) -> object:
        """Let nothing out but answers and errors that a client can be told."""
        try:
            return await work
        except XcpmemError as error:
            told = tuple(_PATH.sub("(a file)", param) for param in error.params)
            if error.code != InternalError.code or told == error.params:
                raise
            _log.warning("%s failed: %s", self._name(method), error, extra={"method": method, "why": error})
            raise InternalError(*told) from error
        except Exception as error:
            self.unexpected_errors += 1
            text = "%s failed in a way nobody expected"
            _log.exception(text, self._name(method), extra={"method": method})
            raise InternalError(f"unexpected {type(error).__name__}, see the daemon's log") from error

    async def _carry_out(self, method: str, params: Sequence[Value], peer: Peer) -> object:
        is_async = method.startswith(_ASYNC)
        name = method.removeprefix(_ASYNC)
        message = self._datamodel.find_exactly(name) if is_async else self._datamodel.find(name)
        if message is None:
            return self._answer_unknown(method, params)
        received = len(params) - message.needs_session
        if not message.accepts(received):
            raise ParameterCount(name, message.required, max(received, 0))
        session = self._find_session(params) if message.needs_session else None
        if message.lifecycle == "removed" and not self._answers_removed:
            raise MethodRemoved
        if session is not None and session.role not in message.roles:
            denial = PermissionDenied(message.permission, "No permission in user session")
            self._tell(message, params[1:], Caller(peer, session), denial)
            raise denial
        if self._refusal and message.changes_host:
            raise OperationNotAllowed(self._refusal)
        given = list(params[message.needs_session :])
        check_strings(given)
        if not is_async:
            return await self._handle(message, Caller(peer, session), _typed(message, given))
        if session is None or not message.is_async:
            raise NoAsyncMode(f"No async mode for this operation (rpc: {message.wire_name})")
        return self._start(message, peer, session, _typed(message, given))

    def _start(self, message: Message, peer: Peer, session: Session, arguments: list[object]) -> str:
        """Begin what nobody waits for; the reference of its task."""
        label = f"{_ASYNC}{message.wire_name}"
        return self._tasks.start(
            session,
            label,
            lambda task: self._guard(label, self._handle(message, Caller(peer, session, task), arguments)),
        )

    async def _handle(self, message: Message, caller: Caller, arguments: list[object]) -> object:
        """Have the message's handler do it, with advice if it fails."""
        try:
            return await self._handlers[message.wire_name](caller, *arguments)
        except XcpmemError as error:
            if caller.session is not None:
                self._tell(message, arguments, caller, error)
            raise

    def _tell(
        self, message: Message, arguments: Sequence[object], caller: Caller, error: XcpmemError
    ) -> None:
        """Add advice to an error, and put the call with both into one line of the log."""
        if self._adviser is not None:
            error.advice = self._adviser.advise(message, arguments, caller.owner, error)
        # The text of a caller's own error may quote what the caller sent, such as a session.
        why = error.advice or (str(error) if isinstance(error, HostError) else "")
        is_denied = error.code == PermissionDenied.code
        if self._auditor is not None and (is_denied or self._auditor.watches(message)):
            self._auditor.tell_failure(message, caller, arguments, error.code, why)
        elif why:
            _log.log(
                logging.DEBUG if _was_left(caller.peer, error) else logging.INFO,
                "%s by %s from %s failed: %s, %s",
                message.wire_name,
                caller.owner.user,
                caller.peer.where,
                error.code,
                why,
                extra={"method": message.wire_name, "code": error.code, "advice": error.advice},
            )

    def _name(self, method: str) -> str:
        """Name a method in a sentence; one that does not exist may be called anything."""
        is_known = self._datamodel.find(method.removeprefix(_ASYNC)) is not None
        return method if is_known else repr(method[:_LONGEST_NAME])

    def _answer_unknown(self, method: str, params: Sequence[Value]) -> object:
        """Refuse what is no message; as in xapi, one that brings parameters must first have a session."""
        if method.startswith(_IS_ALIVE) and params:
            return unmarshal(Simple("string"), params[0])
        if params:
            self._find_session(params)
        raise MethodUnknown(method)

    def _find_session(self, params: Sequence[Value]) -> Session:
        return self._sessions.find(str(unmarshal(_SESSION, params[0])))


def _was_left(peer: Peer, error: XcpmemError) -> bool:
    """Tell whether a call was broken off because nobody waits for its answer any more."""
    return isinstance(error, ConnectionLost) and peer.presence.has_ended


def _typed(message: Message, given: Sequence[Value]) -> list[object]:
    """Read the parameters by their types; xapi ignores those beyond the declared ones."""
    return list(map(unmarshal, message.types, given))
