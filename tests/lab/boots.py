"""Which checks run in which boot of the emulated machine, in this order.

A boot with its checks is to take no more than six minutes, so the checks are spread over several. They are
named ``module.function`` below `tests.lab.dom0`, which only dom0 itself can import.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

BOOTS: Final[Mapping[str, tuple[str, ...]]] = {
    "memory": (
        "balloon_checks.guests_obey_plain_xenstore_writes",
        "daemon_checks.starting_the_daemon_moves_nothing",
        "daemon_checks.adopted_guests_are_pinned",
        "daemon_checks.dynamic_range_moves_a_guest",
        "daemon_checks.disordered_range_is_refused",
        "script_checks.script_for_xapi_lists_sets_and_follows_events",
        "daemon_checks.metrics_show_what_guests_hold",
        "daemon_checks.readiness_is_reported",
        "reservation_checks.reservation_is_taken_proportionally_and_really_free",
        "reservation_checks.deleted_reservation_lets_guests_grow_back",
        "reservation_checks.daemon_killed_while_guests_give_ends_in_the_same_state",
        "reservation_checks.reservation_survives_a_killed_daemon",
        "reservation_time.reservation_time_beside_plain_writes",
        "daemon_checks.sigterm_ends_the_daemon_and_moves_nothing",
        "contract_checks.host_port_keeps_its_contract",
    ),
    "package": ("package_checks.package_serves_under_its_units_command_line",),
    "starts": (
        "start_checks.vm_starts_by_squeezing_two_others",
        "start_checks.vm_that_can_never_fit_is_refused_at_once_and_nobody_moves",
        "deaf_checks.eight_reservations_together_take_as_long_as_one",
        "deaf_checks.frozen_guest_is_worked_around",
        "deaf_checks.guest_without_balloon_driver_is_worked_around",
        "xenopsd_checks.xenopsds_start_sequence_builds_a_guest_under_pressure",
        "start_checks.daemon_killed_at_five_moments_of_a_start",
    ),
    "hardship": (
        "suspension_checks.suspended_guest_comes_back_as_large_as_it_was",
        "hardship_checks.xenstored_cut_off_and_back_is_made_up_for",
        "hardship_checks.guest_destroyed_during_a_request_is_no_loss_to_anybody",
        "hardship_checks.guest_that_writes_garbage_into_every_key_it_may_harms_nobody",
    ),
    "pressure": (
        "pressure_checks.guests_tell_what_they_need",
        "pressure_checks.hog_stalls_half_as_long_when_memory_follows_need",
    ),
    "trust": (
        "pressure_checks.memory_goes_back_when_the_hog_ends",
        "pressure_checks.lying_guest_takes_nobodys_share",
    ),
}


def function_of(check: str) -> str:
    """The check's name as it is reported and asked for."""
    return check.rpartition(".")[2]


def selected(only: Collection[str]) -> dict[str, tuple[str, ...]]:
    """The boots with those of their checks that were asked for; boots that are left without any are not made.

    Args:
        only: Names of boots, or of checks by function; none means all.

    Raises:
        ValueError: A name is neither.
    """
    unknown = set(only) - set(BOOTS) - {function_of(check) for checks in BOOTS.values() for check in checks}
    if unknown:
        raise ValueError(f"no boot and no check is called {', '.join(sorted(unknown))}")
    chosen = {
        boot: tuple(check for check in checks if not only or boot in only or function_of(check) in only)
        for boot, checks in BOOTS.items()
    }
    return {boot: checks for boot, checks in chosen.items() if checks}
