"""``xcpmem simhost``: a simulated host as a process of its own."""

from __future__ import annotations

import asyncio
import signal
import sys
from typing import TYPE_CHECKING

import pytest

from xcpmem.simhost_tool import simhost_main
from xcpmem.xen import paths
from xcpmem.xen.simhypervisor import RemoteHypervisor
from xcpmem.xen.xenstore import Xenstore

if TYPE_CHECKING:
    from pathlib import Path

PROGRAM = "import sys; from xcpmem.simhost_tool import simhost_main; sys.exit(simhost_main(sys.argv[1:]))"


async def test_the_host_serves_its_store_and_its_hypervisor_until_it_is_told_to_end(tmp_path: Path) -> None:
    path = str(tmp_path / "xs")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", PROGRAM, "--scenario", "quiet", "--socket", path),
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    async with asyncio.timeout(30.0):
        ready = (await process.stdout.readline()).decode()
        assert ready == f"xcpmem simhost ready socket={path} hypervisor={path}.hypervisor\n"
        hypervisor, store = RemoteHypervisor(path + ".hypervisor"), Xenstore(path)
        assert len((await hypervisor.survey()).domains) == 5
        await store.connect()
        assert await store.read(paths.dynamic_max(1)) == "3145728"
        await store.close()
        await hypervisor.close()
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0


@pytest.mark.parametrize(
    ("scenario", "socket", "said"),
    [
        ("fleet:0", "xs", "fleet:0: must be fleet:N"),
        ("nowhere.toml", "xs", "nowhere.toml: No such file"),
        ("{tmp}/zero.toml", "xs", "guest.domid: 0 is domain 0, and this host has one that is as large as"),
        ("quiet", "no/such/folder/xs", "socket: "),
        ("quiet", "x" * 200, "socket: "),
    ],
)
def test_a_host_that_cannot_be_says_why_on_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], scenario: str, socket: str, said: str
) -> None:
    zero = "[[guest]]\ndomid = 0\ndynamic_min_kib = 1\ndynamic_max_kib = 2\n"
    (tmp_path / "zero.toml").write_text(zero)
    scenario = scenario.replace("{tmp}", str(tmp_path))
    assert simhost_main(["--scenario", scenario, "--socket", str(tmp_path / socket)]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("xcpmem simhost: ")
    assert said in printed.err
    assert printed.err.count("\n") == 1
