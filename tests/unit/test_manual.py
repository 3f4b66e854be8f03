"""The manual pages say what is declared, and nothing in them is taken for a request of roff."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from xcpmem import manual
from xcpmem.api.cli_catalog import COMMANDS
from xcpmem.config import declared_settings

HERE = Path(__file__).parents[2] / "deploy/man"
PAGES = manual.make_pages()
REQUESTS = {".TH", ".SH", ".SS", ".PP", ".TP", ".B", ".BR", ".br", ".nf", ".fi", ".RS", ".RE", ".nh", ".ad"}


def test_pages_say_what_is_declared() -> None:
    assert list(manual.differing(HERE)) == [], f"run: {manual.COMMAND}, and commit what it writes"


def test_every_command_and_every_setting_has_its_entry() -> None:
    client = PAGES["xcpmem.1"].replace("\\-", "-")
    taught = {command.name for command in COMMANDS.values() if not command.alias_of}
    assert taught <= set(re.findall(r"^\.B (\S+)$", client, flags=re.MULTILINE))
    keys = re.findall(r"^\.TP\n\.B (\S+)$", PAGES["xcpmem.toml.5"], flags=re.MULTILINE)
    assert keys == list(declared_settings())


def test_every_option_has_its_entry() -> None:
    daemon = PAGES["xcpmemd.8"].replace("\\-", "-")
    flags = {f"--{key.replace('_', '-')}" for key, setting in declared_settings().items() if setting.flag}
    assert flags <= set(re.findall(r"^\.B (--\S+)", daemon, flags=re.MULTILINE))


@pytest.mark.parametrize("name", list(PAGES))
def test_lines_that_begin_with_a_dot_are_requests_of_ours(name: str) -> None:
    begins = {line.split(" ")[0] for line in PAGES[name].splitlines() if line.startswith((".", "'"))}
    assert begins <= REQUESTS


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (".B is bold", "\\&.B is bold"),
        ("'tis", "\\&'tis"),
        ("--json", "\\-\\-json"),
        ("a\\b", "a\\eb"),
        ("plain", "plain"),
    ],
)
def test_text_stays_text(text: str, expected: str) -> None:
    assert manual.escape(text) == expected


def test_pages_are_written_where_it_is_said(tmp_path: Path) -> None:
    assert manual.main([str(tmp_path / "man")]) == 0
    assert list(manual.differing(tmp_path / "man")) == []
    (tmp_path / "man/xcpmem.1").write_text("old")
    assert list(manual.differing(tmp_path / "man")) == ["xcpmem.1"]
