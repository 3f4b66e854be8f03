from __future__ import annotations

import asyncio
import tomllib
from pathlib import Path

import pytest

from xcpmem.config import parse_command_line
from xcpmem.errors import ConfigError
from xcpmem.rivals import refuse_rivals
from xcpmem.squeezedconf import SOCKET, SWITCH, import_squeezed_conf

SHIPPED = """\
# Configuration file for squeezed
balance-check-interval = 10
manage-domain-zero = true
domain-zero-dynamic-min = 1073741824   # bytes
domain-zero-dynamic-max = auto
log = syslog:squeezed
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "squeezed.conf"
    path.write_text(text)
    return path


def test_settings_are_those_of_squeezed_and_xcpmem_takes_them(tmp_path: Path) -> None:
    imported = tmp_path / "xcpmem.toml"
    imported.write_text(import_squeezed_conf(write(tmp_path, SHIPPED)))
    settings = parse_command_line(["--config", str(imported), "--state-dir", str(tmp_path)], {}, 0)
    assert (settings.safety_look_s, settings.manage_domain_zero) == (10.0, True)
    assert settings.domain_zero_dynamic_min_kib == 1048576
    assert (settings.squeezed_socket, settings.message_switch) == (Path(SOCKET), Path(SWITCH))


def test_what_has_no_counterpart_is_said(tmp_path: Path) -> None:
    text = import_squeezed_conf(write(tmp_path, SHIPPED))
    assert "# log = syslog:squeezed   has no counterpart\n" in text
    assert "# domain-zero-dynamic-max = auto:" in text


def test_without_the_switch_only_the_socket_is_served(tmp_path: Path) -> None:
    settings = tomllib.loads(import_squeezed_conf(write(tmp_path, "use-switch=false\n")))
    assert settings == {"driver": "xen", "squeezed_socket": SOCKET}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("balance-check-interval = often", "1: balance-check-interval: expected seconds, got 'often'"),
        ("balance-check-interval = 0", "1: balance-check-interval: expected seconds above 0, got '0'"),
        ("\nmanage-domain-zero = maybe", "2: manage-domain-zero: expected true or false, got 'maybe'"),
        (
            "domain-zero-dynamic-min = 1GiB",
            "1: domain-zero-dynamic-min: expected a size in bytes, got '1GiB'",
        ),
        (
            "domain-zero-dynamic-max = x",
            "1: domain-zero-dynamic-max: expected auto or a size in bytes, got 'x'",
        ),
        ("what is this", "1: expected key = value, got 'what is this'"),
    ],
)
def test_nonsense_is_refused_with_line_key_and_reason(tmp_path: Path, line: str, said: str) -> None:
    path = write(tmp_path, line)
    with pytest.raises(ConfigError) as refusal:
        import_squeezed_conf(path)
    assert str(refusal.value) == f"{path}:{said}"


def test_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no\.conf: cannot be read: No such file"):
        import_squeezed_conf(tmp_path / "no.conf")


def test_daemon_prints_the_import(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_command_line(["--import-squeezed-conf", str(write(tmp_path, SHIPPED))])
    assert "manage_domain_zero = true\n" in capsys.readouterr().out


async def test_balancer_that_answers_is_a_rival_and_a_dead_ones_socket_is_not(tmp_path: Path) -> None:
    path = tmp_path / "memory"
    server = await asyncio.start_unix_server(lambda _reader, writer: writer.close(), path)
    with pytest.raises(ConfigError, match="squeezed balances this host: stop it first"):
        refuse_rivals({"squeezed": str(path)})
    server.close()
    await server.wait_closed()
    refuse_rivals({"squeezed": str(path), "qmemman": str(tmp_path / "nothing")})
