"""The manual pages are read by man(1) without a complaint."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

MAN = Path(__file__).parents[2] / "deploy/man"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("xcpmem.1", "xcpmem vm-memory-dynamic-range-set vm=web1 min=1GiB max=2GiB"),
        ("xcpmemd.8", "--root-password-file FILE"),
        ("xcpmem.toml.5", "safety_look_s"),
    ],
)
def test_man_shows_the_page(name: str, expected: str) -> None:
    command = ("man", "--warnings", "--encoding=UTF-8", "-l", str(MAN / name))
    environment = {"MANWIDTH": "100", "LC_ALL": "C.UTF-8", "PATH": "/usr/bin:/bin", "PAGER": "cat"}
    shown = subprocess.run(command, check=True, capture_output=True, text=True, env=environment, timeout=60)
    assert shown.stderr == ""
    assert expected in shown.stdout.replace("\u2010", "-").replace("\u2212", "-")
