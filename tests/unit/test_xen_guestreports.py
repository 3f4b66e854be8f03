"""What is made of the text that guests write about their own memory."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xcpmem.xen.guestreports import SWAP_MOST_KIB, Report, own_text, read_available, read_own, read_used

MEMINFO = """MemTotal:         511764 kB
MemFree:           20000 kB
Buffers:            3000 kB
Cached:            97000 kB
SwapTotal:        100000 kB
SwapFree:          60000 kB
Shmem:              5000 kB
HugePages_Total:       0
"""


def test_own_report_is_six_numbers() -> None:
    assert read_own("7 1024 2048 15000 4096 0") == Report(
        available_kib=1024, swapped_kib=2048, stall_us=15000, refault_kib=4096
    )


def test_own_report_says_what_it_guessed_and_what_it_does_not_know() -> None:
    assert read_own("1 10 0 500 0 1") == Report(
        available_kib=10, stall_us=500, refault_kib=0, is_estimated=True
    )
    assert read_own("1 10 0 0 0 6") == Report(available_kib=10)


NUMBERS = st.integers(0, 10**15 - 1)


@given(
    seq=NUMBERS,
    report=st.builds(
        Report,
        available_kib=NUMBERS,
        swapped_kib=NUMBERS,
        stall_us=st.none() | NUMBERS,
        refault_kib=st.none() | NUMBERS,
        is_estimated=st.booleans(),
    ),
)
def test_own_report_is_read_as_it_was_written(seq: int, report: Report) -> None:
    text = own_text(seq, report)
    assert len(text) < 128
    assert read_own(text) == report


@pytest.mark.parametrize(
    "text",
    [
        "",
        "7 1024 2048 15000 4096",
        "7 1024 2048 15000 4096 0 0",
        "7 1024 2048 15000 4096 8",
        "7 1024 2048 15000 4096 E",
        "7  1024 2048 15000 4096 0",
        " 7 1024 2048 15000 4096 0",
        "7 1024 2048 15000 4096 0\n",
        "7\t1024 2048 15000 4096 0",
        "7 -1 2048 15000 4096 0",
        "7 +1 2048 15000 4096 0",
        "7 1e3 2048 15000 4096 0",
        "7 1_0 2048 15000 4096 0",
        "7 ١٢ 2048 15000 4096 0",
        f"7 {'9' * 16} 2048 15000 4096 0",
        "7 1024 2048 15000 4096 0".ljust(5000),
    ],
)
def test_anything_else_is_no_own_report(text: str) -> None:
    assert read_own(text) is None


@pytest.mark.parametrize("text", ["", "-1", "much", "12 kB", "1" * 16, "0x10"])
def test_available_memory_is_digits_alone(text: str) -> None:
    assert read_available(text) is None


def test_qubes_number_holds_what_is_on_swap() -> None:
    assert read_used("900", "200") == Report(used_kib=700, swapped_kib=200)
    assert read_used("900", None) == Report(used_kib=900)
    assert read_used("900", "nonsense") == Report(used_kib=900)
    assert read_used("900", "901") is None


def test_whole_meminfo_under_the_same_key_is_understood() -> None:
    assert read_used(MEMINFO, None) == Report(available_kib=115000, swapped_kib=40000, is_lines=True)
    newer = MEMINFO + "MemAvailable:     111000 kB\n"
    assert read_used(newer, None) == Report(available_kib=111000, swapped_kib=40000, is_lines=True)


@pytest.mark.parametrize("text", ["MemTotal: 5 kB", "MemFree: many kB", "MemFree: 5", "\n" * 4000])
def test_other_lines_are_no_meminfo(text: str) -> None:
    assert read_used(text, None) is None


def test_used_is_what_is_held_less_what_is_available() -> None:
    assert Report(available_kib=300).used_of(1000) == 700
    assert Report(used_kib=300).used_of(1000) == 300


@pytest.mark.parametrize(
    "report",
    [
        Report(available_kib=1001),
        Report(used_kib=1001),
        Report(available_kib=0, swapped_kib=SWAP_MOST_KIB + 1),
    ],
)
def test_what_cannot_be_true_uses_nothing_that_is_known(report: Report) -> None:
    assert report.used_of(1000) is None


@settings(max_examples=200)
@given(text=st.text() | st.from_regex(r"[0-9 ]{0,40}") | st.from_regex(r"\A(Mem\w*: +[0-9]+ kB\n)+\Z"))
def test_no_text_breaks_a_reader(text: str) -> None:
    for report in (read_own(text), read_available(text), read_used(text, text)):
        used_kib = report.used_of(10**6) if report is not None else 0
        assert used_kib is None or 0 <= used_kib <= 10**6
