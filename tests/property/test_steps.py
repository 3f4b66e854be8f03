"""Some of the steps that ``python -m tests.steps`` takes by the million."""

from __future__ import annotations

from tests.property.test_engine_machine import HostMachine
from tests.steps import Draw, take_steps


def test_every_promise_is_kept_at_random_steps() -> None:
    hosts, granted = take_steps(5000, seed=11)
    assert hosts == 50
    assert granted > 100


def test_steps_are_those_that_the_machine_knows() -> None:
    rules = {
        name for name, member in vars(HostMachine).items() if hasattr(member, "hypothesis_stateful_rule")
    }
    assert set(Draw(1).rules()) == rules
