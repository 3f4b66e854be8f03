"""Changes that a killed daemon had begun: known at the next start, and only then."""

from __future__ import annotations

import json
import stat
from typing import TYPE_CHECKING

import pytest

from xcpmem.audit import CUT_SHORT, AuditTrail, Change
from xcpmem.intents import FILE_NAME, Intents

if TYPE_CHECKING:
    from pathlib import Path


def change(name: str) -> Change:
    return Change(
        time="2026-01-31T12:00:00Z", user="ann", role="vm-admin", source="192.0.2.1", call=f"VM.{name}"
    )


def outcomes(folder: Path) -> dict[str, str]:
    trail = AuditTrail(folder)
    trail.open()
    trail.close()
    return {line["call"]: line.get("outcome", "") for line in map(json.loads, trail.latest(100))}


def test_change_that_was_begun_and_not_ended_is_told_once_at_the_next_start(tmp_path: Path) -> None:
    killed = AuditTrail(tmp_path)
    killed.open()
    with killed.expecting(change("done")):
        killed.keep(change("done"))
    with killed.expecting(change("refused")):
        pass
    with killed.expecting(change("cut")):
        assert stat.S_IMODE((tmp_path / FILE_NAME).stat().st_mode) == 0o600
        assert outcomes(tmp_path) == {"VM.done": "", "VM.cut": CUT_SHORT}
        assert (tmp_path / FILE_NAME).read_bytes() == b""
    assert outcomes(tmp_path) == {"VM.done": "", "VM.cut": CUT_SHORT}
    killed.close()


def test_what_is_struck_out_is_dropped_when_nothing_is_open(tmp_path: Path) -> None:
    intents = Intents(tmp_path)
    first, second = intents.begin("one"), intents.begin("two")
    intents.end(first)
    intents.end(first)
    assert Intents(tmp_path).load() == ("two",)
    intents.end(second)
    assert (tmp_path / FILE_NAME).read_bytes() == b""
    intents.close()


def test_file_stays_small_while_one_change_takes_for_ever(tmp_path: Path) -> None:
    intents = Intents(tmp_path, file_bytes=500)
    intents.begin("for ever")
    for number in range(200):
        intents.end(intents.begin(f"short {number}"))
        assert (tmp_path / FILE_NAME).stat().st_size < 600
    assert Intents(tmp_path).load() == ("for ever",)
    assert [path.name for path in tmp_path.iterdir()] == [FILE_NAME]
    intents.close()


@pytest.mark.parametrize("rest", [b"", b"3", b"3 ", b"x y\n", b"\xff\xfe\n", b"\n"])
def test_line_that_a_full_disk_cut_short_hides_no_other(tmp_path: Path, rest: bytes) -> None:
    (tmp_path / FILE_NAME).write_bytes(b"1 one\n2 two\n1\n" + rest)
    assert Intents(tmp_path).load() == ("two",)


def test_disk_that_refuses_stops_no_change(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    trail = AuditTrail(tmp_path / "missing")
    trail.open()
    with trail.expecting(change("one")):
        trail.keep(change("one"))
    assert trail.unwritten == 2
    assert "could not be kept" in caplog.text
    trail.close()
