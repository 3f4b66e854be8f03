"""Counting calls: a duration that is a bound counts with it, and what came first is listed first."""

from __future__ import annotations

from xcpmem.call_tally import CallTally


def test_durations_are_counted_with_the_bound_they_do_not_exceed() -> None:
    tally = CallTally((0.5, 1.0))
    for duration_s in (0.0, 0.5, 0.75, 1.0, 60.0):
        tally.note("VM.get_all", "success", duration_s)
    durations = tally.durations()["VM.get_all"]
    assert durations.cumulated() == (2, 4, 5)
    assert durations.sum_s == 62.25


def test_calls_are_told_apart_by_method_and_status_in_the_order_in_which_they_first_came() -> None:
    tally = CallTally((1.0,))
    for method, status in (("b", "success"), ("a", "success"), ("b", "success"), ("b", "HANDLE_INVALID")):
        tally.note(method, status, 0.0)
    assert list(tally.answers().items()) == [
        (("b", "success"), 2),
        (("a", "success"), 1),
        (("b", "HANDLE_INVALID"), 1),
    ]
    assert list(tally.durations()) == ["b", "a"]
    assert tally.noted == 4


def test_what_is_given_out_does_not_change_while_calls_go_on() -> None:
    tally = CallTally((1.0,))
    tally.note("a", "success", 0.0)
    answers, durations = tally.answers(), tally.durations()
    tally.note("a", "HANDLE_INVALID", 0.0)
    tally.note("b", "success", 0.0)
    assert (len(answers), len(durations)) == (1, 1)
