"""``xcpmemd --check-config`` names file, line, key and reason of whatever cannot be, and changes nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from xcpmem.daemon import main

if TYPE_CHECKING:
    from pathlib import Path

BAD = {
    'driver = "kvm"': "driver: expected one of simulated, xen, got 'kvm'",
    "driver = 1": "driver: expected one of simulated, xen, got 1",
    'scenario = ""': "scenario: expected text, not empty, got ''",
    'driver = "xen"\nhost = "/run/host.sock"': 'host: only with driver = "simulated"',
    'listen = "8080"': "listen: expected HOST:PORT, the port from 0 to 65535, got '8080'",
    'listen = "127.0.0.1:65536"': "listen: expected HOST:PORT, the port from 0 to 65535, got",
    'listen = "0.0.0.0:8080"': "listen: 0.0.0.0:8080 can be reached from other machines: needs",
    "socket = 5": "socket: expected a path, got 5",
    f'socket = "/{"x" * 120}"': "socket: ",
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
    line = 3 if text.startswith("driver") and "\n" in text else 2
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


def test_there_are_at_least_twenty_of_them() -> None:
    assert len(BAD) >= 20
