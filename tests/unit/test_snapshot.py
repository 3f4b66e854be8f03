"""The engine's inputs survive JSON, and what was edited by hand is refused by name."""

from __future__ import annotations

import json
from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.builders import a_domain, a_host, a_request, wanting
from xcpmem.engine.model import DomainState, DynamicRange, HostState, Lifecycle, Reservation, Wishes
from xcpmem.engine.sample import Sample
from xcpmem.errors import InvalidValue
from xcpmem.snapshot import host_of, to_plain, wishes_of

SIZES = st.integers(0, 2**50)
SAMPLES = st.builds(
    Sample, seen_s=st.floats(0, 1e9), period_s=st.floats(0.1, 100), used_kib=SIZES, source=st.text()
)
DOMAINS = st.builds(
    DomainState,
    domid=st.integers(0, 2**15),
    uuid=st.uuids().map(str),
    dynamic_range=st.tuples(SIZES, SIZES).map(lambda pair: DynamicRange(min(pair), max(pair))),
    target_kib=SIZES,
    actual_kib=SIZES,
    maxmem_kib=SIZES,
    can_balloon=st.booleans(),
    lifecycle=st.sampled_from(Lifecycle),
    has_range=st.booleans(),
    is_ending=st.booleans(),
    offset_kib=st.none() | st.integers(-1000, 1000),
    sample=st.none() | SAMPLES,
)
HOSTS = st.builds(
    HostState,
    total_kib=SIZES,
    free_kib=SIZES,
    scrub_kib=SIZES,
    slush_kib=SIZES,
    domains=st.lists(DOMAINS, max_size=3).map(tuple),
    reservations=st.lists(
        st.builds(Reservation, reservation_id=st.text(), owner=st.text(), size_kib=SIZES), max_size=2
    ).map(tuple),
    others_kib=st.none() | SIZES,
)


@given(host=HOSTS)
def test_host_comes_back_from_json_as_it_was(host: HostState) -> None:
    assert host_of(json.loads(json.dumps(to_plain(host)))) == host


def test_wishes_come_back_from_json_as_they_were() -> None:
    wishes = Wishes({"u": DynamicRange(1, 2)}, (a_request(5, 9),), frozenset({3, 1}))
    assert wishes_of(json.loads(json.dumps(to_plain(wishes)))) == wishes


def test_every_field_of_the_model_can_be_written_and_read() -> None:
    strategies = {"domains", "reservations", "others_kib", "total_kib", "free_kib", "scrub_kib", "slush_kib"}
    assert {each.name for each in fields(HostState)} == strategies
    full = to_plain(wanting(a_request(1), d1=DynamicRange(0, 1)))
    assert wishes_of(full) == wanting(a_request(1), d1=DynamicRange(0, 1))


def test_what_is_as_usual_is_left_out() -> None:
    plain = to_plain(a_host(a_domain()))
    assert "lifecycle" not in plain["domains"][0]
    assert "reservations" not in plain


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"free_kib": "1"}, "host.free_kib"),
        ({"free_kib": True}, "host.free_kib"),
        ({"fre_kib": 1}, "host.fre_kib"),
        ({"domains": {}}, "host.domains"),
        ({"domains": [{"domid": 1}]}, "host.domains[0].uuid"),
        ({"domains": [7]}, "host.domains[0]"),
        (
            {"reservations": [{"reservation_id": "r", "owner": "o", "size_kib": -1}]},
            "host.reservations[0].size_kib",
        ),
    ],
)
def test_wrong_value_is_named_by_its_path(change: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        host_of(to_plain(a_host(a_domain())) | change)
    assert caught.value.params[0] == field


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"lifecycle": "sleepy"}, "host.domains[0].lifecycle"),
        ({"dynamic_range": {"min_kib": 2, "max_kib": 1}}, "host.domains[0].dynamic_range.dynamic_max_kib"),
        ({"offset_kib": 0.5}, "host.domains[0].offset_kib"),
        ({"sample": {"seen_s": 1}}, "host.domains[0].sample.period_s"),
    ],
)
def test_wrong_value_of_a_domain_is_named_by_its_path(change: dict[str, object], field: str) -> None:
    plain = to_plain(a_host(a_domain()))
    plain["domains"][0] |= change
    with pytest.raises(InvalidValue) as caught:
        host_of(plain)
    assert caught.value.params[0] == field


@pytest.mark.parametrize("plain", [None, [], {"ranges": 1}, {"left_alone": ["1"]}, {"ranges": {"u": 1}}])
def test_wishes_that_are_none_are_refused(plain: object) -> None:
    with pytest.raises(InvalidValue):
        wishes_of(plain)
