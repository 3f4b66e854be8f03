"""Random steps by the million: the state machine of the engine's tests, without hypothesis' search.

Each step is one thing that happens to a host (`tests.property.test_engine_machine` says which). After each it
is checked that nobody was promised what is not there and that every reservation stands, to the KiB; where the
host comes to rest is left to that test. A recorded run::

    python -m tests.steps --steps 1000000
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from typing import TYPE_CHECKING, Any, Final

from tests.builders import MIB
from tests.plainhost import Guest, Manner
from tests.property.test_engine_machine import HostMachine

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

STEPS_PER_HOST: Final = 100
RATES: Final = (1_000_000.0, 250_000.0, 64_000.0)


class Draw:
    """Random values of the kinds that the machine's rules take.

    Args:
        seed: decides all of them.
    """

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)  # noqa: S311 -- no secret

    def size_kib(self) -> int:
        return self.rng.choice((self.rng.randint(0, 64) * 32 * MIB, self.rng.randint(0, 2048 * MIB)))

    def small_size_kib(self) -> int:
        return self.size_kib() // 4

    def number(self) -> int:
        return self.rng.randint(0, 59)

    def manner(self) -> Manner:
        rate_kib_s = self.rng.choice(RATES)
        return self.rng.choice(
            (
                Manner(rate_kib_s, short_kib=self.rng.choice((0, 4, 12, 100, 1000))),
                Manner(rate_kib_s, delay_s=self.rng.choice((0.5, 2.0, 4.0, 8.0))),
                Manner(rate_kib_s, pause_s=self.rng.choice((0.25, 1.5, 4.0, 8.0))),
                Manner(rate_kib_s, floor_kib=self.size_kib()),
                Manner(rate_kib_s, ceiling_kib=self.size_kib()),
                Manner(rate_kib_s=0.0),
            )
        )

    def flag(self) -> bool:
        return self.rng.random() < 0.5

    def mostly(self) -> bool:
        return self.rng.random() < 5 / 6

    def guest(self) -> Guest:
        low_kib, width_kib = self.small_size_kib(), self.size_kib()
        actual_kib = low_kib + self.size_kib() % (width_kib + 1)
        has_range = self.mostly()
        return Guest(
            domid=0,
            low_kib=low_kib if has_range else actual_kib,
            high_kib=low_kib + width_kib if has_range else actual_kib,
            actual_kib=actual_kib,
            manner=self.manner(),
            can_balloon=self.mostly(),
            has_range=has_range,
        )

    def rules(self) -> Mapping[str, Callable[[], dict[str, Any]]]:
        """What each rule of the machine is given; those in the second half need a guest."""
        return {
            "time_passes": lambda: {"for_s": self.rng.choice((0.05, 0.3, 1.0, 3.0))},
            "somebody_asks_for_memory": lambda: {
                "min_kib": self.small_size_kib(),
                "more_kib": self.size_kib(),
                "exact": self.flag(),
                "for_a_vm": self.flag(),
                "timeout_s": self.rng.choice((0.0, 2.0, 20.0, 60.0)),
            },
            "somebody_deletes_a_reservation": lambda: {"number": self.number()},
            "a_vm_starts": lambda: {
                "number": self.number(),
                "manner": self.manner(),
                "can_balloon": self.mostly(),
            },
            "a_vm_is_built_further": lambda: {"part": self.rng.choice((1, 2, 3))},
            "the_daemon_restarts": dict,
            "the_daemon_dies_between_two_actions": lambda: {"actions": self.rng.randint(0, 12)},
            "the_clock_jumps": dict,
            "somebody_changes_a_range": lambda: {
                "number": self.number(),
                "low_kib": self.small_size_kib(),
                "width_kib": self.rng.choice((0, self.size_kib())),
            },
            "a_vm_ends": lambda: {"number": self.number()},
            "a_vm_begins_to_die": lambda: {
                "number": self.number(),
                "kept_kib": self.rng.choice((0, 0, 4 * MIB)),
            },
            "a_vm_is_paused_or_goes_on": lambda: {"number": self.number()},
            "a_driver_changes_its_manner": lambda: {"number": self.number(), "manner": self.manner()},
            "a_driver_comes_or_goes": lambda: {"number": self.number()},
            "a_domain_cannot_be_touched_for_a_turn": lambda: {"number": self.number()},
        }


NEED_A_GUEST: Final = frozenset(
    {
        "somebody_changes_a_range",
        "a_vm_ends",
        "a_vm_begins_to_die",
        "a_vm_is_paused_or_goes_on",
        "a_driver_changes_its_manner",
        "a_driver_comes_or_goes",
        "a_domain_cannot_be_touched_for_a_turn",
    }
)


def take_steps(steps: int, seed: int) -> tuple[int, int]:
    """Take so many steps on as many hosts as that needs; AssertionError where a promise is broken.

    Returns:
        How many hosts there were, and how many requests were granted on them.
    """
    draw = Draw(seed)
    rules = draw.rules()
    names = sorted(rules)
    taken = hosts = granted = 0
    while taken < steps:
        machine = HostMachine()
        machine.a_host(
            drawn=[draw.guest() for _ in range(draw.rng.randint(0, 5))],
            free_kib=draw.size_kib(),
            extra_kib=draw.rng.choice((0, draw.size_kib())),
            slush_kib=draw.rng.choice((0, 72 * MIB)),
        )
        hosts += 1
        for _ in range(min(STEPS_PER_HOST, steps - taken)):
            name = draw.rng.choice(names)
            if name not in NEED_A_GUEST or machine.has_guests():
                before = len(machine.granted)
                getattr(machine, name)(**rules[name]())
                granted += max(0, len(machine.granted) - before)
            machine.nobody_was_promised_what_is_not_there()
            machine.no_reservation_is_lost()
            machine.the_engine_counts_as_the_bookkeeper_does()
            machine.no_request_outlives_its_deadline()
            taken += 1
    return hosts, granted


def main() -> int:
    """Take the steps and say so; an exception is a broken promise."""
    parser = argparse.ArgumentParser(prog="python -m tests.steps", description=main.__doc__)
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    began_s = time.monotonic()
    hosts, granted = take_steps(options.steps, options.seed)
    sys.stdout.write(
        f"{options.steps} steps on {hosts} hosts, {granted} grants, in {time.monotonic() - began_s:.0f} s: "
        "nobody over-promised, every reservation exact\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
