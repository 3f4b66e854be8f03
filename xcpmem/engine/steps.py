"""Long work cut into steps, between which others can have their turn: generators that yield after each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias, TypeVar

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence

T = TypeVar("T")

Steps: TypeAlias = "Generator[None, None, T]"
"""Work that yields after each step, and returns what came of it."""

AT_ONCE: Final = 100
"""So many domains at a time: each costs tens of microseconds at most, on a slow machine too."""


def portions(items: Sequence[T], at_once: int = AT_ONCE) -> Iterator[Sequence[T]]:
    """Cut a sequence into portions of ``at_once``, the last one shorter; an empty one has none."""
    for start in range(0, len(items), at_once):
        yield items[start : start + at_once]


def finish(steps: Steps[T]) -> T:
    """Go through all steps at one go, and give what came of them."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: T = end.value
            return result
