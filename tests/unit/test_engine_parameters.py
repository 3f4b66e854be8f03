from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import pytest

from xcpmem.engine.note import Note
from xcpmem.engine.parameters import Parameter, Parameters, declared_parameters, read_parameters
from xcpmem.errors import InvalidValue


@dataclass(frozen=True)
class Knobs(Parameters):
    part: Annotated[int, Parameter("a part, percent", least=0, most=100)] = 50
    wait_s: Annotated[float, Parameter("a time, seconds", least=0.5)] = 1.0
    unit: Annotated[str, Parameter("a word", choices=("vm", "range"))] = "vm"
    is_on: Annotated[bool, Parameter("a switch")] = True
    most: Annotated[float, Parameter("bounded above", most=9)] = 1.0
    plain: int = 7


def test_text_and_values_of_toml_make_the_same() -> None:
    text = {"part": "60", "wait_s": "2", "unit": "range", "is_on": "false", "plain": "-3"}
    values = {"part": 60, "wait_s": 2, "unit": "range", "is_on": False, "plain": -3}
    assert read_parameters(Knobs, text) == read_parameters(Knobs, values)
    assert read_parameters(Knobs, text) == Knobs(60, 2.0, "range", is_on=False, plain=-3)


def test_what_is_not_given_has_its_default() -> None:
    assert read_parameters(Knobs, {}) == Knobs()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("part", "101"),
        ("part", -1),
        ("part", "1.5"),
        ("part", 1.5),
        ("part", True),
        ("part", ""),
        ("part", None),
        ("wait_s", 0.4),
        ("wait_s", "nan"),
        ("wait_s", "inf"),
        ("unit", "host"),
        ("unit", 1),
        ("is_on", "yes"),
        ("is_on", 1),
        ("most", 9.1),
        ("nothing", 1),
    ],
)
def test_what_cannot_be_is_refused_with_name_and_value(name: str, value: object) -> None:
    with pytest.raises(InvalidValue) as refused:
        read_parameters(Knobs, {name: value})
    assert refused.value.params == (name, str(value))


def test_bounds_are_told_in_words() -> None:
    assert {declared.name: declared.expected for declared in declared_parameters(Knobs)} == {
        "part": "a whole number from 0 to 100",
        "wait_s": "a number of 0.5 or more",
        "unit": "vm or range",
        "is_on": "true or false",
        "most": "a number of 9 or less",
        "plain": "a whole number",
    }


def test_parameters_check_themselves_at_birth() -> None:
    with pytest.raises(InvalidValue):
        Knobs(part=200)


def test_note_writes_sizes_with_units_and_percents_short() -> None:
    note = Note(
        "uses {used_kib}, {room_percent} % room, {n} times", {"used_kib": 2**21, "room_percent": 20.0}
    )
    assert str(note) == "uses 2 GiB, 20 % room, {n} times"
    assert str(Note("{n} of {stall_percent} %", {"n": 3, "stall_percent": 1.2345})) == "3 of 1.23 %"
