"""What guests need to be needy: our agent and a memory hog, compiled, and a first process that runs both.

Packed as an archive of its own that is laid over the guests' root, so that the image need not be made again
when the agent changes.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Final

from tests.lab.image import PROJECT, ImageError, pack_cpio

INIT: Final = PROJECT / "tests/lab/guest/needy-init"
PROGRAMS: Final = {
    "xcpmem-guest": PROJECT / "deploy/guest/xcpmem-guest.c",
    "hog": PROJECT / "tests/lab/guest/hog.c",
}
COMPILER_TIMEOUT_S: Final = 120


def pack_needy_overlay(target: Path) -> None:
    """Write the archive to target.

    Raises:
        ImageError: A program could not be compiled.
    """
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        (root / "bin").mkdir()
        shutil.copyfile(INIT, root / "init")
        (root / "init").chmod(0o755)
        for name, source in PROGRAMS.items():
            command = ["cc", "-O2", "-static", "-o", str(root / "bin" / name), str(source)]
            done = subprocess.run(
                command, capture_output=True, text=True, check=False, timeout=COMPILER_TIMEOUT_S
            )
            if done.returncode:
                raise ImageError(f"compiling {source.name} failed:\n{done.stderr[-2000:]}")
        pack_cpio(root, target)
