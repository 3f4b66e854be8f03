from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.lab.boots import BOOTS, function_of, selected

DOM0 = Path(__file__).parents[1] / "lab" / "dom0"
CHECKS = [check for checks in BOOTS.values() for check in checks]


@pytest.mark.parametrize("check", CHECKS)
def test_each_check_is_a_function_of_its_module(check: str) -> None:
    module, _, function = check.rpartition(".")
    body = ast.parse((DOM0 / f"{module}.py").read_text()).body
    assert function in {node.name for node in body if isinstance(node, ast.FunctionDef)}


def test_no_check_runs_twice_and_no_name_has_two_meanings() -> None:
    names = [*BOOTS, *map(function_of, CHECKS)]
    assert len(set(names)) == len(names)


def test_public_functions_of_modules_of_checks_are_all_run() -> None:
    written = {
        f"{path.stem}.{node.name}"
        for path in DOM0.glob("*_checks.py")
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")
    }
    assert written <= set(CHECKS)


def test_everything_runs_when_nothing_is_named() -> None:
    assert selected(()) == dict(BOOTS)


def test_a_boot_or_a_check_can_be_asked_for() -> None:
    check = BOOTS["memory"][3]
    assert selected([function_of(check)]) == {"memory": (check,)}
    assert selected(["memory"]) == {"memory": BOOTS["memory"]}


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(ValueError, match="called no_such_check"):
        selected(["no_such_check"])
