from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xcpmem.api.cli_words import Words, parse_body, parse_size, parse_words
from xcpmem.errors import CommandError, UsageError


def test_words_become_command_flags_switches_and_pairs() -> None:
    words = parse_words(["vm-list", "--minimal", "-u", "root", "params=a=b", "bare", "uuid="])
    assert words == Words(
        "vm-list",
        (("minimal", "true"), ("username", "root"), ("params", "a=b"), ("bare", ""), ("uuid", "")),
    )


def test_first_value_of_a_key_counts() -> None:
    words = parse_words(["vm-list", "a=1", "a=2"])
    assert words.get("a") == words.require("a") == "1"


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ([], "Syntax error: command name is missing"),
        (["username=root"], "Syntax error: command name is missing"),
        (["vm-list", "-x", "1"], "Syntax error: -x"),
        (["vm-list", "-u"], "Syntax error: -u"),
    ],
)
def test_words_that_are_no_command_line_are_refused(line: list[str], text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_words(line)
    assert str(caught.value) == text


@pytest.mark.parametrize(
    ("value", "expected"),
    [("true", True), ("T", True), ("1", True), ("false", False), ("f", False), ("0", False)],
)
def test_flag_is_read_as_xe_reads_it(value: str, expected: bool) -> None:
    assert parse_words(["x", f"multiple={value}"]).flag("multiple") is expected


def test_flag_that_is_neither_true_nor_false_is_refused() -> None:
    with pytest.raises(CommandError, match=r"^Failed to parse parameter 'all': expecting 'true' or 'false'$"):
        parse_words(["x", "all=maybe"]).flag("all")


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("0", 0),
        ("17 b", 17),
        ("2k", 2048),
        ("3MiB", 3 << 20),
        ("1gb", 1 << 30),
        ("8388607TiB", 8388607 << 40),
    ],
)
def test_size_with_suffix_is_read_as_a_power_of_two(text: str, size_bytes: int) -> None:
    assert parse_size("min", text) == size_bytes


@pytest.mark.parametrize("text", ["", "1.5GiB", "-1", "+1", "GiB", "1PiB", "0x10", "1 G iB"])
def test_size_that_is_none_is_refused_in_the_words_of_xe(text: str) -> None:
    with pytest.raises(CommandError) as caught:
        parse_size("min", text)
    assert str(caught.value) == (
        "Failed to parse field 'min': expecting an integer (possibly with suffix KiB, MiB, GiB, TiB),"
        f" got '{text}'"
    )


def test_size_beyond_a_xenapi_int_is_refused() -> None:
    with pytest.raises(CommandError, match="number too big"):
        parse_size("min", "8388608TiB")


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@given(
    lines=st.lists(st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"])), min_size=1)
)
def test_body_gives_its_lines_with_either_line_end(end: str, lines: list[str]) -> None:
    handle, words = parse_body(end.join(lines).encode())
    names_session = lines[0].startswith("session_id=")
    assert words == (lines[1:] if names_session else lines)
    assert handle == (lines[0].removeprefix("session_id=") if names_session else "")


def test_body_of_a_proxying_member_names_its_session() -> None:
    assert parse_body(b"session_id=OpaqueRef:1\r\nvm-list\r\nusername=") == (
        "OpaqueRef:1",
        ["vm-list", "username="],
    )


@given(st.binary(max_size=200))
def test_any_body_is_a_command_line_or_refused(body: bytes) -> None:
    _, lines = parse_body(body)
    try:
        words = parse_words(lines)
    except UsageError as error:
        assert str(error).startswith("Syntax error: ")  # noqa: PT017 - either outcome is right
    else:
        assert words.command == lines[0]
