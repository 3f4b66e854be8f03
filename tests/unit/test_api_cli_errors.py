from __future__ import annotations

from typing import TYPE_CHECKING

from xcpmem import errors
from xcpmem.api.cli_errors import DESCRIPTIONS, describe_error

if TYPE_CHECKING:
    from collections.abc import Iterator


def below(root: type[errors.XcpmemError]) -> Iterator[type[errors.XcpmemError]]:
    for child in root.__subclasses__():
        yield child
        yield from below(child)


def test_every_code_that_a_call_can_fail_with_has_words() -> None:
    told_otherwise = {errors.AuthenticationFailed.code}
    unknown_to_xe_as_well = {"Fault"}
    codes = {child.code for child in below(errors.XcpmemError) if child.__module__ == errors.__name__}
    assert codes - told_otherwise - unknown_to_xe_as_well <= {*DESCRIPTIONS}


def test_parameters_stand_behind_their_names() -> None:
    sentence, *lines = describe_error("VM_BAD_POWER_STATE", ["web1", "halted", "running"])
    assert sentence.endswith(".")
    assert lines == ["vm: web1", "expected: halted", "actual: running"]


def test_missing_and_surplus_parameters_are_told() -> None:
    assert describe_error("VM_BAD_POWER_STATE", ["web1"])[1:] == [
        "vm: web1",
        "expected: <unknown>",
        "actual: <unknown>",
    ]
    assert describe_error("OPERATION_NOT_ALLOWED", ["why", "more"])[1:] == ["reason: why", "<extra>: more"]


def test_each_vm_that_did_not_cooperate_has_its_line() -> None:
    assert describe_error("VMS_FAILED_TO_COOPERATE", ["a", "b"])[1:] == ["VM: a", "VM: b"]


def test_unknown_code_has_no_words() -> None:
    assert describe_error("FOO", ["x"]) == []
