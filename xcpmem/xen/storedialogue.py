"""One client's dialogue with a store: requests in, replies and watch events out, no socket.

Requests and errors as in xen's docs/misc/xenstore.txt and, where that is silent, as the C xenstored
treats a client in dom0, who may do everything.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from xcpmem.errors import StoreError
from xcpmem.xen import paths, wire
from xcpmem.xen.storetree import Transaction, Watch
from xcpmem.xen.wire import Message, MessageType

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from xcpmem.xen.storetree import Change, Node, Store, Tree

WATCHES_MAX: Final = 16384
"""Watches of one client; the real one bounds only guests."""
TRANSACTIONS_MAX: Final = 64
"""Open transactions of one client; the real one bounds only guests."""


class StoreDialogue:
    """What one connection has asked for so far: its watches and transactions.

    Args:
        store: whom it asks.
        send_event: called with each watch event, in the middle of whatever caused it.
    """

    def __init__(self, store: Store, send_event: Callable[[Message], None]) -> None:
        self._store = store
        self._send_event = send_event
        self._watches: dict[tuple[str, str], Watch] = {}
        self._transactions: dict[int, Transaction] = {}
        self._next_transaction_id = 1
        self._handlers: Mapping[int, Callable[[Message, Transaction | None], bytes]] = {
            MessageType.CONTROL: self._control,
            MessageType.DIRECTORY: self._directory,
            MessageType.READ: self._read,
            MessageType.GET_PERMS: self._get_permissions,
            MessageType.WATCH: self._watch,
            MessageType.UNWATCH: self._unwatch,
            MessageType.TRANSACTION_START: self._start_transaction,
            MessageType.TRANSACTION_END: self._end_transaction,
            MessageType.INTRODUCE: self._introduce,
            MessageType.RELEASE: self._release,
            MessageType.GET_DOMAIN_PATH: self._domain_path,
            MessageType.WRITE: self._write,
            MessageType.MKDIR: self._mkdir,
            MessageType.RM: self._remove,
            MessageType.SET_PERMS: self._set_permissions,
            MessageType.IS_DOMAIN_INTRODUCED: self._is_introduced,
            MessageType.RESUME: self._resume,
            MessageType.SET_TARGET: self._set_target,
            MessageType.RESET_WATCHES: self._reset_watches,
            MessageType.DIRECTORY_PART: self._directory_part,
        }

    def answer(self, request: Message) -> Message:
        """Do what a request asks and return the reply; a refusal is a reply of type ERROR."""
        try:
            payload = self._carry_out(request)
            if len(payload) > wire.PAYLOAD_BYTES_MAX:
                raise StoreError("E2BIG", "answer")  # noqa: TRY301 -- one place makes ERRORs
            return Message(request.type, request.request_id, request.transaction_id, payload)
        except StoreError as error:
            return refusal(request, error.name)

    def follow_up(self, request: Message) -> None:
        """After the reply to a WATCH: let the watch fire once, as every watch does at first."""
        path, token = _texts(request)[:2]
        self._fire(path, token)

    def end(self) -> None:
        """Forget the client's watches and transactions."""
        for watch in self._watches.values():
            self._store.remove_watch(watch)
        self._watches.clear()
        self._transactions.clear()

    def _fire(self, path: str, token: str) -> None:
        payload = wire.join_strings(path.encode("latin-1"), token.encode("latin-1"))
        if len(payload) <= wire.PAYLOAD_BYTES_MAX:
            self._send_event(Message(MessageType.WATCH_EVENT, 0, 0, payload))

    def _carry_out(self, request: Message) -> bytes:
        handler = self._handlers.get(request.type)
        if handler is None:
            raise StoreError("ENOSYS", str(request.type))
        transaction = None
        if request.transaction_id and request.type not in (MessageType.WATCH, MessageType.UNWATCH):
            transaction = self._transactions.get(request.transaction_id)
            if transaction is None:
                raise StoreError("ENOENT", "transaction")
        return handler(request, transaction)

    def _change(
        self,
        transaction: Transaction | None,
        request: Callable[[Tree], Change | None],
    ) -> bytes:
        if transaction is not None:
            transaction.change(request)
        else:
            self._store.publish(request(self._store.tree))
        return wire.ACKNOWLEDGED

    def _node(self, path: str, transaction: Transaction | None) -> Node:
        tree = transaction.tree if transaction is not None else self._store.tree
        return tree.node(_absolute(path))

    def _directory(self, request: Message, transaction: Transaction | None) -> bytes:
        return _listing(self._node(_only_text(request), transaction))

    def _directory_part(self, request: Message, transaction: Transaction | None) -> bytes:
        path, offset = _texts(request, 2)
        node = self._node(path, transaction)
        listing = _listing(node) + wire.NUL
        generation = wire.join_strings(str(node.generation).encode())
        start = _number(offset)
        if start >= len(listing) - 1:
            return generation + wire.NUL
        end = start + wire.PAYLOAD_BYTES_MAX - len(generation)
        if end < len(listing):
            end = listing.rindex(wire.NUL, start, end) + 1
        return generation + listing[start:end]

    def _read(self, request: Message, transaction: Transaction | None) -> bytes:
        return self._node(_only_text(request), transaction).value

    def _get_permissions(self, request: Message, transaction: Transaction | None) -> bytes:
        permissions = self._node(_only_text(request), transaction).permissions
        return wire.join_strings(*(permission.encode() for permission in permissions))

    def _set_permissions(self, request: Message, transaction: Transaction | None) -> bytes:
        path, *permissions = _texts(request, 2)
        path = _absolute(path)
        return self._change(transaction, lambda tree: tree.set_permissions(path, tuple(permissions)))

    def _write(self, request: Message, transaction: Transaction | None) -> bytes:
        path, value = _absolute(_texts(request, 1)[0]), request.payload.partition(wire.NUL)[2]
        return self._change(transaction, lambda tree: tree.write(path, value))

    def _mkdir(self, request: Message, transaction: Transaction | None) -> bytes:
        path = _absolute(_only_text(request))
        return self._change(transaction, lambda tree: tree.mkdir(path))

    def _remove(self, request: Message, transaction: Transaction | None) -> bytes:
        path = _absolute(_only_text(request))
        return self._change(transaction, lambda tree: tree.remove(path))

    def _watch(self, request: Message, _transaction: Transaction | None) -> bytes:
        path, token = _texts(request, 2)[:2]
        watched = path if paths.is_special_watch(path) else _absolute(path)
        if (watched, token) in self._watches:
            raise StoreError("EEXIST", path)
        if len(self._watches) >= WATCHES_MAX:
            raise StoreError("E2BIG", path)
        prefix = len(watched) - len(path)
        watch = Watch(watched, lambda changed: self._fire(changed[prefix:], token))
        self._watches[watched, token] = watch
        self._store.add_watch(watch)
        return wire.ACKNOWLEDGED

    def _unwatch(self, request: Message, _transaction: Transaction | None) -> bytes:
        path, token = _texts(request, 2)[:2]
        watch = self._watches.pop((path if paths.is_special_watch(path) else _absolute(path), token), None)
        if watch is None:
            raise StoreError("ENOENT", path)
        self._store.remove_watch(watch)
        return wire.ACKNOWLEDGED

    def _reset_watches(self, _request: Message, _transaction: Transaction | None) -> bytes:
        self.end()
        return wire.ACKNOWLEDGED

    def _start_transaction(self, _request: Message, transaction: Transaction | None) -> bytes:
        if transaction is not None:
            raise StoreError("EBUSY", "TRANSACTION_START")
        if len(self._transactions) >= TRANSACTIONS_MAX:
            raise StoreError("ENOSPC", "TRANSACTION_START")
        number = self._next_transaction_id
        self._next_transaction_id += 1
        self._transactions[number] = Transaction(self._store)
        return wire.join_strings(str(number).encode())

    def _end_transaction(self, request: Message, transaction: Transaction | None) -> bytes:
        verdict = _only_text(request)
        if verdict not in ("T", "F"):
            raise StoreError("EINVAL", "TRANSACTION_END")
        if transaction is None:
            raise StoreError("ENOENT", "TRANSACTION_END")
        del self._transactions[request.transaction_id]
        if verdict == "T":
            transaction.commit()
        return wire.ACKNOWLEDGED

    def _introduce(self, request: Message, _transaction: Transaction | None) -> bytes:
        domid, _frame, _event_channel = map(_number, _texts(request, 3)[:3])
        self._store.introduce(domid)
        return wire.ACKNOWLEDGED

    def _release(self, request: Message, _transaction: Transaction | None) -> bytes:
        self._store.release(_number(_only_text(request)))
        return wire.ACKNOWLEDGED

    def _resume(self, request: Message, _transaction: Transaction | None) -> bytes:
        if _number(_only_text(request)) not in self._store.introduced:
            raise StoreError("ENOENT", "RESUME")
        return wire.ACKNOWLEDGED

    def _set_target(self, request: Message, _transaction: Transaction | None) -> bytes:
        if not {_number(domid) for domid in _texts(request, 2)[:2]} <= self._store.introduced:
            raise StoreError("ENOENT", "SET_TARGET")
        return wire.ACKNOWLEDGED

    def _domain_path(self, request: Message, _transaction: Transaction | None) -> bytes:
        return wire.join_strings(f"{paths.DOMAINS}/{_number(_only_text(request))}".encode())

    def _is_introduced(self, request: Message, _transaction: Transaction | None) -> bytes:
        introduced = _number(_only_text(request)) in self._store.introduced
        return wire.join_strings(b"T" if introduced else b"F")

    def _control(self, _request: Message, _transaction: Transaction | None) -> bytes:
        raise StoreError("EINVAL", "CONTROL")


def refusal(request: Message, error_name: str) -> Message:
    """Return the ERROR reply to a request."""
    payload = wire.join_strings(error_name.encode())
    return Message(MessageType.ERROR, request.request_id, request.transaction_id, payload)


def _texts(request: Message, at_least: int = 0) -> list[str]:
    texts = [string.decode("latin-1") for string in request.strings]
    if len(texts) < at_least:
        raise StoreError("EINVAL", str(request.type))
    return texts


def _only_text(request: Message) -> str:
    text, end, more = request.payload.partition(wire.NUL)
    if not end or more:
        raise StoreError("EINVAL", str(request.type))
    return text.decode("latin-1")


def _absolute(path: str) -> str:
    if not path.startswith("/") and paths.is_relative_path(path):
        path = f"{paths.domain(0)}/{path}"
    if not paths.is_absolute_path(path):
        raise StoreError("EINVAL", path)
    return path


def _number(text: str) -> int:
    number = wire.parse_decimal(text)
    if number is None:
        raise StoreError("EINVAL", text)
    return number


def _listing(node: Node) -> bytes:
    return wire.join_strings(*(name.encode() for name in node.children))
