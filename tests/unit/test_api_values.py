"""Numbers and dates as OCaml and xapi read and write them."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xcpmem.api.values import (
    INT64_MAX,
    INT64_MIN,
    Record,
    format_datetime,
    parse_datetime,
    parse_double,
    parse_int64,
)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("0", 0),
        ("+5", 5),
        ("-5", -5),
        ("1_000_", 1000),
        ("0x1F", 31),
        ("0X1f", 31),
        ("-0x10", -16),
        ("0o17", 15),
        ("0b101", 5),
        ("0u42", 42),
        ("0u18446744073709551615", -1),
        ("0xFFFFFFFFFFFFFFFF", -1),
        ("0x8000000000000000", INT64_MIN),
        ("9223372036854775807", INT64_MAX),
        ("-9223372036854775808", INT64_MIN),
        ("007", 7),
    ],
)
def test_int64_is_read_as_ocaml_reads_it(text: str, number: int) -> None:
    assert parse_int64(text) == number


@pytest.mark.parametrize(
    "text",
    [
        *("", " 1", "1 ", "1.0", "1e3", "_1", "0x", "0x_1", "--1", "a", "0b2", "4GiB", "\u0663", "9" * 5000),
        *("9223372036854775808", "-9223372036854775809", "0x10000000000000000", "0u18446744073709551616"),
    ],
)
def test_int64_refuses_what_ocaml_refuses(text: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        parse_int64(text)


@given(st.integers(INT64_MIN, INT64_MAX))
def test_int64_reads_every_decimal(number: int) -> None:
    assert parse_int64(str(number)) == number


@pytest.mark.parametrize(
    ("text", "number"),
    [("1", 1.0), ("1.", 1.0), (".5", 0.5), ("-1.5e3", -1500.0), ("1_0.2_5", 10.25), ("inf", float("inf"))],
)
def test_double_is_read_as_ocaml_reads_it(text: str, number: float) -> None:
    assert parse_double(text) == number


@pytest.mark.parametrize("text", ["", " 1.0", "1.0 ", "one", "1,5", ".", "e5", "_1.0", "\u0663.0"])
def test_double_refuses_what_ocaml_refuses(text: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        parse_double(text)


@pytest.mark.parametrize(
    "text",
    [
        "20240101T13:20:11Z",
        "2024-01-01T13:20:11Z",
        "20240101T13:20:11",
        "20240101T15:20:11+02:00",
        "20240101T132011Z",
    ],
)
def test_datetime_is_read_in_every_form_of_the_sdks(text: str) -> None:
    assert parse_datetime(text) == datetime(2024, 1, 1, 13, 20, 11, tzinfo=UTC)


def test_datetime_refuses_what_is_none() -> None:
    with pytest.raises(ValueError, match="yesterday"):
        parse_datetime("yesterday")


def test_datetime_is_written_without_dashes_and_fractions() -> None:
    assert format_datetime(datetime(824, 1, 2, 3, 4, 5, 678, tzinfo=UTC)) == "08240102T03:04:05Z"


def test_record_reads_like_a_mapping() -> None:
    record = Record({"uuid": "u", "domid": 3})
    assert dict(record) == {"uuid": "u", "domid": 3}
    assert len(record) == 2
    assert record["domid"] == 3
    assert "Record" in repr(record)
