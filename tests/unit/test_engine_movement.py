"""How memory moves under ``pressure``: at once where it must, else slowly, and not at all for nothing."""

from __future__ import annotations

from typing import Final

from xcpmem.engine.movement import Move, MovementParameters, Pool, Standing, move

DEFAULTS: Final = MovementParameters(
    dead_band_kib=10, idle_pool_kib=50, drift_s=10.0, drift_steps=8, uneven_percent=15.0
)


def step(
    *standings: Standing,
    size_kib: int,
    reserve_kib: int = 0,
    now_s: float = 100.0,
    last_s: float | None = 0.0,
) -> Move:
    return move(standings, Pool(size_kib, reserve_kib), now_s, last_s, DEFAULTS)


def test_guest_that_needs_more_takes_it_from_the_pool() -> None:
    moved = step(Standing(400, 0, 500, 500), Standing(400, 0, 400, 400), size_kib=900)
    assert moved.goals_kib == [500, 400]


def test_what_the_pool_lacks_is_taken_from_surplus_and_no_more() -> None:
    moved = step(
        Standing(400, 0, 500, 500),
        Standing(400, 0, 300, 330),
        Standing(200, 0, 100, 170),
        Standing(100, 0, 100, 100),
        size_kib=1100,
    )
    assert moved.goals_kib == [500, 350, 150, 100]


def test_reserve_is_filled_again_when_less_than_half_is_left() -> None:
    rich = Standing(1000, 0, 500, 980)
    assert step(rich, size_kib=1005, reserve_kib=20).goals_kib == [985]
    assert step(rich, size_kib=1010, reserve_kib=20).goals_kib == [1000]


def test_surplus_is_levelled_an_eighth_at_a_time() -> None:
    uneven = Standing(800, 0, 100, 480), Standing(160, 0, 100, 480)
    moved = step(*uneven, size_kib=960)
    assert moved.goals_kib == [760, 200]
    assert (moved.drifted_s, moved.wait_s) == (100.0, 10.0)


def test_levelling_waits_for_its_time() -> None:
    uneven = Standing(800, 0, 100, 480), Standing(160, 0, 100, 480)
    moved = step(*uneven, size_kib=960, last_s=94.0)
    assert (moved.goals_kib, moved.drifted_s, moved.wait_s) == ([800, 160], 94.0, 4.0)


def test_surplus_that_is_even_enough_stays() -> None:
    moved = step(Standing(520, 0, 100, 480), Standing(440, 0, 100, 480), size_kib=960)
    assert (moved.goals_kib, moved.wait_s) == ([520, 440], None)


def test_much_that_lies_idle_is_handed_out_though_it_is_even() -> None:
    moved = step(Standing(400, 0, 100, 450), Standing(400, 0, 100, 450), size_kib=900)
    assert moved.goals_kib == [406, 406]


def test_levelling_that_is_nearly_done_is_done() -> None:
    moved = step(Standing(30, 0, 0, 24), Standing(18, 0, 0, 24), size_kib=48)
    assert moved.goals_kib == [24, 24]


def test_in_scarcity_everybody_goes_where_it_should_be() -> None:
    moved = step(Standing(800, 100, 900, 500), Standing(100, 100, 900, 400), size_kib=900)
    assert (moved.goals_kib, moved.wait_s) == ([500, 400], None)


def test_in_scarcity_nobody_moves_for_little() -> None:
    moved = step(Standing(505, 100, 900, 500), Standing(394, 100, 900, 400), size_kib=900)
    assert moved.goals_kib == [505, 394]


def test_in_scarcity_staying_gives_way_to_what_there_is() -> None:
    moved = step(Standing(505, 100, 900, 500), Standing(100, 100, 900, 400), size_kib=900)
    assert moved.goals_kib == [500, 400]


def test_in_scarcity_nobody_stays_below_what_it_must_have() -> None:
    moved = step(Standing(495, 500, 900, 500), Standing(400, 100, 900, 400), size_kib=900)
    assert moved.goals_kib == [500, 400]
