"""Policies of other packages, and the watch that is put on every policy."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.metadata import EntryPoint
from typing import TYPE_CHECKING, Any

import pytest

from tests.builders import a_claim
from xcpmem.engine.parameters import Parameters
from xcpmem.engine.policies import POLICIES, find_policy
from xcpmem.engine.policy import ChosenPolicy, Division, Snapshot
from xcpmem.plugins import GROUP, load_policies
from xcpmem.watchedpolicy import WatchedPolicy, under_watch

if TYPE_CHECKING:
    from xcpmem.engine.policy import State


class Least:
    """A policy of another package."""

    name = "least"
    about = "dynamic-min for everybody"
    parameters: Any = Parameters

    def plan(self, snapshot: Snapshot, state: State, _: Any) -> tuple[Division, State]:
        return Division([claim.low_kib for claim in snapshot.claims]), state


class Misnamed(Least):
    name = "Most Of It"


@dataclass(frozen=True)
class NoDefault(Parameters):
    share: int


class Unset(Least):
    parameters = NoDefault


class NoParameters(Least):
    parameters = None


@dataclass(frozen=True)
class Named(Parameters):
    name: str = "x"


class Confusing(Least):
    parameters = Named


class Proportional(Least):
    name = "proportional"


def point(what: str, name: str = "least") -> EntryPoint:
    return EntryPoint(name, f"{__name__}:{what}", GROUP)


def test_policy_of_another_package_is_found() -> None:
    policies = load_policies([point("Least")])
    assert list(policies) == [*POLICIES, "least"]
    division, _ = find_policy("least", {}, policies).plan(Snapshot(0.0, 9, [a_claim(3, 9)]), {})
    assert division.goals_kib == [3]


def test_without_others_there_are_the_built_in_ones() -> None:
    assert load_policies([]) == dict(POLICIES)


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (point("Misnamed"), "its name is 'Most Of It', expected 'least'"),
        (point("Missing"), "AttributeError"),
        (point("Unset"), "parameter share must be a bool, int, float or str with a default"),
        (point("NoParameters"), "its parameters must be a class derived from Parameters"),
        (point("Confusing"), "no parameter may be called 'name'"),
        (point("Proportional", "proportional"), "there is one of that name"),
    ],
)
def test_policy_that_cannot_be_used_is_left_out_and_said_why(
    bad: EntryPoint, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert load_policies([bad]) == dict(POLICIES)
    assert why in caplog.text


@dataclass
class Hands:
    """A clock that goes on by a step at each look."""

    step_s: float
    now_s: float = field(default=0.0)

    def __call__(self) -> float:
        self.now_s += self.step_s
        return self.now_s


@pytest.mark.parametrize(
    ("computing_s", "wall_s", "claims", "is_late"),
    [
        (0.1, 0.1, 1, False),
        (0.3, 0.3, 1, True),
        (0.0, 1.9, 1, False),
        (0.0, 2.1, 1, True),
        (0.3, 0.3, 4000, False),
    ],
)
def test_answer_that_comes_too_late_counts_as_none(
    computing_s: float, wall_s: float, claims: int, *, is_late: bool
) -> None:
    watched = WatchedPolicy(Least(), Hands(computing_s), Hands(wall_s))
    snapshot = Snapshot(0.0, 0, [a_claim(0, 1)] * claims)
    if is_late:
        with pytest.raises(TimeoutError, match=r"at most 0\.2 s"):
            watched.plan(snapshot, {}, Parameters())
    else:
        assert len(watched.plan(snapshot, {}, Parameters())[0].goals_kib) == claims


def test_watch_is_put_on_once_and_looks_like_what_it_watches() -> None:
    chosen = under_watch(ChosenPolicy(Least(), Parameters()))
    assert under_watch(chosen) is chosen
    assert (chosen.name, chosen.policy.about, chosen.policy.parameters) == (
        *("least", "dynamic-min for everybody", Parameters),
    )
