"""Expressions of ``get_all_records_where``, read and compared as xapi does."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from xcpmem.api.filters import MAX_DEPTH, parse_filter
from xcpmem.api.values import Record
from xcpmem.errors import InternalError

REF = "OpaqueRef:1"
RECORD = Record(
    {
        "name_label": "web1",
        "power_state": "Running",
        "domid": 3,
        "is_a_template": False,
        "memory_static_max": 8589934592,
        "HVM_shadow_multiplier": 1.0,
        "tags": ("a", "it's"),
        "other_config": {"k": "v", "back": "\\"},
        "blobs": {},
        "snapshot_time": datetime(2024, 1, 1, 13, 20, 11, tzinfo=UTC),
    }
)


def applies(expression: str) -> bool:
    return parse_filter(expression)(REF, RECORD)


@pytest.mark.parametrize(
    "expression",
    [
        "true",
        "not false",
        "(true)",
        "not(false)",
        "nottrueandfalse",
        '"x"="x"',
        'field "name__label"="web1"',
        'field "name_label" = "web1"',
        '"web1" = field "name__label"',
        'field "name_label"=field "name__label"',
        'field"power_state"="Running"',
        'field "domid"="3"',
        'field "is_a_template"="false"',
        'field "memory__static_max"="8589934592"',
        'field "HVM__shadow_multiplier"="1."',
        r"""field "tags"="('a' 'it\'s')" """,
        r"""field "other_config"="(('k' 'v') ('back' '\\'))" """,
        'field "blobs"="()"',
        'field "snapshot_time"="20240101T13:20:11Z"',
        f'field "_ref"="{REF}"',
        '\n\t(field "domid"="3")and(not field "name_label"="web2")',
    ],
)
def test_expression_applies(expression: str) -> None:
    assert applies(expression)


@pytest.mark.parametrize(
    "expression",
    [
        "false",
        "not true",
        'field "power_state"="running"',
        'field "name_label"="web1" and field "domid"="4"',
        '"a"="A"',
    ],
)
def test_expression_does_not_apply(expression: str) -> None:
    assert not applies(expression)


@pytest.mark.parametrize(
    ("expression", "means"),
    [
        ("true or true and false", "(true or true) and false"),
        ("false and false or true", "(false and false) or true"),
        ("not false and false", "not (false and false)"),
        ("true and not true or true", "true and (not (true or true))"),
        ("not not true", "not (not true)"),
    ],
)
def test_operators_bind_as_in_xapis_grammar(expression: str, means: str) -> None:
    assert applies(expression) == applies(means)


def test_chain_may_be_as_long_as_a_call_and_is_read_from_left_to_right() -> None:
    others = " or ".join(f'field "name__label"="{number}"' for number in range(7000))
    assert not applies(others)
    assert applies(f'{others} or field "name__label"="web1"')
    assert applies(f'field "name__label"="web1" or {others}')
    assert not applies(f'field "name__label"="web1" or {others} and false')
    assert applies(f'false and {others} or field "domid"="3"')


def test_term_that_decides_nothing_is_not_looked_at() -> None:
    unknown = 'field "none"="x"'
    assert applies(f"true or {unknown} or {unknown}")
    assert not applies(f"false and {unknown} and {unknown}")
    for expression in (f"false or {unknown}", f"true and {unknown}", f"false and true or {unknown}"):
        with pytest.raises(InternalError, match="no field 'none'"):
            applies(expression)


def test_operators_do_not_bind_as_one_is_used_to() -> None:
    assert applies("not false and false")
    assert not applies("true or true and false")


@pytest.mark.parametrize(
    ("expression", "complaint"),
    [
        ("", "expected a text in quotes, found the end"),
        ("true true", "expected the end, found true"),
        ("(true", "expected ), found the end"),
        ('field "a"', "expected =, found the end"),
        ('field = "a"', "expected a text in quotes, found ="),
        ('"a" = true', "expected a text in quotes, found true"),
        ("True", "cannot be read at character 1: True"),
        ('true and "open', 'cannot be read at character 9: true and "open'),
        ("and", "expected a text in quotes, found and"),
        ('"a"="a" "b"', 'expected the end, found "b"'),
        ("(" * (MAX_DEPTH + 2), f"nested more than {MAX_DEPTH} deep"),
        ("not " * (MAX_DEPTH + 2), f"nested more than {MAX_DEPTH} deep"),
    ],
)
def test_expression_that_cannot_be_read_is_refused_in_words(expression: str, complaint: str) -> None:
    with pytest.raises(InternalError) as refusal:
        parse_filter(expression)
    assert complaint in str(refusal.value)
    assert refusal.value.code == "INTERNAL_ERROR"


def test_field_that_there_is_not_is_named() -> None:
    test = parse_filter('false or field "colour"="red"')
    with pytest.raises(InternalError, match="no field 'colour'"):
        test(REF, RECORD)
