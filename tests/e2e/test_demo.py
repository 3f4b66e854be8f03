"""`make run`: what it tells a newcomer to type works as it stands."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp
import pytest

from xcpmem.demo import main

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

ROOT = Path(__file__).parents[2]
START_S = 30
END_S = 30


@pytest.fixture
async def demo(tmp_path: Path) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """A demo that serves, and what it said until then."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        main.__module__,
        cwd=tmp_path,
        env={**os.environ, "HOME": str(tmp_path), "PYTHONPATH": str(ROOT)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert process.stdout is not None
    said = ""
    try:
        async with asyncio.timeout(START_S):
            while "\nxcpmemd ready " not in said:
                line = await process.stdout.readline()
                assert line, said
                said += line.decode()
        yield process, said
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def typed(command: str, directory: Path) -> str:
    """Run what a newcomer types; give what it prints."""
    process = await asyncio.create_subprocess_shell(command, cwd=directory, stdout=asyncio.subprocess.PIPE)
    async with asyncio.timeout(START_S):
        output, _ = await process.communicate()
    assert process.returncode == 0
    return output.decode()


async def test_commands_of_the_greeting_work(
    demo: tuple[asyncio.subprocess.Process, str], tmp_path: Path
) -> None:
    _, said = demo
    client = re.search(r"^  (\S*xcpmem -s .*)$", said, flags=re.MULTILINE)
    assert client is not None
    assert "name-label ( RW): database" in await typed(client[1], tmp_path)
    script = re.search(r"^  \S*python\S* - <<'END'.*?^  END$", said, flags=re.MULTILINE | re.DOTALL)
    assert script is not None
    printed = await typed(textwrap.dedent(script[0]), tmp_path)
    assert re.search(r"^web [0-9]+$", printed, flags=re.MULTILINE)
    url = re.search(r"where +(http://\S+)", said)
    assert url is not None
    async with aiohttp.ClientSession() as session, session.get(f"{url[1]}/metrics") as response:
        assert "\nxcpmem_domain_memory_target_bytes{" in await response.text()


async def test_ctrl_c_ends_the_demo_cleanly(demo: tuple[asyncio.subprocess.Process, str]) -> None:
    process, _ = demo
    process.send_signal(signal.SIGINT)
    async with asyncio.timeout(END_S):
        assert await process.wait() == 0
