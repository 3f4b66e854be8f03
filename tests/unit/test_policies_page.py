"""The page for people who write their own policy: its example is taken out and run."""

from __future__ import annotations

import re
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from tests.builders import MIB
from xcpmem.engine.containment import PolicyMemory, divide
from xcpmem.engine.policies import POLICIES, find_policy
from xcpmem.engine.policy import Claim, Division, Snapshot
from xcpmem.engine.sample import Sample
from xcpmem.errors import InvalidValue
from xcpmem.plugins import GROUP, load_policies

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from xcpmem.engine.policy import Policy

PAGE: Final = (Path(__file__).parents[2] / "api-spec/policies.md").read_text(encoding="utf-8")


@pytest.fixture
def policies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Mapping[str, Policy]]:
    """All policies, with the one that the page shows installed as the page says."""
    [example] = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    [(name, value)] = re.findall(r'^(\w+) = "(\w+:\w+)"$', PAGE, flags=re.MULTILINE)
    (tmp_path / f"{name}.py").write_text(example, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    yield load_policies([EntryPoint(name, value, GROUP)])
    del sys.modules[name]


def claim(domid: int, used_kib: int | None) -> Claim:
    sample = None if used_kib is None else Sample(0.0, 10.0, used_kib)
    return Claim(0, 4000 * MIB, 0, 4000 * MIB, domid, f"vm{domid}", sample=sample)


def test_example_of_the_page_is_a_policy(policies: Mapping[str, Policy]) -> None:
    snapshot = Snapshot(0.0, 4000 * MIB, [claim(1, 1000 * MIB), claim(2, 2000 * MIB)])
    policy = find_policy("generous", {"room_percent": "20"}, policies)
    division, memory = divide(policy, snapshot, PolicyMemory())
    assert memory.trouble == ""
    assert [goal // MIB for goal in division.goals_kib] == [1406, 2594]
    with pytest.raises(InvalidValue):
        find_policy("generous", {"room_percent": "200"}, policies)


def test_example_gives_a_silent_guest_what_there_is(policies: Mapping[str, Policy]) -> None:
    policy = find_policy("generous", {}, policies)
    snapshot = Snapshot(0.0, 3000 * MIB, [claim(1, None), claim(2, 1000 * MIB)])
    division, _ = divide(policy, snapshot, PolicyMemory())
    assert [goal // MIB for goal in division.goals_kib] == [1696, 1303]


def test_example_is_as_short_as_the_page_says() -> None:
    [example] = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    assert len([line for line in example.splitlines() if line.strip()]) <= 20


def test_page_names_the_entry_points_and_every_field() -> None:
    assert f'[project.entry-points."{GROUP}"]' in PAGE
    fields = {*Claim._fields, *Snapshot._fields, *Division.__dataclass_fields__}
    assert [name for name in fields if f"`{name}`" not in PAGE] == []
    assert [name for name in POLICIES if f"| `{name}` |" not in PAGE] == []
