"""Who gets a place among the calls, and what strangers may send meanwhile."""

from __future__ import annotations

from contextlib import ExitStack

from xcpmem.api.places import PlaceLimits, Places
from xcpmem.api.sessions import Peer

HERE, THERE, OWNER = Peer("192.0.2.1"), Peer("192.0.2.2"), Peer("unix", 0)


def test_last_places_are_kept_for_others_than_the_one_who_has_all_the_rest() -> None:
    places = Places(PlaceLimits(calls=5, kept=2))
    with ExitStack() as held:
        for _ in range(3):
            assert places.is_free(HERE, 0)
            held.enter_context(places.taken(HERE))
        assert not places.is_free(HERE, 0)
        for _ in range(2):
            assert places.is_free(THERE, 0)
            held.enter_context(places.taken(THERE))
        assert not places.is_free(Peer("192.0.2.3"), 0)
        assert places.is_free(OWNER, 0)
        with places.taken(OWNER):
            assert len(places) == 5
    assert len(places) == 0
    assert places.is_free(HERE, 0)


def test_strangers_share_a_bound_of_bytes_that_ends_with_their_bodies() -> None:
    places = Places(PlaceLimits(stranger_bytes=100), lambda source: source == "192.0.2.2")
    with places.reading(HERE, 80):
        assert not places.is_free(Peer("192.0.2.3"), 21)
        assert places.is_free(Peer("192.0.2.3"), 20)
        assert places.is_free(THERE, 10_000)
        assert places.is_free(OWNER, 10_000)
        with places.reading(THERE, 10_000), places.reading(OWNER, 10_000):
            assert places.is_free(HERE, 20)
    assert places.is_free(HERE, 100)
