"""What changed since when: every change of any object gets a number, and the journal knows each one's last.

Like the generation of xapi's database, by which ``event.from`` finds what a client has not seen yet. The
journal knows no records and waits for nothing: events are made of what is in it by whoever reads it.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from xcpmem.api.values import I4, Record
from xcpmem.errors import InvalidValue, SubscriptionInvalid

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

DELETIONS_KEPT: Final = 512
"""So many deletions of each class are known (xapi: 256 to 512); ``valid_ref_counts`` betrays the others."""

EVERYTHING: Final = -1
"""The generation before all others."""

SUBSCRIPTIONS_MOST: Final = 256
"""So many classes and objects may be wanted at once; whoever wants more objects wants their class."""

LONGEST_KEY: Final = 100
"""No class with a reference is longer, so that what is longer never changes."""

_ALL: Final = "*"
_TASKS: Final = "task"


@dataclass(frozen=True, slots=True)
class Subscription:
    """What somebody wants to be told of.

    Args:
        keys: ``*``, classes (``vm``), or single objects (``vm/OpaqueRef:…``); classes in lower case.

    Raises:
        InvalidValue: they are more than `SUBSCRIPTIONS_MOST`.
    """

    keys: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        if len(self.keys) > SUBSCRIPTIONS_MOST:
            raise InvalidValue("classes", f"{len(self.keys)} of them; at most {SUBSCRIPTIONS_MOST} are taken")

    @classmethod
    def parse(cls, words: Iterable[str]) -> Subscription:
        """Read what clients subscribe to; a class that does not exist never changes.

        Raises:
            SubscriptionInvalid: names the word that has more parts than class and reference.
            InvalidValue: they are too many.
        """
        keys = map(_key, words)
        return cls(frozenset(key for key in keys if len(key) <= LONGEST_KEY))

    @property
    def is_task_only(self) -> bool:
        """Whether nothing but tasks is wanted."""
        return all(key.partition("/")[0] == _TASKS for key in self.keys)

    def wants(self, class_name: str, ref: str) -> bool:
        """Tell whether an object is meant; the class in lower case."""
        keys = self.keys
        return _ALL in keys or class_name in keys or f"{class_name}/{ref}" in keys


def _key(word: str) -> str:
    class_name, slash, ref = word.partition("/")
    if "/" in ref:
        raise SubscriptionInvalid(word)
    return f"{class_name.lower()}{slash}{ref}"


def keys_of(class_name: str, ref: str) -> tuple[str, str, str]:
    """Give the keys under which an object can be subscribed to; the class in lower case."""
    return (_ALL, class_name, f"{class_name}/{ref}")


@dataclass(frozen=True, slots=True)
class Change:
    """The last that happened to an object.

    Args:
        operation: ``add``, ``mod`` or ``del``, as it looks from the generation that was asked for.
        class_name: XenAPI's spelling.
        ref: of the object.
        generation: the number of the change.
        time_s: when that was, Unix time.
    """

    operation: str
    class_name: str
    ref: str
    generation: int
    time_s: float


@dataclass(slots=True)
class _Living:
    """An object: the numbers of its first and its last change, and when that was."""

    created: int
    modified: int
    time_s: float


@dataclass(frozen=True, slots=True)
class _Dead:
    """An object that is no more; ``created`` is its first life's, if it came back and went again."""

    created: int
    deleted: int
    time_s: float


class Journal:
    """The numbers of the last changes of all objects.

    Args:
        class_names: XenAPI's spelling of those that are followed.
        generation: where to start; above all that was ever handed out before.
        now_s: Unix time.
        tell: called with class, in lower case, and reference of each object that changed.
    """

    def __init__(
        self,
        class_names: Iterable[str],
        generation: int,
        now_s: Callable[[], float],
        tell: Callable[[str, str], None],
    ) -> None:
        self._lower = {name: name.lower() for name in class_names}
        self._generation = generation
        self._now_s = now_s
        self._tell = tell
        self._living: OrderedDict[tuple[str, str], _Living] = OrderedDict()  # the last to change comes last
        self._dead: dict[str, OrderedDict[str, _Dead]] = {name: OrderedDict() for name in self._lower}
        self._numbers = dict.fromkeys(self._lower.values(), 0)
        self._counts: Record | None = None
        self._forgotten = EVERYTHING

    @property
    def generation(self) -> int:
        """The number of the last change."""
        return self._generation

    @property
    def forgotten(self) -> int:
        """The number of the last deletion that is no longer known."""
        return self._forgotten

    @property
    def counts(self) -> Record:
        """How many objects each class has, by its name in lower case; the same record until that changes."""
        if self._counts is None:
            self._counts = Record({name: I4(number) for name, number in self._numbers.items()})
        return self._counts

    def load(self, class_name: str, refs: Iterable[str]) -> None:
        """Take up objects that were there before the journal: changed at its start, made long ago."""
        for ref in refs:
            self._living[class_name, ref] = _Living(0, self._generation, self._now_s())
            self._count(class_name, 1)

    def knows(self, class_name: str, ref: str) -> bool:
        """Tell whether an object of a class lives."""
        return (class_name, ref) in self._living

    def put(self, class_name: str, ref: str) -> None:
        """Note that an object changed, or is new."""
        self._generation += 1
        living = self._living.get((class_name, ref))
        if living is None:
            self._living[class_name, ref] = _Living(self._generation, self._generation, self._now_s())
            self._count(class_name, 1)
        else:
            living.modified, living.time_s = self._generation, self._now_s()
            self._living.move_to_end((class_name, ref))
        self._tell(self._lower[class_name], ref)

    def remove(self, class_name: str, ref: str) -> None:
        """Note that an object is no more; one that was never known is nothing new."""
        living = self._living.pop((class_name, ref), None)
        if living is None:
            return
        self._generation += 1
        self._count(class_name, -1)
        dead = self._dead[class_name]
        former = dead.pop(ref, None)
        created = former.created if former else living.created
        dead[ref] = _Dead(created, self._generation, self._now_s())
        if len(dead) > DELETIONS_KEPT:
            _, first = dead.popitem(last=False)
            self._forgotten = max(self._forgotten, first.deleted)
        self._tell(self._lower[class_name], ref)

    def since(self, generation: int, subscription: Subscription) -> tuple[Change, ...]:
        """List what changed after a generation, each object once: new ones, then changed, then gone ones.

        What came and went since then is not told at all.

        Args:
            generation: up to which all is known, or `EVERYTHING`.
            subscription: what is wanted.
        """
        new: list[Change] = []
        changed: list[Change] = []
        for (class_name, ref), living in reversed(self._living.items()):
            if living.modified <= generation:
                break
            if not subscription.wants(self._lower[class_name], ref):
                continue
            if living.created > generation and not self._was_known(class_name, ref, generation):
                new.append(Change("add", class_name, ref, living.modified, living.time_s))
            else:
                changed.append(Change("mod", class_name, ref, living.modified, living.time_s))
        return (*reversed(new), *reversed(changed), *self._gone_since(generation, subscription))

    def _gone_since(self, generation: int, subscription: Subscription) -> list[Change]:
        gone = []
        for class_name, deletions in self._dead.items():
            for ref, dead in reversed(deletions.items()):
                if dead.deleted <= generation:
                    break
                if (
                    dead.created <= generation
                    and not self.knows(class_name, ref)
                    and subscription.wants(self._lower[class_name], ref)
                ):
                    gone.append(Change("del", class_name, ref, dead.deleted, dead.time_s))
        return sorted(gone, key=lambda change: change.generation)

    def _was_known(self, class_name: str, ref: str, generation: int) -> bool:
        """Tell whether an object that is new now stood for something else of the same reference before."""
        dead = self._dead[class_name].get(ref)
        return dead is not None and dead.created <= generation < dead.deleted

    def _count(self, class_name: str, step: int) -> None:
        self._numbers[self._lower[class_name]] += step
        self._counts = None
