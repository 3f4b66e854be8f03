"""A little of the fuzzing that ``make fuzz`` does at length, and every input that once broke something."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.__main__ import mutate, run_plain
from tests.fuzz.targets import TARGETS, corpus

RUNS = 300

inputs = [(name, data) for name in TARGETS for data in corpus(name)]


@pytest.mark.parametrize(("name", "data"), inputs, ids=[f"{n}-{i}" for i, (n, _) in enumerate(inputs)])
def test_invariant_holds_for_the_corpus(name: str, data: bytes) -> None:
    TARGETS[name](data)


@pytest.mark.parametrize("name", TARGETS)
@settings(max_examples=RUNS, deadline=None, derandomize=True, database=None)
@given(data=st.binary(max_size=200))
def test_invariant_holds_for_any_bytes(name: str, data: bytes) -> None:
    TARGETS[name](data)


@pytest.mark.parametrize("name", TARGETS)
def test_invariant_holds_for_what_is_nearly_right(name: str) -> None:
    assert f" {RUNS} inputs " in run_plain(name, RUNS, 0.0, seed=1)


def test_mutation_changes_inputs_and_keeps_them_short() -> None:
    rng = random.Random(1)  # noqa: S311 - no secret is made
    changed = {mutate(rng, bytes(range(256)) * 20) for _ in range(100)}
    assert len(changed) > 50
    assert max(map(len, changed)) <= 4096


def test_every_target_says_its_invariant_in_the_first_line() -> None:
    assert all((target.__doc__ or "").startswith("Any ") for target in TARGETS.values())
