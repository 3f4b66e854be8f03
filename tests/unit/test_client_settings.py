from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xcpmem.client_settings import Settings, UsageAsked, read_settings
from xcpmem.errors import CommandError

if TYPE_CHECKING:
    from pathlib import Path


def test_defaults_are_those_of_xe() -> None:
    assert read_settings(["vm-list"], {}) == Settings(
        ("vm-list",),
        server="127.0.0.1",
        port=None,
        is_server_given=False,
        username="root",
        password="null",
    )


def test_options_are_taken_from_anywhere_and_all_else_is_sent() -> None:
    before = ["-s", "xen1", "vm-list", "-p", "443", "-u", "ann", "params=all"]
    behind = ["-pw", "x=y", "--nossl", "--multiple", "--traceparent", "00-1"]
    assert read_settings([*before, *behind], {}) == Settings(
        ("vm-list", "params=all", "--multiple"),
        server="xen1",
        port=443,
        is_server_given=True,
        username="ann",
        password="x=y",
        nossl=True,
        traceparent="00-1",
    )


@pytest.mark.parametrize(
    ("word", "name", "value"),
    [
        ("server=a", "server", "a"),
        ("port=17", "port", 17),
        ("username=b", "username", "b"),
        ("password=c=d", "password", "c=d"),
        ("nossl=true", "nossl", True),
        ("nossl=false", "nossl", False),
        ("debug=true", "debug", True),
        ("debugonfail=true", "debug", True),
        ("traceparent=e", "traceparent", "e"),
    ],
)
def test_every_option_has_a_form_with_an_equals_sign(word: str, name: str, value: object) -> None:
    settings = read_settings(["vm-list", word], {})
    assert settings.words == ("vm-list",)
    assert getattr(settings, name) == value


def test_command_goes_to_the_front_of_switches() -> None:
    settings = read_settings(["--minimal", "--force", "vm-list", "uuid=1"], {})
    assert settings.words == ("vm-list", "--minimal", "--force", "uuid=1")
    assert settings.is_minimal


def test_option_without_its_value_is_the_servers_to_refuse() -> None:
    assert read_settings(["vm-list", "-u"], {}).words == ("vm-list", "-u")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("server=xen1,--minimal", ["vm-list", "--minimal"]),
        (r"name-label=a\,b,x=1", ["vm-list", "name-label=a,b", "x=1"]),
        (",,", ["vm-list"]),
        ("", ["vm-list"]),
        ("-s,xen1,y=2", ["vm-list", "y=2"]),
    ],
)
def test_extra_arguments_come_behind_those_of_the_command_line(text: str, words: list[str]) -> None:
    assert list(read_settings(["vm-list"], {"XE_EXTRA_ARGS": text}).words) == words


@given(st.lists(st.text(alphabet="ab,", min_size=1), max_size=4))
def test_extra_arguments_may_hold_commas_behind_a_backslash(words: list[str]) -> None:
    text = ",".join(word.replace(",", "\\,") for word in words)
    assert list(read_settings(["vm-list"], {"XE_EXTRA_ARGS": text}).words[1:]) == words


def test_sources_are_asked_in_order(tmp_path: Path) -> None:
    (tmp_path / ".xe").write_text("username=rc\nserver=rc\nport=1\npassword=rc\n\nlast=rc\n")
    environment = {
        "HOME": str(tmp_path),
        "XE_PASSWORD": "variable",
        "XE_PORT": "2",
        "XE_SERVER": "variable",
        "XE_EXTRA_ARGS": "server=extra,port=3,more=extra",
    }
    settings = read_settings(["vm-list", "-p", "4"], environment)
    assert (settings.port, settings.server, settings.password, settings.username) == (
        4,
        "extra",
        "variable",
        "rc",
    )
    assert settings.words == ("vm-list", "more=extra", "last=rc")


def test_rc_file_with_a_line_that_is_no_setting_counts_for_nothing(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / ".xe").write_text("server=rc\nnonsense\n")
    assert read_settings(["vm-list"], {"HOME": str(tmp_path)}).server == "127.0.0.1"
    assert capsys.readouterr().err == "Error parsing rc file. No defaults loaded\n"


def test_rc_file_that_is_no_text_counts_for_nothing(tmp_path: Path) -> None:
    (tmp_path / ".xe").write_bytes(b"server=\xff\n")
    assert read_settings(["vm-list"], {"HOME": str(tmp_path)}).server == "127.0.0.1"


def test_password_file_names_user_and_password(tmp_path: Path) -> None:
    path = tmp_path / "pw"
    path.write_text("ann\n s3cret \n")
    settings = read_settings(["vm-list", "-pwf", str(path)], {})
    assert (settings.username, settings.password) == ("ann", " s3cret ")


def test_password_file_of_one_line_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "pw"
    path.write_text("ann\n")
    with pytest.raises(CommandError, match="expecting username on the first line"):
        read_settings(["vm-list", "-pwf", str(path)], {})


def test_password_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match=f"^Error opening password file '{tmp_path}/no'$"):
        read_settings(["vm-list", "-pwf", f"{tmp_path}/no"], {})


@pytest.mark.parametrize(
    "arguments",
    [[], ["--minimal", "--help"], ["vm-list", "-help"], ["-s", "xen1"]],
)
def test_usage_is_asked_for(arguments: list[str]) -> None:
    with pytest.raises(UsageAsked):
        read_settings(arguments, {})


@pytest.mark.parametrize("port", ["65536", "-1", "http", ""])
def test_port_that_is_none_ends_in_usage(port: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UsageAsked):
        read_settings(["vm-list", "-p", port], {})
    assert capsys.readouterr().err == "Port number must be an integer (0-65535)\n"


def test_password_is_not_shown() -> None:
    assert "s3cret" not in repr(read_settings(["vm-list", "-pw", "s3cret"], {}))
