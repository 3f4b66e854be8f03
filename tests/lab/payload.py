"""What changes from run to run: this project's wheel and the tests, packed to be laid over dom0's root."""

from __future__ import annotations

import compileall
import py_compile
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from deploy.debian.build import build
from tests.lab.image import DOM0_PYTHON, PROJECT, ImageError, pack_cpio
from tests.lab.needy import pack_needy_overlay

if TYPE_CHECKING:
    from collections.abc import Sequence

# What runs inside dom0 from the tree itself, under the same names as outside.
TEST_SOURCES: Final = (
    "tests/faultproxy.py",
    "tests/fakexenopsd.py",
    "tests/lab/boots.py",
    "tests/lab/dom0",
    "tests/contract",
)
# Checks of these modules want guests that swap, report and can be told to eat memory.
NEEDY_MODULES: Final = frozenset({"pressure_checks"})
# Only these need the Debian package, which takes its time to build.
PACKAGE_CHECKS: Final = "package_checks."
WHEEL_TIMEOUT_S: Final = 300


def pack_payload(target: Path, checks: Sequence[str], log_levels: str = "") -> None:
    """Write the payload archive to target.

    Args:
        target: The gzipped cpio archive to make.
        checks: The checks to run, as `boots` names them.
        log_levels: What the daemon is to log, as XCPMEM_LOG says it; empty: as usual.

    Raises:
        ImageError: The wheel could not be built.
    """
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch) / "root"
        lab = root / "opt" / "lab"
        for name in TEST_SOURCES:
            source, copy = PROJECT / name, lab / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, copy, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, copy)
        shutil.copy(PROJECT / "tests/lab/dom0/init", root / "init")
        (lab / "checks").write_text("\n".join(checks))
        (lab / "log-levels").write_text(log_levels)
        if any(check.partition(".")[0] in NEEDY_MODULES for check in checks):
            (root / "opt" / "guest").mkdir()
            pack_needy_overlay(root / "opt" / "guest" / "needy.cpio.gz")
        with zipfile.ZipFile(_wheel(Path(scratch))) as wheel:
            wheel.extractall(root / "opt" / "project")
        if any(check.startswith(PACKAGE_CHECKS) for check in checks):
            build(Path(scratch) / "deb", DOM0_PYTHON).rename(lab / "xcpmem.deb")
        if f"{sys.version_info.major}.{sys.version_info.minor}" == DOM0_PYTHON:
            # Or else dom0 compiles it under emulation, which takes many seconds of each boot.
            compileall.compile_dir(
                root / "opt", quiet=1, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH
            )
        pack_cpio(root, target)


def _wheel(directory: Path) -> Path:
    """Build this project's wheel as a user's pip would."""
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check", "--no-deps"]
    done = subprocess.run(
        [*command, f"--wheel-dir={directory}", str(PROJECT)],
        capture_output=True,
        text=True,
        check=False,
        timeout=WHEEL_TIMEOUT_S,
    )
    if done.returncode:
        raise ImageError(f"building the wheel failed:\n{done.stderr[-2000:]}")
    (wheel,) = directory.glob("*.whl")
    return wheel
