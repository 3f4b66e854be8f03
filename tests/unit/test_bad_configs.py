"""``xcpmemd --check-config`` names file, line, key and reason of whatever cannot be, and changes nothing."""

from __future__ import annotations

import socket
import sys
from contextlib import closing
from pathlib import Path

import pytest

from xcpmem.daemon import main

HERE = Path(__file__)

BAD = {
    'driver = "kvm"': "driver: expected one of simulated, xen, got 'kvm'",
    "driver = 1": "driver: expected one of simulated, xen, got 1",
    'scenario = ""': "scenario: expected text, not empty, got ''",
    'scenario = "nosuch"': "scenario: nosuch: No such file or directory",
    'scenario = "fleet:0"': "scenario: fleet:0: must be fleet:N",
    f'scenario = "{HERE}"': f"scenario: {HERE}: is not TOML",
    'host = "/run/host.sock"\nscenario = "nosuch"': "scenario: nosuch: No such file or directory",
    'driver = "xen"\nhost = "/run/host.sock"': 'host: only with driver = "simulated"',
    'listen = "8080"': "listen: expected HOST:PORT, the port from 0 to 65535, got '8080'",
    'listen = "127.0.0.1:65536"': "listen: expected HOST:PORT, the port from 0 to 65535, got",
    'listen = "192.0.2.1:80"\nallow_plain_beyond_loopback = true': "listen: 192.0.2.1: Cannot assign",
    'listen = "0.0.0.0:8080"': "listen: 0.0.0.0:8080 can be reached from other machines: needs",
    "socket = 5": "socket: expected a path, got 5",
    f'socket = "/{"x" * 120}"': "socket: ",
    f'tls_cert = "{HERE}"\ntls_key = "{HERE}"': f"tls_cert: {HERE} with {HERE}: ",
    'tls_cert = "/nowhere/cert.pem"': "tls_cert: no such file: /nowhere/cert.pem",
    'root_password_file = "/nowhere"': "root_password_file: no such file: /nowhere",
    'policy = "luck"': "policy: ",
    "policy = []": "policy: ",
    "shadow_parameters = { shares = 60 }": "shadow_parameters: expected a table of tables of keys with plain",
    "[shadow_parameters.shares]\nidle_tax = 60": "shadow_parameters.shares.idle_tax: policy shares has",
    "allow_plain_beyond_loopback = 1": "allow_plain_beyond_loopback: expected true or false, got 1",
    "safety_look_s = 0": "safety_look_s: expected seconds, a number above 0, got 0",
    'safety_look_s = "often"': "safety_look_s: expected seconds, a number above 0, got 'often'",
    'slush_kib = "72 cows"': "slush_kib: expected KiB, a whole number of 0 or more, or text with a unit",
    "slush_kib = -1": "slush_kib: expected KiB",
    "slush_kib = 1.5": "slush_kib: expected KiB",
    "patience_s = nan": "patience_s: expected seconds, a number above 0, got nan",
    'overhead_formula = "newest"': "overhead_formula: expected one of new, old, got 'newest'",
    "journal_rows = -5": "journal_rows: expected a whole number of 0 or more, got -5",
    'log_to = "printer"': "log_to: expected one of auto, stderr, journald, syslog, got 'printer'",
    'log_level = "loud"': "log_level: expected one of debug, info, warning, error, got 'loud'",
    'lissten = "127.0.0.1:1"': "lissten: unknown key, did you mean listen?",
    "[memory]\nslush_kib = 1": "memory: unknown key",
}


@pytest.mark.parametrize("text", BAD)
def test_bad_setting_is_told_in_one_line_with_file_line_key_and_reason(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "xcpmem.toml"
    path.write_text(f"# made by hand\n{text}\n", encoding="utf-8")
    before = sorted(tmp_path.iterdir())
    assert main(["--config", str(path), "--state-dir", str(tmp_path / "state"), "--check-config"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    line = 3 if text.startswith(("driver", "host")) and "\n" in text else 2
    assert captured.err.startswith(f"xcpmemd: {path}:{line}: {BAD[text]}")
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"listen = \n", "is not TOML: Invalid value (at line 1, column 10)"),
        (b"listen = '127.0.0.1:1'\nlisten = '127.0.0.1:2'\n", "is not TOML: Cannot overwrite a value"),
        (b"\xff\xfe", "is not TOML: "),
        (None, "cannot be read: No such file or directory"),
    ],
)
def test_file_that_is_none_is_named_with_the_reason(
    content: bytes | None, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "xcpmem.toml"
    if content is not None:
        path.write_bytes(content)
    assert main(["--config", str(path), "--check-config"]) == 2
    assert capsys.readouterr().err.startswith(f"xcpmemd: {path}: {said}")


def checked(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    """Have a command line's settings checked; return the exit status and the one line that was said."""
    status = main([*words, "--check-config"])
    captured = capsys.readouterr()
    said = captured.out + captured.err
    assert said.count("\n") == 1
    return status, said.rstrip("\n")


def test_python_for_which_there_is_no_xen_is_told_before_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "xen", None)
    status, said = checked(capsys, "--driver", "xen", "--state-dir", str(tmp_path))
    assert status == 2
    assert said.startswith("xcpmemd: command line: driver: no Xen binding for Python ")


@pytest.mark.parametrize(("folder", "why"), [("file/state", "file is no directory"), ("file", "file is no ")])
def test_state_dir_that_cannot_be_is_told_before_the_start(
    folder: str, why: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    status, said = checked(capsys, "--state-dir", str(tmp_path / folder))
    assert status == 2
    assert said.startswith(f"xcpmemd: command line: state_dir: {tmp_path / folder} cannot be used: ")
    assert why in said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('policy = "luck"', "policy: no policy 'luck'; there are: proportional, "),
        ("[host]\nfree = 1", "host.free: is not a key here"),
        ("[[guest]]\ndomid = 0\ndynamic_min_kib = 1\ndynamic_max_kib = 2", "guest.domid: 0 is domain 0"),
    ],
)
def test_scenario_in_which_something_cannot_be_is_told_before_the_start(
    text: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scenario = tmp_path / "scenario.toml"
    scenario.write_text(text, encoding="utf-8")
    status, told = checked(capsys, "--scenario", str(scenario), "--state-dir", str(tmp_path))
    assert status == 2
    assert told.startswith(f"xcpmemd: {scenario}: {said}")


def test_token_that_says_nothing_is_told_before_the_start(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    token, config = tmp_path / "token", tmp_path / "xcpmem.toml"
    token.touch()
    config.write_text(f'read_token_file = "{token}"\n', encoding="utf-8")
    status, said = checked(capsys, "--config", str(config), "--state-dir", str(tmp_path))
    assert (status, said) == (2, f"xcpmemd: {config}:1: read_token_file: {token} is empty")


def test_settings_of_a_daemon_that_runs_are_good_though_it_has_their_address(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        status, said = checked(capsys, "--listen", address, "--state-dir", str(tmp_path / "s"))
    assert (status, said) == (0, "xcpmemd: the configuration is good")
    assert list(tmp_path.iterdir()) == []


def test_there_are_at_least_twenty_of_them() -> None:
    assert len(BAD) >= 20
