"""What each XenAPI type takes, what it refuses and with which words."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xcpmem.api.marshal import check_strings, make_check, unmarshal
from xcpmem.api.typenames import Type, parse_type
from xcpmem.api.values import INT64_MAX, INT64_MIN, DateTime, Value
from xcpmem.errors import ArgumentType, FieldType, InvalidValue


@pytest.mark.parametrize(
    ("text", "value", "typed"),
    [
        ("int", 7, 7),
        ("int", "8589934592", 8589934592),
        ("int", "0x10", 16),
        ("float", 1.5, 1.5),
        ("float", 2, 2.0),
        ("float", "1.25", 1.25),
        ("bool", True, True),
        ("string", "1", "1"),
        ("VM ref", "anything", "anything"),
        ("enum vm_power_state", "Halted", "Halted"),
        ("datetime", DateTime("20240101T13:20:11Z"), datetime(2024, 1, 1, 13, 20, 11, tzinfo=UTC)),
        ("datetime", "20240101T13:20:11Z", datetime(2024, 1, 1, 13, 20, 11, tzinfo=UTC)),
        ("int set", [1, "2"], (1, 2)),
        ("(string -> int) map", {"a": "1"}, {"a": 1}),
        ("(int -> float) map", {"0": 1}, {0: 1.0}),
        ("(string -> string set) map", {"a": ["b"]}, {"a": ("b",)}),
    ],
)
def test_parameter_is_read_by_its_type(text: str, value: Value, typed: object) -> None:
    read = unmarshal(parse_type(text), value)
    assert read == typed
    assert type(read) is type(typed)


def test_record_is_read_for_what_an_object_can_be_made_with() -> None:
    given: Value = {
        "name_label": "web1",
        "memory_static_max": "4294967296",
        "tags": ["a"],
        "resident_on": 5,  # read-only, so whatever it is
        "domid": "x",
        "snapshot_time": None,
        "no_such_field": {},
    }
    assert unmarshal(parse_type("VM record"), given) == {
        "name_label": "web1",
        "memory_static_max": 4294967296,
        "tags": ("a",),
    }


def test_field_of_another_type_is_named() -> None:
    with pytest.raises(FieldType) as refusal:
        unmarshal(parse_type("VM record"), {"VCPUs_max": "two"})
    assert refusal.value.params == ("VCPUs_max",)


@pytest.mark.parametrize(
    ("text", "value", "complaint"),
    [
        ("int", "4GiB", 'Failure("Int64.of_string")'),
        ("int", "", 'Failure("Int64.of_string")'),
        ("int", True, "Failure(\"Expected int, got 'B(true)'\")"),
        ("int", 1.0, "Failure(\"Expected int, got 'F(1)'\")"),
        ("int", None, "Failure(\"Expected int, got 'N'\")"),
        ("int", 2**63, "Failure(\"Expected int, got 'I(9223372036854775808)'\")"),
        ("bool", "true", "Failure(\"Expected bool, got 'S(true)'\")"),
        ("bool", 1, "Failure(\"Expected bool, got 'I(1)'\")"),
        ("string", 5, "Failure(\"Expected string, got 'I(5)'\")"),
        ("string", DateTime("x"), "Failure(\"Expected string, got 'D(x)'\")"),
        ("string", b"abc", "Failure(\"Expected string, got 'B64(3 bytes)'\")"),
        ("VM ref", [1, "a"], "Failure(\"Expected string, got '[I(1);S(a)]'\")"),
        ("VM ref", {"a": None}, "Failure(\"Expected string, got '{a:N}'\")"),
        ("enum vm_power_state", "halted", 'Failure("halted is no vm_power_state")'),
        ("enum no_such_enum", "halted", 'Failure("halted is no no_such_enum")'),
        ("float", "one", 'Failure("float_of_string")'),
        ("float", "nan", 'Failure("float_of_string")'),
        ("float", float("inf"), 'Failure("float_of_string")'),
        ("float", 10**400, 'Failure("float_of_string")'),
        ("float", True, "Failure(\"Expected float, got 'B(true)'\")"),
        ("datetime", 5, "Failure(\"Expected datetime, got 'I(5)'\")"),
        ("datetime", "soon", 'Failure("Date.of_iso8601: soon")'),
        ("int set", {"a": 1}, "Failure(\"Expected list, got '{a:I(1)}'\")"),
        ("(string -> string) map", ["a"], "Failure(\"Expected dict, got '[S(a)]'\")"),
        ("VM record", [], "Failure(\"Expected dict, got '[]'\")"),
        ("(string, int) tuple", ["a", 1], 'Failure("No (string, int) tuple can be sent")'),
    ],
)
def test_wrong_parameter_is_refused_in_xapis_words(text: str, value: Value, complaint: str) -> None:
    with pytest.raises(ArgumentType) as refusal:
        unmarshal(parse_type(text), value)
    assert refusal.value.code == "INTERNAL_ERROR"
    assert refusal.value.params == (complaint,)


def test_complaint_does_not_quote_a_whole_body() -> None:
    with pytest.raises(ArgumentType) as refusal:
        unmarshal(parse_type("int"), ["x" * 100_000])
    assert len(refusal.value.params[0]) < 300


ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.binary()
    | st.builds(DateTime, st.text()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)
TYPES = st.sampled_from(
    [
        *("int", "float", "bool", "string", "datetime", "VM ref", "enum vm_power_state", "int set"),
        *("(string -> string) map", "(int -> int) map", "string set set"),
    ],
).map(parse_type)


@given(TYPES, ANYTHING)
def test_any_value_is_read_or_refused_as_an_argument(param_type: Type, value: Value) -> None:
    try:
        typed = unmarshal(param_type, value)
    except ArgumentType:
        return
    assert typed is not None
    if isinstance(typed, int):
        assert INT64_MIN <= typed <= INT64_MAX


@pytest.mark.parametrize("value", ["\ud800", ["a", "\udcff"], {"a": {"b": "\udc80"}}, {"\udfff": 1}])
def test_text_that_is_not_unicode_is_refused(value: Value) -> None:
    with pytest.raises(InvalidValue) as refusal:
        check_strings(value)
    assert refusal.value.params[0] == "Invalid UTF-8 string in parameter"


def test_text_that_is_unicode_passes() -> None:
    check_strings(["a", "ä漢😀", {"b": None, "c": 1}])


@pytest.mark.parametrize(
    ("text", "value", "fits"),
    [
        ("int", 1, True),
        ("int", True, False),
        ("int", 1.0, False),
        ("float", 1.0, True),
        ("float", 1, False),
        ("string", "x", True),
        ("string", None, False),
        ("void", None, True),
        ("datetime", datetime.now(UTC), True),
        ("VM ref", "OpaqueRef:NULL", True),
        ("VM ref", "NULL", False),
        ("enum vm_power_state", "Halted", True),
        ("enum vm_power_state", "halted", False),
        ("string set", ("a",), True),
        ("string set", ["a"], False),
        ("int set", ("a",), False),
        ("(string -> int) map", {"a": 1}, True),
        ("(string -> int) map", {"a": "1"}, False),
        ("VM record", {}, False),
    ],
)
def test_field_holds_only_what_its_type_says(text: str, value: object, fits: bool) -> None:
    assert make_check(parse_type(text))(value) is fits
