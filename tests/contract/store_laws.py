"""What every xenstored owes to `Xenstore`: laws that the double and the real one both keep.

A law takes a connected `Xenstore`, which it may let call it back, and a scratch directory that does not
exist and that it need not clean up. It raises AssertionError, or an error of the driver, when broken.
No pytest in here: the same laws run inside dom0.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from xcpmem.errors import InvalidValue
from xcpmem.xen import paths
from xcpmem.xen.mailbox import Events

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from xcpmem.xen.xenstore import Xenstore

EVENT_DEADLINE_S: Final = 10.0


async def events_until(store: Xenstore, enough: Callable[[Events], bool]) -> Events:
    """Gather events until there are enough, or raise TimeoutError."""
    arrived = asyncio.Event()
    store.on_event = arrived.set
    seen = Events()
    async with asyncio.timeout(EVENT_DEADLINE_S):
        while not enough(seen):
            events = store.take_events()
            seen = Events(seen.paths | events.paths, seen.resync or events.resync)
            if not events:
                arrived.clear()
                await arrived.wait()
    return seen


async def refusal(call: Awaitable[object], kind: type[Exception]) -> Exception:
    """Return the error that a call raises; AssertionError if it raises none of that kind."""
    try:
        await call
    except kind as error:
        return error
    raise AssertionError(f"no {kind.__name__}")


async def written_value_is_read_back(store: Xenstore, scratch: str) -> None:
    for value in ("1048576", "-4", "", "any (printable) text: ~!#'\"\\"):
        await store.write(f"{scratch}/key", value)
        assert await store.read(f"{scratch}/key") == value


async def absent_key_reads_as_none(store: Xenstore, scratch: str) -> None:
    assert await store.read(f"{scratch}/absent") is None
    assert await store.read(f"{scratch}/absent/below") is None


async def writing_creates_the_way_with_empty_values(store: Xenstore, scratch: str) -> None:
    await store.write(f"{scratch}/a/b/c", "1")
    assert await store.read_many([scratch, f"{scratch}/a", f"{scratch}/a/b"]) == ["", "", ""]


async def making_a_directory_keeps_what_is_there(store: Xenstore, scratch: str) -> None:
    await store.mkdir(f"{scratch}/a/b")
    assert await store.read(f"{scratch}/a/b") == ""
    await store.write(f"{scratch}/a/b", "kept")
    await store.mkdir(f"{scratch}/a/b")
    assert await store.read(f"{scratch}/a/b") == "kept"


async def listing_names_the_children(store: Xenstore, scratch: str) -> None:
    assert await store.list(scratch) == []
    await store.mkdir(scratch)
    assert await store.list(scratch) == []
    for name in ("one", "two-2", "three_3", "@four"):
        await store.write(f"{scratch}/{name}/below", "")
    assert sorted(await store.list(scratch)) == ["@four", "one", "three_3", "two-2"]


async def listing_beyond_one_message_is_complete(store: Xenstore, scratch: str) -> None:
    names = [f"{number:04}-0123456789-0123456789-0123456789" for number in range(300)]
    await asyncio.gather(*(store.write(f"{scratch}/{name}", "") for name in names))
    assert sorted(await store.list(scratch)) == names


async def removing_takes_all_below_and_forgives_absence(store: Xenstore, scratch: str) -> None:
    await store.write(f"{scratch}/a/b", "1")
    await store.remove(f"{scratch}/a")
    assert await store.read_many([f"{scratch}/a", f"{scratch}/a/b"]) == [None, None]
    await store.remove(f"{scratch}/a")
    await store.remove(f"{scratch}/never/was/there")


async def many_reads_come_back_in_order(store: Xenstore, scratch: str) -> None:
    keys = [f"{scratch}/{number % 40}" for number in range(1200)]
    for number in range(0, 40, 2):
        await store.write(f"{scratch}/{number}", str(number))
    expected = [None if number % 2 else str(number % 40) for number in range(1200)]
    assert await store.read_many(keys) == expected
    assert await store.read_many([]) == []


async def calls_made_together_are_all_answered(store: Xenstore, scratch: str) -> None:
    await asyncio.gather(*(store.write(f"{scratch}/{number}", "x" * 2000) for number in range(300)))
    assert await store.read_many([f"{scratch}/{number}" for number in range(300)]) == ["x" * 2000] * 300


async def guarded_write_needs_its_guard(store: Xenstore, scratch: str) -> None:
    values = {f"{scratch}/domain/memory/target": "1", f"{scratch}/domain/memory/dynamic-max": "2"}
    assert await store.write_if_exists(values, f"{scratch}/domain") is False
    assert await store.read(scratch) is None

    await store.mkdir(f"{scratch}/domain")
    assert await store.write_if_exists(values, f"{scratch}/domain") is True
    assert await store.read_many(list(values)) == ["1", "2"]


async def guarded_writes_made_together_all_succeed(store: Xenstore, scratch: str) -> None:
    await store.mkdir(scratch)
    written = await asyncio.gather(
        *(store.write_if_exists({f"{scratch}/key": str(number)}, scratch) for number in range(3)),
    )
    assert written == [True, True, True]
    assert await store.read(f"{scratch}/key") in {"0", "1", "2"}


async def watch_fires_at_first_and_at_each_change_below(store: Xenstore, scratch: str) -> None:
    await store.watch(scratch, "law")
    await events_until(store, lambda events: scratch in events.paths)

    await store.write(f"{scratch}/a/b", "1")
    await events_until(store, lambda events: f"{scratch}/a/b" in events.paths)

    await store.remove(f"{scratch}/a")
    await events_until(store, lambda events: f"{scratch}/a" in events.paths)
    await store.unwatch(scratch, "law")


async def watches_set_together_are_watches_each(store: Xenstore, scratch: str) -> None:
    below = [f"{scratch}/{number}" for number in range(3)]
    await store.watch(below[0], "law")
    await store.watch_many([(path, "law") for path in below])
    await events_until(store, lambda events: set(below) <= events.paths)

    await store.write(below[2], "1")
    await events_until(store, lambda events: below[2] in events.paths)
    await refusal(store.watch_many([(scratch, "law"), ("no path", "law")]), InvalidValue)
    for path in below:
        await store.unwatch(path, "law")


async def watch_below_a_removed_directory_fires(store: Xenstore, scratch: str) -> None:
    await store.write(f"{scratch}/a/b", "1")
    await store.watch(f"{scratch}/a/b", "law")
    await events_until(store, lambda events: f"{scratch}/a/b" in events.paths)

    await store.remove(scratch)
    await events_until(store, lambda events: f"{scratch}/a/b" in events.paths)
    await store.unwatch(f"{scratch}/a/b", "law")


async def ended_watch_is_silent(store: Xenstore, scratch: str) -> None:
    await store.watch(f"{scratch}/ended", "law")
    await store.watch(f"{scratch}/kept", "law")
    await events_until(store, lambda events: len(events.paths) == 2)
    await store.unwatch(f"{scratch}/ended", "law")
    await store.unwatch(f"{scratch}/ended", "law")

    await store.write(f"{scratch}/ended", "1")
    await store.write(f"{scratch}/kept", "1")
    events = await events_until(store, lambda events: f"{scratch}/kept" in events.paths)
    assert events.paths == {f"{scratch}/kept"}
    await store.unwatch(f"{scratch}/kept", "law")


async def watching_twice_is_watching_once(store: Xenstore, scratch: str) -> None:
    await store.watch(scratch, "law")
    await store.watch(scratch, "law")
    await store.unwatch(scratch, "law")
    await events_until(store, lambda events: scratch in events.paths)


async def special_watches_fire_at_first(store: Xenstore, scratch: str) -> None:
    del scratch
    specials = (paths.INTRODUCE_DOMAIN, paths.RELEASE_DOMAIN)
    for special in specials:
        await store.watch(special, "law")
    await events_until(store, lambda events: events.paths >= set(specials))
    for special in specials:
        await store.unwatch(special, "law")


async def what_the_protocol_forbids_is_never_sent(store: Xenstore, scratch: str) -> None:
    await store.mkdir(scratch)
    sent = store.requests
    for value in ("\u00e4", "1\n", "tab\t", "nul\0", "\x7f", "x" * 4096):
        error = await refusal(store.write(f"{scratch}/key", value), InvalidValue)
        assert f"{scratch}/key" in str(error)
        await refusal(store.write_if_exists({f"{scratch}/key": value}, scratch), InvalidValue)
    for path in (
        "",
        "relative",
        f"{scratch}/",
        "//",
        f"{scratch}/a b",
        f"{scratch}/\u00e4",
        "/" + "a" * 3072,
    ):
        for call in (store.read, store.list, store.remove, store.mkdir):
            await refusal(call(path), InvalidValue)
        await refusal(store.watch(path, "law"), InvalidValue)
    for token in ("", "two\nlines", "t" * 4096):
        await refusal(store.watch(scratch, token), InvalidValue)
    assert store.requests == sent
    assert await store.read(f"{scratch}/key") is None
    assert store.connected


LAWS: Final = (
    written_value_is_read_back,
    absent_key_reads_as_none,
    writing_creates_the_way_with_empty_values,
    making_a_directory_keeps_what_is_there,
    listing_names_the_children,
    listing_beyond_one_message_is_complete,
    removing_takes_all_below_and_forgives_absence,
    many_reads_come_back_in_order,
    calls_made_together_are_all_answered,
    guarded_write_needs_its_guard,
    guarded_writes_made_together_all_succeed,
    watch_fires_at_first_and_at_each_change_below,
    watches_set_together_are_watches_each,
    watch_below_a_removed_directory_fires,
    ended_watch_is_silent,
    watching_twice_is_watching_once,
    special_watches_fire_at_first,
    what_the_protocol_forbids_is_never_sent,
)
