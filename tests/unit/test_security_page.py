"""`deploy/SECURITY.md` speaks of tests and commands that exist."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

from tests.faults import FAULTS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "deploy" / "SECURITY.md").read_text(encoding="utf-8")


@cache
def sources() -> str:
    return "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("*.py"))


def test_every_test_that_is_named_exists() -> None:
    named = set(re.findall(r"`(test_\w+)`", PAGE))
    assert len(named) > 15
    assert {name for name in named if f"def {name}(" not in sources()} == set()


def test_every_file_and_module_that_is_named_exists() -> None:
    for path in re.findall(r"`((?:tests|deploy)/[\w./]+)`", PAGE):
        assert (ROOT / path).exists(), path
    for module in re.findall(r"python -m (tests[\w.]*)", PAGE):
        place = ROOT / module.replace(".", "/")
        assert place.with_suffix(".py").exists() or (place / "__main__.py").exists(), module


def test_every_fault_that_is_tried_stands_in_the_table() -> None:
    assert {title for title in FAULTS if f"| {title} |" not in PAGE} == set()
