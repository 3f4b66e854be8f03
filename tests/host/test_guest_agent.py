"""The guest agent, compiled as its guide says, on a /proc of our own: our reader reads what it writes."""

from __future__ import annotations

import os
import signal
import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from tests.host.test_systemd import analyze
from xcpmem.units import mib_to_kib
from xcpmem.xen.guestreports import Report, read_own

if TYPE_CHECKING:
    from collections.abc import Iterator

GUEST: Final = Path(__file__).parents[2] / "deploy/guest"

MEMINFO: Final = """MemTotal:        2000000 kB
MemFree:          100000 kB
MemAvailable:    0600000 kB
Buffers:           20000 kB
Cached:           400000 kB
SwapCached:         1000 kB
SwapTotal:        500000 kB
SwapFree:         400000 kB
Shmem:             30000 kB
"""
PRESSURE: Final = """some avg10=0.00 avg60=0.00 avg300=0.00 total=0000123456
full avg10=0.00 avg60=0.00 avg300=0.00 total=0000000456
"""
VMSTAT: Final = """nr_free_pages 25000
workingset_refault_anon 100
workingset_refault_file 400
pgmajfault 50
"""


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    program = tmp_path_factory.mktemp("agent") / "xcpmem-guest"
    source = GUEST / "xcpmem-guest.c"
    command = ["cc", "-O2", "-Wall", "-Wextra", "-Werror", "-static", "-o", str(program), str(source)]
    subprocess.run(command, check=True, timeout=120)
    return program


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    (tmp_path / "pressure").mkdir()
    (tmp_path / "meminfo").write_text(MEMINFO)
    (tmp_path / "pressure/memory").write_text(PRESSURE)
    (tmp_path / "vmstat").write_text(VMSTAT)
    return tmp_path


def reported(agent: Path, proc: Path) -> Report | None:
    command = [str(agent), "--print", "--once", "--proc", str(proc)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    assert len(done.stdout) <= 128
    return read_own(done.stdout.removesuffix("\n"))


def rewrite(file: Path, before: str, after: str) -> None:
    """Change a file that somebody reads, in one write and without changing its length, as /proc would."""
    text = file.read_text().replace(before, after)
    with file.open("r+b") as opened:
        assert os.pwrite(opened.fileno(), text.encode(), 0) == file.stat().st_size


def test_our_reader_reads_what_the_agent_writes(agent: Path, proc: Path) -> None:
    assert reported(agent, proc) == Report(
        available_kib=600_000, swapped_kib=99_000, stall_us=123_456, refault_kib=500 * 4
    )


def test_a_kernel_that_does_not_count_stalls_has_them_estimated_from_page_faults(
    agent: Path, proc: Path
) -> None:
    (proc / "pressure/memory").unlink()
    report = reported(agent, proc)
    assert report is not None
    assert (report.stall_us, report.is_estimated) == (50 * 8000, True)
    (proc / "vmstat").unlink()
    report = reported(agent, proc)
    assert report is not None
    assert (report.stall_us, report.refault_kib, report.is_estimated) == (None, None, False)


def test_an_old_kernel_has_its_available_memory_summed_up(agent: Path, proc: Path) -> None:
    (proc / "meminfo").write_text(MEMINFO.replace("MemAvailable:    0600000 kB\n", ""))
    (proc / "vmstat").write_text("workingset_refault 10\npgmajfault 1\n")
    report = reported(agent, proc)
    assert report is not None
    assert report.available_kib == 100_000 + 20_000 + 400_000 - 30_000
    assert report.refault_kib == 40


def test_the_kernel_we_run_on_is_understood(agent: Path) -> None:
    report = reported(agent, Path("/proc"))
    assert report is not None
    assert report.available_kib is not None
    assert report.available_kib > mib_to_kib(1)


@contextmanager
def running(agent: Path, proc: Path) -> Iterator[subprocess.Popen[str]]:
    command = [str(agent), "--print", "--proc", str(proc)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        yield process
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


def next_report(process: subprocess.Popen[str]) -> Report:
    assert process.stdout is not None
    report = read_own(process.stdout.readline().removesuffix("\n"))
    assert report is not None
    return report


def test_it_speaks_of_a_need_that_grew_of_stalls_and_else_of_nothing(agent: Path, proc: Path) -> None:
    with running(agent, proc) as process:
        assert next_report(process).available_kib == 600_000
        rewrite(proc / "meminfo", "0600000", "0595000")
        rewrite(proc / "pressure/memory", "0000123456", "0000130000")
        rewrite(proc / "meminfo", "0595000", "0570000")
        assert next_report(process).available_kib == 570_000
        rewrite(proc / "pressure/memory", "0000130000", "0000190000")
        assert next_report(process).stall_us == 190_000
        rewrite(proc / "meminfo", "0570000", "0565000")
        assert next_report(process).available_kib == 565_000, "the heartbeat tells of it"


def test_a_bad_word_is_answered_with_what_there_is(agent: Path) -> None:
    done = subprocess.run([str(agent), "--prnt"], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 2
    assert "usage: xcpmem-guest" in done.stderr


def test_it_says_why_it_cannot_report(agent: Path, tmp_path: Path) -> None:
    command = [str(agent), "--print", "--proc", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stderr) == (1, f"xcpmem-guest: {tmp_path}/meminfo cannot be read\n")


def test_unit_says_nothing_that_systemd_does_not_understand(agent: Path, tmp_path: Path) -> None:
    unit = tmp_path / "xcpmem-guest.service"
    text = (GUEST / unit.name).read_text(encoding="utf-8")
    unit.write_text(text.replace("/usr/local/sbin/xcpmem-guest", str(agent)), encoding="utf-8")
    status, said = analyze("verify", "--man=no", "--recursive-errors=no", str(unit))
    assert (status, [line for line in said.splitlines() if unit.name in line]) == (0, [])
