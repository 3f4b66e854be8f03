"""The completions in `deploy/` are those that the commands make, and know every command."""

from __future__ import annotations

from pathlib import Path

import pytest

from xcpmem.api.cli_catalog import COMMANDS
from xcpmem.api.completions import FILES, keys_of, main

DEPLOYED = Path(__file__).parents[2] / "deploy" / "completions"
AGAIN = "make them again: .venv/bin/python -m xcpmem.api.completions deploy/completions"


@pytest.mark.parametrize("name", FILES)
def test_file_is_what_the_commands_make(name: str, tmp_path: Path) -> None:
    assert main([str(tmp_path)]) == 0
    assert (tmp_path / name).read_text() == (DEPLOYED / name).read_text(), AGAIN


@pytest.mark.parametrize("name", FILES)
def test_file_names_every_command_that_help_teaches(name: str) -> None:
    text = (DEPLOYED / name).read_text()
    assert [command.name for command in COMMANDS.values() if command.name not in text] == [
        command.name for command in COMMANDS.values() if command.is_hidden
    ]


def test_keys_are_those_of_the_command_and_the_fields_that_it_selects_or_sets_by() -> None:
    assert keys_of(COMMANDS["user-add"]) == ["name=", "role=", "new="]
    assert keys_of(COMMANDS["vm-memory-set"])[:4] == ["memory=", "vm=", "uuid=", "name-label="]
    assert "power-state=" in keys_of(COMMANDS["vm-list"])
    assert {"memory-dynamic-min=", "other-config:"} <= {*keys_of(COMMANDS["vm-param-set"])}
    assert "power-state=" not in keys_of(COMMANDS["vm-param-set"])
    assert "hostname=" in keys_of(COMMANDS["host-compute-free-memory"])
