"""The binding on dom0's ``xen.lowlevel.xc``, over a double of that extension found in its folder."""

from __future__ import annotations

import asyncio
import importlib
import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from xcpmem.errors import DomainVanished, DriverDisconnected, DriverError, DriverTimeout
from xcpmem.units import kib_to_whole_pages_floor
from xcpmem.xen.hypervisor import (
    GLANCE_S,
    SETMAXMEM_MOST_KIB,
    DomainInfo,
    PhysInfo,
    XcHypervisor,
    next_glance_s,
    open_hypervisor,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

BINDING = """
class Error(RuntimeError):
    pass

class xc:
    def __init__(self):
        self.rows = {domid: {"domid": domid, "handle": [domid] * 16, "mem_kb": 4096, "maxmem_kb": 5120,
                     "online_vcpus": 2, "hvm": 0, "paused": 1, "shutdown": 0, "dying": 0}
                     for domid in (0, 3)}
        self.keeps_maxmem = False
        self.blocks = None
        self.calls = []
        self.free_kib = [100]

    def physinfo(self):
        self.calls.append("physinfo")
        if self.blocks is not None:
            self.blocks.wait(5)
        free_kib = self.free_kib.pop(0) if self.free_kib[1:] else self.free_kib[0]
        return {"total_memory": 1000, "free_memory": free_kib, "scrub_memory": 10, "nr_cpus": 4}

    def domain_getinfo(self, first, most):
        self.calls.append("domain_getinfo")
        if first > 31000:
            raise Error(3, "No such process")
        return [dict(row) for domid, row in sorted(self.rows.items()) if domid >= first][:most]

    def domain_setmaxmem(self, domid, kib):
        if kib == 0:
            raise Error(22, "Invalid argument")
        if kib > 2**31 - 1:
            raise OverflowError("signed integer is greater than maximum")
        if not self.keeps_maxmem:
            self.rows[domid]["maxmem_kb"] = kib // 4 * 4
"""


@contextmanager
def installed(folder: Path, text: str) -> Iterator[str]:
    """A distribution's folder with the extension in it; nothing of it stays importable."""
    package = folder / "xen" / "lowlevel"
    package.mkdir(parents=True)
    for path in (folder / "xen" / "__init__.py", package / "__init__.py"):
        path.touch()
    (package / "xc.py").write_text(text)
    before = list(sys.path)
    try:
        importlib.invalidate_caches()
        yield str(folder)
    finally:
        sys.path[:] = before
        for name in [name for name in sys.modules if name.partition(".")[0] == "xen"]:
            del sys.modules[name]


@pytest.fixture
async def hypervisor(tmp_path: Path) -> AsyncIterator[XcHypervisor]:
    with installed(tmp_path, BINDING) as folder:
        hypervisor = open_hypervisor([folder])
        yield hypervisor
        await hypervisor.close()


def xc_of(hypervisor: XcHypervisor) -> Any:
    return hypervisor._xc


async def test_hypervisor_reads_memory_and_domains(hypervisor: XcHypervisor) -> None:
    assert (await hypervisor.survey()).physical == PhysInfo(1000, 100, 10, cpus=4)
    uuid = "03030303-0303-0303-0303-030303030303"
    assert (await hypervisor.survey()).domains[1] == DomainInfo(3, uuid, 4096, 5120, vcpus=2, paused=True)


async def test_domain_of_an_unchanged_row_is_the_same_object(hypervisor: XcHypervisor) -> None:
    zero, third = (await hypervisor.survey()).domains
    xc_of(hypervisor).rows[3]["mem_kb"] = 4092
    still_zero, shrunk = (await hypervisor.survey()).domains
    assert still_zero is zero
    assert shrunk == third._replace(actual_kib=4092)


async def test_one_survey_is_one_batch_of_hypercalls(hypervisor: XcHypervisor) -> None:
    calls = xc_of(hypervisor).calls = []
    await hypervisor.survey()
    assert calls == ["domain_getinfo", "physinfo"]


async def test_hypervisor_tells_as_soon_as_enough_is_free(hypervisor: XcHypervisor) -> None:
    xc = xc_of(hypervisor)
    xc.free_kib = [100, 104, 150, 200]
    assert await hypervisor.await_free(200, 60)
    assert xc.calls == ["physinfo"] * 4


async def test_hypervisor_waits_no_longer_than_it_is_told(hypervisor: XcHypervisor) -> None:
    assert not await hypervisor.await_free(101, 0.02)


async def test_worker_is_free_again_once_nobody_waits_for_memory(hypervisor: XcHypervisor) -> None:
    waiting = asyncio.create_task(hypervisor.await_free(101, 60))
    await asyncio.sleep(0)
    waiting.cancel()
    assert (await hypervisor.survey()).physical.free_kib == 100


@pytest.mark.parametrize(
    ("pause_s", "gained_kib", "missing_kib", "next_s"),
    [
        pytest.param(0.1, 100, 200, 0.1, id="half of the rest"),
        pytest.param(0.1, 100, 1, GLANCE_S[0], id="nearly there"),
        pytest.param(0.1, 1, 100, GLANCE_S[1], id="a long way off"),
        pytest.param(0.1, 0, 100, 0.2, id="standstill"),
        pytest.param(0.2, -5, 100, GLANCE_S[1], id="others take it"),
    ],
)
def test_glances_at_free_memory_come_the_closer_the_less_is_missing(
    pause_s: float, gained_kib: int, missing_kib: int, next_s: float
) -> None:
    assert next_glance_s(pause_s, gained_kib, missing_kib) == pytest.approx(next_s)


async def test_hypervisor_caps_a_domain_in_whole_pages(hypervisor: XcHypervisor) -> None:
    await hypervisor.set_maxmem(3, 6001)
    assert (await hypervisor.survey()).domains[1].maxmem_kib == 6000


async def test_hypervisor_says_that_a_domain_is_gone(hypervisor: XcHypervisor) -> None:
    for domid in (2, 4, 31999):
        with pytest.raises(DomainVanished):
            await hypervisor.set_maxmem(domid, 6000)


async def test_hypervisor_notices_a_cap_that_is_not_there(hypervisor: XcHypervisor) -> None:
    xc_of(hypervisor).keeps_maxmem = True
    with pytest.raises(DomainVanished, match="kept its maxmem"):
        await hypervisor.set_maxmem(3, 6000)


async def test_hypervisor_says_what_xen_refused(hypervisor: XcHypervisor) -> None:
    with pytest.raises(DriverError, match="Invalid argument"):
        await hypervisor.set_maxmem(3, 0)


async def test_hypervisor_says_that_a_cap_is_more_than_the_binding_can_set(hypervisor: XcHypervisor) -> None:
    most_kib = kib_to_whole_pages_floor(SETMAXMEM_MOST_KIB)
    await hypervisor.set_maxmem(3, most_kib)
    with pytest.raises(DriverError, match="a maxmem of 2147483648 KiB is more than xen"):
        await hypervisor.set_maxmem(3, SETMAXMEM_MOST_KIB + 1)
    assert (await hypervisor.survey()).domains[1].maxmem_kib == most_kib


async def test_hypervisor_does_not_wait_for_a_call_without_end(hypervisor: XcHypervisor) -> None:
    xc = xc_of(hypervisor)
    xc.blocks = threading.Event()
    hasty = XcHypervisor(xc, call_deadline_s=0.05)
    with pytest.raises(DriverTimeout, match="longer than"):
        await hasty.survey()
    xc.blocks.set()
    await hasty.close()


def test_hypervisor_says_what_is_missing_when_there_is_no_binding(tmp_path: Path) -> None:
    with pytest.raises(DriverDisconnected, match="no Xen binding for Python"):
        open_hypervisor([str(tmp_path / "nothing*")])


def test_hypervisor_says_so_when_there_is_no_xen_beneath(tmp_path: Path) -> None:
    broken = BINDING.replace(
        "def __init__(self):", "def __init__(self):\n        raise Error(2, 'no privcmd')"
    )
    with (
        installed(tmp_path, broken) as folder,
        pytest.raises(DriverDisconnected, match=r"does not answer.*no privcmd"),
    ):
        open_hypervisor([folder])
