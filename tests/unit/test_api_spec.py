"""The specification that authors of clients read is made of the declaration, and says all of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from xcpmem import errors
from xcpmem.api import spec
from xcpmem.api.datamodel import ROLES, load_datamodel

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).parents[2] / "api-spec"
MODEL = load_datamodel()


def read(name: str) -> list[dict[str, Any]]:
    loaded: list[dict[str, Any]] = json.loads(spec.make_files()[name])
    return loaded


def test_files_say_what_is_served() -> None:
    assert list(spec.differing(HERE)) == [], f"run: {spec.COMMAND} (or make spec), and commit what it writes"


def test_every_class_field_and_message_is_described_in_the_members_of_xapi() -> None:
    classes = {each["name"]: each for each in read("xenapi.json")}
    assert list(classes) == list(MODEL.classes)
    for name, api_class in MODEL.classes.items():
        assert [field["name"] for field in classes[name]["fields"]] == list(api_class.fields)
        assert [message["name"] for message in classes[name]["messages"]] == list(api_class.messages)
    limits = next(m for m in classes["VM"]["messages"] if m["name"] == "set_memory_limits")
    assert limits == {
        "name": "set_memory_limits",
        "description": "Set all four limits of a halted VM.",
        "result": ["void"],
        "params": [
            {
                "type": "session ref",
                "name": "session_id",
                "doc": "What a login answered with.",
                "required": True,
            },
            {"type": "VM ref", "name": "self", "doc": "The VM.", "required": True},
            {"type": "int", "name": "static_min", "doc": "Bound for dynamic_min, bytes.", "required": True},
            {
                "type": "int",
                "name": "static_max",
                "doc": "What it is built for, bytes: more is never possible while it runs.",
                "required": True,
            },
            {
                "type": "int",
                "name": "dynamic_min",
                "doc": "Never asked to hold less; bytes.",
                "required": True,
            },
            {
                "type": "int",
                "name": "dynamic_max",
                "doc": "Never asked to hold more; bytes.",
                "required": True,
            },
        ],
        "errors": [],
        "roles": ["pool-admin", "pool-operator", "vm-power-admin"],
        "tag": "",
        "lifecycle": {
            "state": "Published_s",
            "transitions": [
                {
                    "transition": "published",
                    "release": "midnight-ride",
                    "description": "Set all four limits of a halted VM.",
                }
            ],
        },
        "implicit": False,
        "async": True,
    }


def nameless(described: object, path: str = "") -> Iterator[str]:
    """Find where something has no words."""
    if isinstance(described, dict):
        here = f"{path}/{described.get('name', '')}"
        yield from (here for name in ("description", "doc") if described.get(name) == "")
        for value in described.values():
            yield from nameless(value, here)
    elif isinstance(described, list):
        for value in described:
            yield from nameless(value, path)


def test_everything_has_words() -> None:
    assert list(nameless(read("xenapi.json"))) == []


DEFAULTS = [
    ("VM", "name_label", '""'),
    ("VM", "HVM_shadow_multiplier", "1."),
    ("VM", "power_state", "Halted"),
    ("VM", "resident_on", "OpaqueRef:NULL"),
    ("VM", "tags", "{}"),
    ("VM", "snapshot_time", "19700101T00:00:00Z"),
    ("VM", "is_a_template", "false"),
    ("VM", "memory_static_max", "0"),
    ("host", "license_server", '{"address" -> "localhost", "port" -> "27000"}'),
]


@pytest.mark.parametrize(("class_name", "field", "text"), DEFAULTS)
def test_default_is_written_as_xapi_writes_it(class_name: str, field: str, text: str) -> None:
    described = next(each for each in read("xenapi.json") if each["name"] == class_name)
    assert next(each for each in described["fields"] if each["name"] == field)["default"] == text


def codes(root: type[errors.XcpmemError]) -> Iterator[str]:
    yield root.code
    for child in root.__subclasses__():
        yield from codes(child)


def test_every_code_that_a_caller_can_be_answered_is_explained_once() -> None:
    names = [error["name"] for error in read("errors.json")]
    assert names == sorted({*codes(errors.ApiError), *codes(errors.HostError)})
    assert [error["name"] for error in read("errors.json") if not error["doc"].endswith(".")] == []


def test_roles_list_what_they_permit() -> None:
    roles = {role["name"]: set(role["permissions"]) for role in read("roles.json")}
    assert tuple(roles) == ROLES
    assert roles["pool-admin"] == {message.permission for message in MODEL.messages()}
    assert "vm.set_memory_limits" in roles["vm-power-admin"]
    assert "vm.set_memory_limits" not in roles["vm-admin"]
    assert "vm.get_all_records" in roles["read-only"]


def test_command_writes_the_files_and_finds_what_differs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert spec.main(["--check", str(tmp_path)]) == 1
    assert list(tmp_path.iterdir()) == []
    assert spec.main([str(tmp_path)]) == 0
    assert spec.main(["--check", str(tmp_path)]) == 0
    (tmp_path / "errors.json").write_text("[]", encoding="utf-8")
    assert spec.main(["--check", str(tmp_path)]) == 1
    assert f"errors.json: not what is served; run: {spec.COMMAND}" in capsys.readouterr().err
