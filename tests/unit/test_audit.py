"""The file of changes: appended, bounded, there again after a restart."""

from __future__ import annotations

import json
import stat
from typing import TYPE_CHECKING

from xcpmem.audit import LATEST_MOST, AuditTrail, Change, parse_line

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def change(number: int, **fields: str) -> Change:
    given = {"time": "2026-01-31T12:00:00Z", "user": "root", "role": "pool-admin", "source": "192.0.2.1"}
    return Change(**given, call=f"VM.call_{number}", **fields)  # type: ignore[arg-type]


def opened(folder: Path | None, file_bytes: int = 1 << 20) -> AuditTrail:
    trail = AuditTrail(folder, file_bytes=file_bytes)
    trail.open()
    return trail


def calls(trail: AuditTrail, count: int = LATEST_MOST) -> list[int]:
    return [int(json.loads(line)["call"].removeprefix("VM.call_")) for line in trail.latest(count)]


def test_change_is_on_disk_when_it_has_been_kept_and_there_after_a_restart(tmp_path: Path) -> None:
    first = opened(tmp_path)
    first.keep(change(1, target="VM a\nb \x1b[2J (ä)"))
    path = tmp_path / "audit.log"
    assert len(path.read_bytes().splitlines()) == 1
    assert path.read_bytes().isascii()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    second = opened(tmp_path)
    second.keep(change(2))
    assert calls(second) == [1, 2]
    assert parse_line(second.latest(2)[0])["target"] == "VM a\nb \x1b[2J (ä)"
    first.close()
    second.close()


def test_file_is_bounded_and_the_one_before_it_is_kept(tmp_path: Path) -> None:
    trail = opened(tmp_path, 2000)
    for number in range(200):
        trail.keep(change(number))
    trail.close()
    sizes = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    assert sizes.keys() == {"audit.log", "audit.log.1"}
    assert max(sizes.values()) <= 2000
    again = opened(tmp_path, 2000)
    kept = calls(again)
    assert kept == list(range(kept[0], 200))
    assert len(kept) > 10
    again.close()


def test_latest_are_the_last_ones_in_order() -> None:
    trail = opened(None)
    for number in range(LATEST_MOST + 5):
        trail.keep(change(number))
    assert calls(trail, 3) == [LATEST_MOST + 2, LATEST_MOST + 3, LATEST_MOST + 4]
    assert (trail.latest(0), trail.latest(-1)) == ((), ())
    assert len(trail.latest(10**9)) == LATEST_MOST


def test_disk_that_refuses_is_told_and_the_daemon_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "missing"
    trail = opened(folder)
    trail.keep(change(1))
    assert trail.unwritten == 1
    assert calls(trail) == [1]
    assert "could not be kept" in caplog.text
    folder.mkdir()
    trail.keep(change(2))
    trail.close()
    assert calls(opened(folder)) == [2]


def test_line_that_was_cut_short_is_passed_over() -> None:
    assert parse_line('{"user": "ro') == {}
    assert parse_line("[1]") == {}
