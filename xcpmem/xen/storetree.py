"""The tree of the xenstored double: nodes, transactions, watches; in one process, without a socket.

Nodes never change: a write makes new nodes from the root down to the changed one and shares all others,
so a transaction's snapshot is the root of its moment. Behaviour as in xen's docs/misc/xenstore.txt and,
where that is silent, as in the C xenstored seen from dom0, who may do everything.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass, field, replace
from itertools import count
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from xcpmem.errors import StoreError
from xcpmem.xen import paths, storerequest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

_ABSENT: Final = -1
_PERMISSION = re.compile(r"[wrbn][0-9]{1,5}")

_generations: Final = count(1)


@dataclass(frozen=True, slots=True)
class Node:
    """A key with its value and its children.

    Args:
        value: any bytes.
        children: nodes by name, oldest first.
        permissions: the owner's first, such as ``n0``, then others' such as ``r3``.
        generation: another number after each change of value, permissions or the list of children.
    """

    value: bytes = b""
    children: Mapping[str, Node] = field(default_factory=lambda: MappingProxyType({}))
    permissions: tuple[str, ...] = ("n0",)
    generation: int = 0


@dataclass(frozen=True, slots=True)
class Change:
    """What a request changed.

    Args:
        path: the changed path, heard by watches on it and above.
        below: paths that went with it, heard only by watches on exactly these.
    """

    path: str
    below: tuple[str, ...] = ()


class Tree:
    """A tree and what xenstored's requests do to it.

    Paths are valid and absolute: whoever has the text checks it. All methods raise StoreError with the
    errno's name that xenstored would answer.

    Args:
        root: where to start.
        accessed: gathers the paths that were looked at or changed, if given.
    """

    def __init__(self, root: Node, accessed: set[str] | None = None) -> None:
        self.root = root
        self._accessed = accessed

    def find(self, path: str) -> Node | None:
        """Return the node at a path, None if there is none."""
        if self._accessed is not None:
            self._accessed.add(path)
        node: Node | None = self.root
        for name in _names(path):
            node = node.children.get(name) if node is not None else None
        return node

    def node(self, path: str) -> Node:
        """Return the node at a path; StoreError ENOENT if there is none."""
        node = self.find(path)
        if node is None:
            raise StoreError("ENOENT", path)
        return node

    def write(self, path: str, value: bytes) -> Change:
        """Set a value, creating what is missing on the way."""
        self._put(path, lambda node: Node(value, node.children, node.permissions, next(_generations)))
        return Change(path)

    def write_all(self, values: Mapping[str, bytes]) -> tuple[Change, ...]:
        """Set values by path, as `write` does one by one; each node on the way is made anew only once."""
        top = _Branch()
        for path, value in values.items():
            branch = top
            for name in _names(path):
                branch = branch.below[name]
            branch.value = value
        self.root = _grown(self.root, top)
        if self._accessed is not None:
            self._accessed.update(values)
        return tuple(map(Change, values))

    def mkdir(self, path: str) -> Change | None:
        """Create a node without a value; None if it was there."""
        if self.find(path) is not None:
            return None
        self._put(path, lambda node: node)
        return Change(path)

    def set_permissions(self, path: str, permissions: tuple[str, ...]) -> Change:
        """Set a node's permissions; StoreError EINVAL if one is malformed, ENOENT without the node."""
        if not permissions or not all(map(_PERMISSION.fullmatch, permissions)):
            raise StoreError("EINVAL", path)
        self.node(path)
        self._put(path, lambda node: replace(node, permissions=permissions, generation=next(_generations)))
        return Change(path)

    def remove(self, path: str) -> Change | None:
        """Remove a node and all below; None if it was not there but its parent is (else ENOENT)."""
        if path == "/":
            raise StoreError("EINVAL", path)
        parent = self.find(paths.parent(path)) if self.find(path) is None else None
        if parent is not None:
            return None
        below = tuple(_descendants(path, self.node(path)))
        name = path.rpartition("/")[2]

        def without(node: Node) -> Node:
            children = {key: child for key, child in node.children.items() if key != name}
            return replace(node, children=children, generation=next(_generations))

        self._put(paths.parent(path), without)
        return Change(path, below)

    def _put(self, path: str, change: Callable[[Node], Node]) -> None:
        names = _names(path)
        chain = [self.root]
        created_from = len(names)
        for depth, name in enumerate(names):
            child = chain[-1].children.get(name)
            if child is None:
                created_from = min(created_from, depth)
                child = Node(permissions=chain[-1].permissions, generation=next(_generations))
            chain.append(child)
        node = change(chain.pop())
        for depth in range(len(names) - 1, -1, -1):
            parent = chain.pop()
            generation = next(_generations) if depth == created_from else parent.generation
            node = Node(parent.value, {**parent.children, names[depth]: node}, parent.permissions, generation)
        self.root = node
        if self._accessed is not None:
            self._accessed.add(path)
            if created_from < len(names):
                self._accessed.add("/" + "/".join(names[:created_from]))


class _Branch:
    """What is set at a node, if anything, and below it."""

    __slots__ = ("below", "value")

    def __init__(self) -> None:
        self.value: bytes | None = None
        self.below: defaultdict[str, _Branch] = defaultdict(_Branch)


class Transaction:
    """Requests on a snapshot, to be carried out all together or not at all.

    Args:
        store: where they are carried out.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._base = store.tree.root
        self._accessed: set[str] = set()
        self._log: list[Callable[[Tree], Change | None]] = []
        self.tree = Tree(self._base, self._accessed)

    def change(self, request: Callable[[Tree], Change | None]) -> None:
        """Carry out a request on the snapshot and remember it."""
        request(self.tree)
        self._log.append(request)

    def commit(self) -> None:
        """Carry out the remembered requests on the store.

        Raises:
            StoreError: EAGAIN, somebody has changed what was looked at or changed here; nothing was done.
        """
        before, now = Tree(self._base), Tree(self._store.tree.root)
        if any(_generation(before, path) != _generation(now, path) for path in self._accessed):
            raise StoreError("EAGAIN", "TRANSACTION_END")
        changes = [request(self._store.tree) for request in self._log]
        for change in changes:
            self._store.publish(change)


@dataclass(eq=False, slots=True)
class Watch:
    """A wish to hear of changes at a path and below.

    Args:
        path: absolute, or a special watch.
        deliver: called with the changed path.
    """

    path: str
    deliver: Callable[[str], None]


class Store:
    """What a xenstored knows: the tree, the watches, the introduced domains.

    The simulated host uses it directly; `StoreServer` serves it on a socket. Values are text or bytes,
    since guests write anything. Callbacks run within the call that changes something, after the change,
    and may change something themselves.
    """

    def __init__(self) -> None:
        self.tree = Tree(Node())
        self.introduced: set[int] = {0}
        self._watches: dict[str, list[Watch]] = {}
        self.mkdir("/tool/xenstored")

    def read(self, path: str) -> str | None:
        """Return a value as text, None if the path is absent."""
        node = self.tree.find(_checked(path))
        return storerequest.text(node.value) if node is not None else None

    def write(self, path: str, value: str | bytes) -> None:
        """Set a value, creating the path where missing."""
        data = value.encode() if isinstance(value, str) else value
        self.publish(self.tree.write(_checked(path), data))

    def write_all(self, values: Mapping[str, str]) -> None:
        """Set values by path, and tell of them when all are there, as after a transaction."""
        for change in self.tree.write_all({_checked(path): value.encode() for path, value in values.items()}):
            self.publish(change)

    def mkdir(self, path: str) -> None:
        """Make sure that a path exists."""
        self.publish(self.tree.mkdir(_checked(path)))

    def remove(self, path: str) -> None:
        """Remove a path and all below; a missing one is fine."""
        if self.exists(path):
            self.publish(self.tree.remove(path))

    def list(self, path: str) -> tuple[str, ...]:
        """Return the names below a path, oldest first; none if it is absent."""
        node = self.tree.find(_checked(path))
        return tuple(node.children) if node is not None else ()

    def exists(self, path: str) -> bool:
        """Tell whether a path is there."""
        return self.tree.find(_checked(path)) is not None

    def subscribe(self, callback: Callable[[str], None]) -> Callable[[], None]:
        """Hear of every change in the tree.

        Args:
            callback: called with the changed path; of a removed tree, with its top only.

        Returns:
            Call it to hear no more.
        """
        watch = Watch("/", callback)
        self.add_watch(watch)
        return lambda: self.remove_watch(watch)

    def add_watch(self, watch: Watch) -> None:
        """Begin to deliver to a watch; it does not fire at once."""
        self._watches.setdefault(watch.path, []).append(watch)

    def remove_watch(self, watch: Watch) -> None:
        """Deliver no more to a watch that was added."""
        self._watches[watch.path].remove(watch)
        if not self._watches[watch.path]:
            del self._watches[watch.path]

    def fire(self, special: str) -> None:
        """Let a special watch fire, such as ``@releaseDomain``."""
        self._deliver(special, special)

    def introduce(self, domid: int) -> None:
        """Take up a domain: ``@introduceDomain`` fires, unless the domain is known."""
        if domid not in self.introduced:
            self.introduced.add(domid)
            self.fire(paths.INTRODUCE_DOMAIN)
            self.fire(f"{paths.INTRODUCE_DOMAIN}/{domid}")

    def release(self, domid: int) -> None:
        """Let go of a domain: ``@releaseDomain`` fires; its keys stay, the toolstack removes them.

        Raises:
            StoreError: ENOENT, it was not introduced; EINVAL, it is domain 0.
        """
        if domid == 0:
            raise StoreError("EINVAL", "RELEASE 0")
        if domid not in self.introduced:
            raise StoreError("ENOENT", f"RELEASE {domid}")
        self.introduced.remove(domid)
        self.fire(paths.RELEASE_DOMAIN)
        self.fire(f"{paths.RELEASE_DOMAIN}/{domid}")

    def publish(self, change: Change | None) -> None:
        """Tell the watches of a change that the tree has made."""
        if change is None or not self._watches:
            return
        above = change.path
        while True:
            self._deliver(above, change.path)
            if above == "/":
                break
            above = paths.parent(above)
        for path in change.below:
            self._deliver(path, path)

    def _deliver(self, watched: str, path: str) -> None:
        for watch in tuple(self._watches.get(watched, ())):
            watch.deliver(path)


def _checked(path: str) -> str:
    if not paths.is_absolute_path(path):
        raise StoreError("EINVAL", path)
    return path


def _names(path: str) -> list[str]:
    return path[1:].split("/") if path != "/" else []


def _grown(node: Node, branch: _Branch) -> Node:
    """Make a node anew, and all below it on the way to what a branch sets."""
    children = node.children
    if branch.below:
        blank = Node(permissions=node.permissions)
        grown = {name: _grown(children.get(name, blank), below) for name, below in branch.below.items()}
        children = {**children, **grown}
    is_other = branch.value is not None or len(children) > len(node.children)
    return Node(
        node.value if branch.value is None else branch.value,
        children,
        node.permissions,
        next(_generations) if is_other else node.generation,
    )


def _generation(tree: Tree, path: str) -> int:
    node = tree.find(path)
    return _ABSENT if node is None else node.generation


def _descendants(path: str, node: Node) -> Iterator[str]:
    pending = [(path, node)]
    while pending:
        above, parent = pending.pop()
        for name, child in parent.children.items():
            pending.append((f"{above}/{name}", child))
            yield f"{above}/{name}"
