"""The README's first five minutes, typed as they stand."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
DEADLINE_S = 60


def blocks() -> list[str]:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return re.findall(r"^```sh\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


async def typed(block: str, directory: Path) -> str:
    """Run a block as a shell would that stops at the first error; give what it prints."""
    process = await asyncio.create_subprocess_exec(
        *("bash", "-euo", "pipefail", "-c", block), cwd=directory, stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, block
    return output.decode()


async def test_first_five_minutes_go_as_the_readme_says(tmp_path: Path) -> None:
    (tmp_path / ".venv").symlink_to(sys.prefix)
    (tmp_path / "tests").symlink_to(ROOT / "tests")
    demo = await asyncio.create_subprocess_exec(
        *(".venv/bin/python", "-m", "xcpmem.demo"),
        cwd=tmp_path,
        env={**os.environ, "HOME": str(tmp_path)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        assert demo.stdout is not None
        async with asyncio.timeout(DEADLINE_S):
            said = ""
            while not (ready := re.search(r"^xcpmemd ready url=(\S+)", said, flags=re.MULTILINE)):
                line = await demo.stdout.readline()
                assert line, said
                said += line.decode()
            answers = [
                await typed(block.replace("http://127.0.0.1:8080", ready[1]), tmp_path) for block in blocks()
            ]
    finally:
        demo.terminate()
        assert await demo.wait() == 0
    listed, _, obeyed, keys, reserved, curled, _, planned, pictured, told, simulated = answers
    assert all(name in listed for name in ("web", "database", "build", "legacy", "desktop", "appliance"))
    assert 2**30 <= int(re.search(r"memory-actual \( RO\): (\d+)", obeyed)[1]) <= 2**30 + 2**20  # type: ignore[index]
    shown = re.findall(
        r"^    (/local/domain/1/memory/.*)$", (ROOT / "README.md").read_text(), flags=re.MULTILINE
    )
    assert keys.splitlines() == shown
    assert re.match(r"\['[0-9a-f-]{36}', '\d+'\]", reserved)
    assert "domain 6 " in reserved
    assert curled.count("xcpmem_domain_memory_actual_bytes{") == 6
    assert "readyz check passed" in curled
    assert planned.rstrip().endswith("Nothing was changed.")
    assert "proportional" in pictured
    assert "root asked for VM.set_memory_dynamic_range of web: 1 GiB, 1 GiB" in told
    assert "thought through again under shares" in told
    assert "at_target" in simulated
