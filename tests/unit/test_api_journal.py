"""The journal: what looks new, changed or gone from any point in the past."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xcpmem.api import codec
from xcpmem.api.journal import (
    DELETIONS_KEPT,
    EVERYTHING,
    LONGEST_KEY,
    SUBSCRIPTIONS_MOST,
    Journal,
    Subscription,
)
from xcpmem.api.values import I4
from xcpmem.errors import InvalidValue, SubscriptionInvalid
from xcpmem.refs import opaque_ref

START = 1000
ALL = Subscription.parse(["*"])


class Kept(Journal):
    """A journal of two classes, on a clock that stands still, and what it told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []
        super().__init__(("VM", "task"), START, lambda: 1.5, lambda *object_: self.told.append(object_))

    def seen(self, generation: int, *words: str) -> list[str]:
        """What changed, in short: ``+a``, ``~b``, ``-c``."""
        wanted = Subscription.parse(words or ("*",))
        signs = {"add": "+", "mod": "~", "del": "-"}
        return [signs[change.operation] + change.ref for change in self.since(generation, wanted)]


def test_everything_is_new_to_who_knows_nothing() -> None:
    journal = Kept()
    journal.load("VM", ["a", "b"])
    journal.put("VM", "c")
    assert journal.seen(EVERYTHING) == ["+a", "+b", "+c"]


def test_what_was_there_before_looks_changed_to_who_knows_an_earlier_journal() -> None:
    journal = Kept()
    journal.load("VM", ["a"])
    assert journal.seen(START - 500) == ["~a"]
    assert journal.seen(START) == []


def test_each_object_is_told_once_and_new_ones_first_gone_ones_last() -> None:
    journal = Kept()
    journal.load("VM", ["changed", "gone", "same"])
    journal.remove("VM", "gone")
    for _ in range(3):
        journal.put("VM", "changed")
    for _ in range(2):
        journal.put("VM", "new")
    assert journal.seen(START) == ["+new", "~changed", "-gone"]
    assert journal.seen(journal.generation) == []


def test_order_within_a_kind_is_that_of_the_last_changes() -> None:
    journal = Kept()
    journal.load("VM", "abc")
    for ref in "cabc":
        journal.put("VM", ref)
    assert journal.seen(START) == ["~a", "~b", "~c"]
    for ref in "cab":
        journal.remove("VM", ref)
    assert journal.seen(START) == ["-c", "-a", "-b"]


def test_what_came_and_went_is_not_told() -> None:
    journal = Kept()
    journal.put("VM", "brief")
    journal.remove("VM", "brief")
    assert journal.seen(START) == []
    assert journal.generation == START + 2


def test_what_was_never_there_is_not_lost() -> None:
    journal = Kept()
    journal.remove("VM", "nobody")
    assert (journal.generation, journal.told) == (START, [])


def test_what_went_and_came_back_is_changed_to_who_knew_it_and_new_to_who_saw_it_go() -> None:
    journal = Kept()
    journal.load("VM", ["a"])
    journal.remove("VM", "a")
    gone = journal.generation
    journal.put("VM", "a")
    assert journal.seen(START) == ["~a"]
    assert journal.seen(gone) == ["+a"]
    assert journal.seen(EVERYTHING) == ["+a"]
    journal.remove("VM", "a")
    assert journal.seen(START) == ["-a"]


def test_numbers_and_times_are_those_of_the_last_change() -> None:
    journal = Kept()
    journal.put("VM", "a")
    journal.put("VM", "b")
    journal.put("VM", "a")
    assert [(change.ref, change.generation, change.time_s) for change in journal.since(START, ALL)] == [
        ("b", START + 2, 1.5),
        ("a", START + 3, 1.5),
    ]
    assert journal.told == [("vm", "a"), ("vm", "b"), ("vm", "a")]


def test_deletions_are_kept_in_bounds_class_by_class() -> None:
    journal = Kept()
    refs = [str(number) for number in range(DELETIONS_KEPT + 3)]
    journal.load("task", refs)
    journal.load("VM", ["a"])
    journal.remove("VM", "a")
    first_lost = journal.generation + 3
    for ref in refs:
        journal.remove("task", ref)
    told = journal.seen(START)
    assert len(told) == DELETIONS_KEPT + 1
    assert told[0] == "-a"
    assert told[1] == f"-{refs[3]}"
    assert journal.forgotten == first_lost
    assert journal.counts == {"vm": 0, "task": 0}


def test_counts_are_numbers_on_xml_rpc_and_the_same_record_until_they_change() -> None:
    journal = Kept()
    journal.load("VM", ["a", "b"])
    counts = journal.counts
    assert counts == {"vm": 2, "task": 0}
    assert {type(count) for count in counts.values()} == {I4}
    assert b"<name>vm</name><value><i4>2</i4></value>" in codec.encode_value(counts)
    journal.put("VM", "a")
    assert journal.counts is counts
    journal.put("VM", "c")
    journal.remove("VM", "a")
    assert journal.counts == {"vm": 2, "task": 0}
    assert journal.counts is not counts


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["*"], ["+a", "+b", "+t"]),
        (["vm"], ["+a", "+b"]),
        (["Vm", "TASK"], ["+a", "+b", "+t"]),
        (["VM/a"], ["+a"]),
        (["vm/a", "task/t", "task/u"], ["+a", "+t"]),
        (["vm/A"], []),
        (["SR", "", "vm/", "/a", "vm "], []),
        ([], []),
    ],
)
def test_subscription_wants_what_it_names(words: list[str], expected: list[str]) -> None:
    journal = Kept()
    for class_name, ref in (("VM", "a"), ("VM", "b"), ("task", "t")):
        journal.put(class_name, ref)
    changes = journal.since(START, Subscription.parse(words))
    assert [f"+{change.ref}" for change in changes] == expected


def test_subscription_to_more_than_a_fleet_has_classes_or_hosts_have_guests_is_refused() -> None:
    words = [f"vm/{number}" for number in range(SUBSCRIPTIONS_MOST)]
    assert len(Subscription.parse([*words, "VM/0"]).keys) == SUBSCRIPTIONS_MOST
    with pytest.raises(InvalidValue) as refusal:
        Subscription.parse([*words, "host"])
    assert refusal.value.params == ("classes", "257 of them; at most 256 are taken")


def test_what_is_longer_than_any_class_and_reference_is_not_kept() -> None:
    longest = f"vm_guest_metrics/{opaque_ref('VM_guest_metrics', 'x')}"
    assert len(longest) <= LONGEST_KEY
    assert Subscription.parse([longest, "x" * 290_000]).keys == {longest}


def test_subscription_of_three_parts_is_none() -> None:
    with pytest.raises(SubscriptionInvalid) as refusal:
        Subscription.parse(["vm", "vm/a/b"])
    assert refusal.value.params == ("vm/a/b",)


@pytest.mark.parametrize(
    ("words", "is_task_only"),
    [
        (["task"], True),
        (["Task/a", "task"], True),
        (["task", "vm"], False),
        (["*"], False),
        (["tasks"], False),
    ],
)
def test_subscription_to_tasks_alone_is_known(words: list[str], is_task_only: bool) -> None:
    assert Subscription.parse(words).is_task_only == is_task_only


@given(st.lists(st.tuples(st.sampled_from("+-?"), st.integers(0, 4)), max_size=60))
def test_client_that_asks_now_and_then_knows_what_there_is(steps: list[tuple[str, int]]) -> None:
    journal = Kept()
    journal.load("VM", ["0", "1"])
    living, mirror, known = {"0", "1"}, set[str](), EVERYTHING
    for step, number in [*steps, ("?", 0)]:
        ref = str(number)
        if step == "+":
            journal.put("VM", ref)
            living.add(ref)
        elif step == "-":
            journal.remove("VM", ref)
            living.discard(ref)
        else:
            for change in journal.since(known, ALL):
                (mirror.discard if change.operation == "del" else mirror.add)(change.ref)
            known = journal.generation
            assert mirror == living
    assert journal.counts["vm"] == len(living)
