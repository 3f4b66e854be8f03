"""Settings: three sources, one frozen value, and complaints that fit one line."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xcpmem import __version__
from xcpmem.config import (
    DriverKind,
    OverheadFormula,
    Settings,
    declared_settings,
    help_text,
    parse_command_line,
)
from xcpmem.errors import ConfigError
from xcpmem.logs import LogLevel
from xcpmem.readers import Address

if TYPE_CHECKING:
    from collections.abc import Callable

    WriteConfig = Callable[[str], Path]

EXPECTED_KIB = "expected KiB, a whole number of 0 or more, or text with a unit (72MiB)"
BEYOND_LOOPBACK = (
    "can be reached from other machines: needs tls_cert and tls_key, or allow_plain_beyond_loopback = true"
)
FLAGS = [f"--{key.replace('_', '-')}" for key, setting in declared_settings().items() if setting.flag]
ENVIRON = {"HOME": "/home/tester"}


@pytest.fixture
def write_config(tmp_path: Path) -> WriteConfig:
    def write(text: str) -> Path:
        path = tmp_path / "xcpmem.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def parse(*argv: str) -> Settings:
    return parse_command_line(argv, ENVIRON, euid=1000)


def complaint(*argv: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse(*argv)
    text = str(caught.value)
    assert len(text.splitlines()) == 1
    return text


def test_settings_are_the_documented_defaults_when_nothing_is_said() -> None:
    settings = parse()
    assert settings == Settings(state_dir=Path("/home/tester/.local/state/xcpmem"))
    assert settings.driver is DriverKind.SIMULATED
    assert settings.scenario == "default"
    assert settings.listen == Address("127.0.0.1", 8080)
    assert settings.socket_path == Path("/home/tester/.local/state/xcpmem/xcpmem.sock")
    assert settings.slush_kib == 73728
    assert settings.safety_look_s == 30
    assert settings.reservation_orphan_s == 600
    assert settings.overhead_formula is OverheadFormula.NEW
    assert not settings.check_config


def test_command_line_wins_over_the_file(write_config: WriteConfig) -> None:
    path = write_config('scenario = "quiet"\nlisten = "127.0.0.1:9000"\n')
    settings = parse("--config", str(path), "--listen=[::1]:0")
    assert settings.scenario == "quiet"
    assert settings.listen == Address("::1", 0)


def test_every_option_reaches_its_setting(tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.write_text("secret", encoding="utf-8")
    settings = parse(
        *(
            "--driver",
            "simulated",
            "--scenario",
            "fleet:40",
            "--listen",
            "localhost:0",
            "--socket",
            "/run/x.sock",
        ),
        *("--state-dir", "/srv/xcpmem", "--root-password-file", str(password), "--policy", "shares"),
        *("--host", "/run/host.sock", "--check-config"),
    )
    assert settings == Settings(
        scenario="fleet:40",
        listen=Address("localhost", 0),
        socket=Path("/run/x.sock"),
        state_dir=Path("/srv/xcpmem"),
        root_password_file=password,
        policy="shares",
        host=Path("/run/host.sock"),
        check_config=True,
    )


def test_every_key_of_the_file_reaches_its_setting(write_config: WriteConfig) -> None:
    path = write_config(
        """
        driver = "xen"
        state_dir = "/srv/xcpmem"
        listen = "0.0.0.0:80"
        allow_plain_beyond_loopback = true
        safety_look_s = 10
        slush_kib = "64MiB"
        patience_s = 2.5
        overhead_formula = "old"
        session_idle_s = 3600
        reservation_orphan_s = 60
        log_level = "debug"
        """
    )
    settings = parse("--config", str(path))
    assert settings == Settings(
        driver=DriverKind.XEN,
        state_dir=Path("/srv/xcpmem"),
        listen=Address("0.0.0.0", 80),  # noqa: S104 the very thing tested
        allow_plain_beyond_loopback=True,
        safety_look_s=10,
        slush_kib=65536,
        patience_s=2.5,
        overhead_formula=OverheadFormula.OLD,
        session_idle_s=3600,
        reservation_orphan_s=60,
        log_level=LogLevel.DEBUG,
    )


def test_home_is_found_when_a_path_of_the_file_begins_with_a_tilde(
    write_config: WriteConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/elsewhere")
    path = write_config('state_dir = "~/memory"\n')
    assert parse("--config", str(path)).state_dir == Path("/home/elsewhere/memory")


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--listne", "x"], "command line: --listne: unknown option, did you mean --listen?"),
        (["-x"], "command line: -x: unknown option"),
        (["quiet"], "command line: quiet: unknown option"),
        (["--driver", "kvm"], "command line: --driver: expected one of simulated, xen, got 'kvm'"),
        (["--driver"], "command line: --driver: needs a value, simulated|xen"),
        (["--driver", "--observe"], "command line: --driver: needs a value, simulated|xen"),
        (["--driver="], "command line: --driver: needs a value, simulated|xen"),
        (["--policy", "a", "--policy", "b"], "command line: --policy: given twice"),
        (["--check-config=yes"], "command line: --check-config: takes no value"),
        (
            ["--listen", "8080"],
            "command line: --listen: expected HOST:PORT, the port from 0 to 65535, got '8080'",
        ),
        (
            ["--config", "/nonexistent/x.toml"],
            "/nonexistent/x.toml: cannot be read: No such file or directory",
        ),
        (
            ["--root-password-file", "/nonexistent/pw"],
            "command line: --root-password-file: no such file: /nonexistent/pw",
        ),
        (["--driver", "xen", "--host", "/x"], 'command line: --host: only with driver = "simulated"'),
    ],
)
def test_command_line_is_refused_with_option_and_reason(argv: list[str], said: str) -> None:
    assert complaint(*argv) == said


@pytest.mark.parametrize(
    "value", ["localhost", ":80", "::1:80", "[::1]", "[fe80::x]:1", "h:-1", "h:65536", "h:²", "h:"]
)
def test_listen_is_refused_when_it_is_no_host_and_port(value: str) -> None:
    assert complaint("--listen", value).startswith("command line: --listen: expected HOST:PORT")


@pytest.mark.parametrize("flag", [("--squeezed-socket", "/run/s"), ("--message-switch", "/run/m")])
def test_squeezed_is_not_replaced_and_observed_at_once(flag: tuple[str, ...]) -> None:
    refusal = "not with observe: squeezed itself serves there"
    assert complaint("--observe", *flag) == f"command line: {flag[0]}: {refusal}"
    assert parse(*flag).is_drop_in
    assert not parse("--observe").is_drop_in


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('scenerio = "quiet"', "1: scenerio: unknown key, did you mean scenario?"),
        ("\n\n[host]\nsocket = 1", "3: host: expected a path, got {'socket': 1}"),
        ("# a\nsafety_look_s = 'soon'", "2: safety_look_s: expected seconds, a number above 0, got 'soon'"),
        ("safety_look_s = 0", "1: safety_look_s: expected seconds, a number above 0, got 0"),
        ("safety_look_s = nan", "1: safety_look_s: expected seconds, a number above 0, got nan"),
        ("patience_s = true", "1: patience_s: expected seconds, a number above 0, got True"),
        (
            "slush_kib = '72 megs'",
            f"1: slush_kib: {EXPECTED_KIB}, got '72 megs'",
        ),
        (
            "slush_kib = '72'",
            f"1: slush_kib: {EXPECTED_KIB}, got '72'",
        ),
        (
            "slush_kib = -1",
            f"1: slush_kib: {EXPECTED_KIB}, got -1",
        ),
        ("observe = 1", "1: observe: expected true or false, got 1"),
        ("scenario = ''", "1: scenario: expected text, not empty, got ''"),
        (
            "policy = 'a\\nb'\nlog_level = 'loud'",
            "2: log_level: expected one of debug, info, warning, error, got 'loud'",
        ),
        (
            "listen = '0.0.0.0:8080'",
            f"1: listen: 0.0.0.0:8080 {BEYOND_LOOPBACK}",
        ),
    ],
)
def test_file_is_refused_with_line_key_and_reason(write_config: WriteConfig, text: str, said: str) -> None:
    path = write_config(text)
    assert complaint("--config", str(path)) == f"{path}:{said}"


def test_file_is_refused_when_it_is_not_toml(write_config: WriteConfig) -> None:
    path = write_config("driver = \n")
    assert complaint("--config", str(path)).startswith(f"{path}: is not TOML: Invalid value (at line 1")


def test_file_is_refused_when_it_is_not_utf_8(tmp_path: Path) -> None:
    path = tmp_path / "latin.toml"
    path.write_bytes(b"scenario = '\xe4'\n")
    assert complaint("--config", str(path)).startswith(f"{path}: is not TOML: 'utf-8' codec")


def test_certificate_is_refused_when_its_key_is_missing(tmp_path: Path) -> None:
    cert = tmp_path / "cert.pem"
    cert.touch()
    expected = "command line: --tls-cert: needs tls_key, and tls_key needs tls_cert"
    assert complaint("--tls-cert", str(cert)) == expected


def test_socket_path_is_refused_when_linux_could_not_bind_it() -> None:
    long = "/" + "d" * 100
    assert "a socket's path at most 107" in complaint("--state-dir", long)
    assert complaint("--socket", long + "/sockets").startswith("command line: --socket: ")


@pytest.mark.parametrize(
    ("argv", "environ", "euid", "expected"),
    [
        ([], {"HOME": "/root"}, 0, "/root/.local/state/xcpmem"),
        (["--driver", "xen"], {"HOME": "/root"}, 0, "/var/lib/xcpmem"),
        (["--driver", "xen"], {"HOME": "/home/u"}, 1000, "/home/u/.local/state/xcpmem"),
        ([], {"HOME": "/home/u", "XDG_STATE_HOME": "/state"}, 1000, "/state/xcpmem"),
        ([], {"HOME": "/home/u", "XDG_STATE_HOME": "state"}, 1000, "/home/u/.local/state/xcpmem"),
    ],
)
def test_state_dir_is_the_systems_for_root_on_xen_and_the_users_otherwise(
    argv: list[str], environ: dict[str, str], euid: int, expected: str
) -> None:
    assert parse_command_line(argv, environ, euid).state_dir == Path(expected)


def test_state_dir_is_asked_for_when_there_is_no_home() -> None:
    with pytest.raises(ConfigError, match="environment: HOME: is not set: say where with --state-dir"):
        parse_command_line([], {}, euid=1000)


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_is_printed_with_every_key_and_status_0(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse("--driver", "xen", flag)
    assert caught.value.code == 0
    assert capsys.readouterr().out == help_text()
    for key, setting in declared_settings().items():
        assert ("--" + key.replace("_", "-") if setting.flag else key) in help_text()


def test_version_is_printed_with_status_0(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse("--version")
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"xcpmemd {__version__}\n"


def test_shipped_file_names_every_key_with_its_default() -> None:
    shipped = Path(__file__).parents[2] / "deploy/xcpmem.toml"
    settings = parse("--config", str(shipped))
    assert settings == parse("--state-dir", str(settings.state_dir))
    text = shipped.read_text(encoding="utf-8")
    assert [key for key in declared_settings() if f"{key} = " not in text] == []


@pytest.mark.parametrize("path", ["a\\u0000b", "a" * 5000])
def test_path_is_refused_when_no_file_can_have_it(write_config: WriteConfig, path: str) -> None:
    said = complaint("--config", str(write_config(f'root_password_file = "{path}"')))
    assert "1: root_password_file: expected a path, got 'a" in said


@settings(deadline=None)
@given(st.lists(st.text(max_size=20) | st.sampled_from([*FLAGS, "simulated", "127.0.0.1:0"]), max_size=6))
def test_any_command_line_makes_settings_or_one_complaint(argv: list[str]) -> None:
    try:
        settings = parse(*argv)
    except ConfigError as error:
        said = str(error)
    else:
        said = str(settings.socket_path)
    assert said
