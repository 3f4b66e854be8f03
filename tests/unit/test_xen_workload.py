"""The guest model: what lacks first, what it costs, and that known knees are where they were seen."""

from __future__ import annotations

from typing import Final

import pytest

from xcpmem.errors import InvalidValue
from xcpmem.xen.workload import Appetite, Comfort, Need, Slowness, comfort_of, refault_kib

IDEAL: Final = Slowness()
SOME: Final = Need(hot_kib=1000, cache_kib=500, cold_kib=300)


@pytest.mark.parametrize(
    ("size_kib", "swapped_kib", "slower"),
    [
        (5000, 0, 0),
        (1800, 0, 0),
        (1600, 200, 0),
        (1500, 300, 0),
        (1250, 300, 4),
        (1000, 300, 8),
        (500, 800, 8 + 20),
        (0, 1300, 8 + 40),
    ],
)
def test_cold_memory_lacks_first_then_the_cache_then_hot_memory(
    size_kib: int, swapped_kib: int, slower: float
) -> None:
    lost_ppm = int(10**6 * slower / (1 + slower))
    assert comfort_of(SOME, size_kib, IDEAL) == Comfort(swapped_kib, lost_ppm)


def test_a_guest_that_wants_nothing_is_content() -> None:
    assert comfort_of(Need(0), 0, IDEAL) == Comfort(0, 0)


def test_a_kernel_build_falls_off_its_cliff_where_senpai_saw_it() -> None:
    build = Need(hot_kib=250 * 1024, cache_kib=int(90.5 * 1024))

    def longer(size_mb: int) -> float:
        return 1 / (1 - comfort_of(build, size_mb * 1024, IDEAL).lost_ppm / 1e6)

    assert longer(803) == 1.0
    assert longer(340) == pytest.approx(1.048, abs=0.01)
    assert longer(300) > 2.3


@pytest.mark.parametrize("active_mb", [240, 256])
def test_the_idle_tax_pays_as_in_waldspurgers_figure_7(active_mb: int) -> None:
    dbench = Need(hot_kib=30 * 1024, cache_kib=(active_mb - 30) * 1024)
    untaxed = 1 - comfort_of(dbench, 180 * 1024, IDEAL).lost_ppm / 1e6
    taxed = 1 - comfort_of(dbench, 240 * 1024, IDEAL).lost_ppm / 1e6
    assert taxed / untaxed > 1.3


def test_an_lru_that_is_not_ideal_needs_more_for_the_same() -> None:
    tenth_wasted = Slowness(waste_ppm=100_000)
    assert comfort_of(Need(900), 1000, tenth_wasted) == Comfort(0, 0)
    assert comfort_of(Need(900), 990, tenth_wasted).lost_ppm > 0


@pytest.mark.parametrize("wrong", [{"waste_ppm": 10**6}, {"waste_ppm": -1}, {"anon_factor": -1}])
def test_slowness_of_no_sense_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(InvalidValue):
        Slowness(**wrong)


@pytest.mark.parametrize("step_us", [1, 7, 1000, 60_000])
def test_time_lost_does_not_depend_on_the_steps_in_which_it_passes(step_us: int) -> None:
    appetite = Appetite([10_000, 30_000], [Need(2000), Need(500)])
    for end_us in range(step_us, 60_000 + step_us, step_us):
        appetite.count(min(end_us, 60_000), 1000)
    assert appetite.stall_us == 20_000 * 20 // 21


def test_the_need_is_known_before_and_after_each_change() -> None:
    appetite = Appetite([10, 30], [Need(2000), Need(500)])
    assert [appetite.need(now_us).whole_kib for now_us in (0, 9, 10, 29, 30, 99)] == [
        0,
        0,
        2000,
        2000,
        500,
        500,
    ]
    assert [appetite.next_change_us(now_us) for now_us in (0, 9, 10, 30)] == [10, 10, 30, None]


def test_what_is_read_back_follows_from_the_time_it_took() -> None:
    assert refault_kib(1_000_000) == 40_000
