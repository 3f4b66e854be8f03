from __future__ import annotations

import pytest

from xcpmem.api.cli_catalog import COMMANDS, GROUPS
from xcpmem.api.cli_commands import HANDLERS
from xcpmem.api.cli_help import describe, overview, suggest, teach, unknown
from xcpmem.api.cli_history import HISTORY_KEYS
from xcpmem.api.cli_keys import MEANINGS
from xcpmem.api.cli_plan import KEYS
from xcpmem.engine.accounting import DOMAIN_TYPES
from xcpmem.history import LIMIT_MOST
from xcpmem.users import ROLES


def test_every_command_has_words_and_a_handler() -> None:
    assert {name for name, command in COMMANDS.items() if not command.is_local} == {*HANDLERS, "help"}


def test_help_teaches_every_command_by_an_example_under_its_heading() -> None:
    text = teach()
    for group in GROUPS:
        assert f"\n{group}\n" in text
    for name, command in COMMANDS.items():
        assert (f"\n  xcpmem {name}" in text) is not bool(command.alias_of)
        assert command.group in GROUPS


@pytest.mark.parametrize("name", COMMANDS)
def test_example_of_a_command_has_what_the_command_requires(name: str) -> None:
    keys = [word.partition("=")[0] for word in COMMANDS[name].example.split()]
    assert {*COMMANDS[name].required} <= {*keys}


def test_help_explains_one_command_in_full() -> None:
    text = teach(["vm-memory-dynamic-range-set"])
    assert "  required: min, max\n  optional: <vm-selectors>\n" in text
    assert text.endswith("example:  xcpmem vm-memory-dynamic-range-set vm=web1 min=1GiB max=2GiB")


def test_keys_that_are_explained_are_those_of_their_commands() -> None:
    for name, meanings in MEANINGS.items():
        assert set(meanings) <= {*COMMANDS[name].required, *COMMANDS[name].optional}
    assert set(MEANINGS["plan"]) == set(COMMANDS["plan"].optional) == set(KEYS)
    assert set(MEANINGS["history"]) == set(HISTORY_KEYS)


def test_words_that_a_key_may_be_are_those_that_are_taken() -> None:
    for command in ("user-add", "user-role-set"):
        assert MEANINGS[command]["role"] == f"one of {', '.join(ROLES)}"
    assert f" 1 to {LIMIT_MOST};" in MEANINGS["history"]["limit"]
    types = MEANINGS["vm-create"]["domain-type"].replace(" or ", ", ").replace("-", "_").split(", ")
    assert set(types) == set(DOMAIN_TYPES)


def test_help_explains_each_key_on_its_line() -> None:
    assert (
        "    dynamic-min  the least that it would keep, such as 1GiB; as it is unless given\n"
        "    dynamic-max  the most that it would get, such as 2GiB; as it is unless given\n"
    ) in teach(["plan"])


def test_help_suggests_what_an_unknown_name_may_have_meant() -> None:
    assert unknown("vm-lst") == ["Unknown command 'vm-lst'", "Did you mean 'vm-list'?"]
    assert unknown("vm-list") == []


@pytest.mark.parametrize("name", ["vm-start", "host-compute-free-memory"])
def test_help_speaks_of_the_program_that_asks_for_it(name: str) -> None:
    fields = f"{name.partition('-')[0]}-list params=all'."
    assert f"The fields are listed by 'xcpmem {fields}" in teach([name])
    assert describe(name)[-1][1].endswith(f" The fields are listed by 'xe {fields}")


@pytest.mark.parametrize(
    ("typed", "sentences"),
    [
        ("vm-lits", ["Did you mean 'vm-list'?"]),
        ("vm-memory-dynamic-set", ["Did you mean 'vm-memory-dynamic-range-set'?"]),
        ("vm-list", []),
        ("zzz", []),
    ],
)
def test_suggestion_is_the_nearest_command(typed: str, sentences: list[str]) -> None:
    assert suggest(typed) == sentences


def test_overview_is_laid_out_as_xe_does() -> None:
    names, blocks = overview(is_full=False)
    assert names == ["help", "vm-list"]
    assert blocks[0][0].splitlines() == [
        "Usage: xe <command> [-s server] [-pw passwd] [-p port] [-u user] [-pwf password-file]",
        "  [command specific arguments]",
        "",
        "To get help on a specific command: xe help <command>",
        "To get a full listing of commands: xe help --all",
        "",
        "Common command list",
        "-------------------",
    ]
    assert blocks[1] == ["    help, vm-list"]


def test_full_overview_has_every_command_that_is_not_hidden_and_no_long_line() -> None:
    names, blocks = overview(is_full=True)
    assert names == sorted(names)
    assert "vm-memory-target-wait" not in names
    assert "simulate" not in names
    lines = [line for block in blocks[1:] for line in block]
    assert sorted(name for line in lines for name in line.split(",") if name.strip()) != []
    assert {name.strip() for line in lines for name in line.split(",")} - {""} == {*names}
    assert max(map(len, lines)) <= 76


def test_description_has_the_rows_of_xe() -> None:
    rows = describe("vm-compute-maximum-memory")
    assert [label for label, _ in rows] == [
        "command name        ",
        "reqd params     ",
        "optional params ",
        "description     ",
    ]
    assert [value for _, value in rows[:3]] == [
        "vm-compute-maximum-memory",
        "total",
        "approximate, <vm-selectors>",
    ]
