"""systemd's own opinion of the unit, and the daemon under the unit's system call filter."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.request import urlopen

import pytest

from tests.e2e.programs import CLIENT, DAEMON, Program, Workshop, workshop

if TYPE_CHECKING:
    from collections.abc import Iterator

HOST = Path(__file__).parent
UNIT = HOST.parents[1] / "deploy/xcpmemd.service"
EXPOSURE_MOST = 20
"""In tenths, as systemd-analyze wants it: at most 2.0 of 10."""


def analyze(*words: str) -> tuple[int, str]:
    done = subprocess.run(
        ["systemd-analyze", "--no-pager", *words], capture_output=True, text=True, timeout=60, check=False
    )
    return done.returncode, done.stdout + done.stderr


def exposed(unit: Path) -> tuple[int, str]:
    return analyze("security", "--offline=true", f"--threshold={EXPOSURE_MOST}", str(unit))


def test_unit_says_nothing_that_systemd_does_not_understand(tmp_path: Path) -> None:
    program = tmp_path / "xcpmemd"
    program.symlink_to(sys.executable)
    unit = tmp_path / UNIT.name
    text = UNIT.read_text(encoding="utf-8").replace("/usr/bin/xcpmemd", str(program))
    unit.write_text(text, encoding="utf-8")
    status, said = analyze("verify", "--man=no", "--recursive-errors=no", str(unit))
    assert (status, [line for line in said.splitlines() if UNIT.name in line]) == (0, [])

    unit.write_text(text.replace("WatchdogSec=", "WatchDogSec="), encoding="utf-8")
    _, said = analyze("verify", "--man=no", "--recursive-errors=no", str(unit))
    assert "'WatchDogSec'" in said


def test_unit_exposes_no_more_than_it_must(tmp_path: Path) -> None:
    status, said = exposed(UNIT)
    assert status == 0, said
    assert "Overall exposure level for xcpmemd.service: 1." in said

    bare = tmp_path / UNIT.name
    bare.write_text("[Service]\nExecStart=/usr/bin/xcpmemd\n", encoding="utf-8")
    assert exposed(bare)[0] != 0


@pytest.fixture
def shop() -> Iterator[Workshop]:
    with workshop() as opened:
        yield opened


@pytest.fixture
def filtered(shop: Workshop) -> tuple[Program, str, str]:
    """A daemon under the unit's filter, its URL and its socket."""
    state = str(shop.folder / "d")
    program = shop.start(
        *(str(HOST / "filtered.py"), str(UNIT), sys.executable, *DAEMON),
        *("--scenario", "quiet", "--state-dir", state, "--listen", "127.0.0.1:0"),
    )
    ready = dict(word.split("=") for word in program.read_line().split()[2:])
    return program, ready["url"], ready["socket"]


def test_daemon_makes_no_system_call_that_the_unit_forbids(
    shop: Workshop, filtered: tuple[Program, str, str]
) -> None:
    program, url, socket = filtered
    change = ("vm-memory-dynamic-range-set", "vm=guest-1", "min=1GiB", "max=2GiB")
    assert shop.run(*CLIENT, "-s", socket, *change).status == 0
    assert shop.run(*CLIENT, "-s", socket, "vm-memory-target-wait", "vm=guest-1").status == 0
    with urlopen(f"{url}/readyz?verbose", timeout=20) as answer:  # noqa: S310 - our own daemon's URL
        assert b"[+]host ok" in answer.read()
    assert program.end() == 0


@pytest.mark.parametrize(
    "act",
    ["os.chroot('/')", "mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)"],
    ids=["chroot", "writable code"],
)
def test_filter_ends_a_program_that_does_what_the_unit_forbids(shop: Workshop, act: str) -> None:
    words = (str(HOST / "filtered.py"), str(UNIT), sys.executable, "-c")
    assert shop.run(*words, "import os, mmap").status == 0
    assert shop.run(*words, f"import os, mmap; {act}").status == -signal.SIGSYS
