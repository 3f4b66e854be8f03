"""A recorded stretch under another policy: what is compared, how it is told, and what is refused."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.builders import MIB, a_domain, a_host, a_request, uuid_of, wanting
from xcpmem.__main__ import main
from xcpmem.engine.parameters import Parameters
from xcpmem.engine.policies import find_policy
from xcpmem.engine.policy import ChosenPolicy, Division, Snapshot, State
from xcpmem.errors import ConfigError
from xcpmem.rethinking import GAP_MOST_S, read_moments, rethink
from xcpmem.snapshot import to_plain

if TYPE_CHECKING:
    from pathlib import Path

GIB = 1024 * MIB
NAMES = {uuid_of(1): "web", uuid_of(2): "db"}


class Least:
    """A policy for which everybody's least is enough."""

    name = "least"
    about = "everybody's least"
    parameters = Parameters

    def plan(self, snapshot: Snapshot, state: State, parameters: Parameters) -> tuple[Division, State]:
        return Division([claim.low_kib for claim in snapshot.claims]), state


def entry(time_s: float, *, wanted_kib: int = 0, monotonic_s: float | None = None) -> dict[str, Any]:
    """A look at a narrow and a wide guest that hold 3 GiB each, while somebody wants memory."""
    narrow = a_domain(2 * GIB, 3 * GIB, domid=1)
    wide = a_domain(GIB, 3 * GIB, domid=2)
    wishes = (
        wanting(a_request(wanted_kib, name=f"r{time_s:.0f}", deadline_s=1e9)) if wanted_kib else wanting()
    )
    return {
        "time_s": time_s,
        "monotonic_s": time_s if monotonic_s is None else monotonic_s,
        "turn": 1,
        "policy": "proportional",
        "parameters": {},
        "host": to_plain(a_host(narrow, wide)),
        "wishes": to_plain(wishes),
        "names": NAMES,
    }


def lines(*entries: dict[str, Any]) -> list[str]:
    return [json.dumps(each) for each in entries]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "monday.jsonl"
    path.write_text("\n".join(lines(entry(1000.0), entry(1010.0, wanted_kib=GIB), entry(1040.0))) + "\n")
    return path


def test_same_policy_differs_in_nothing() -> None:
    moments = read_moments(lines(entry(0.0), entry(10.0, wanted_kib=GIB)), "x")
    compared = rethink(moments, find_policy("proportional"))
    assert compared.recorded.shares == compared.other.shares
    assert compared.verdicts() == []


def test_other_policy_is_compared_by_the_mean_over_time_and_by_what_it_would_have_moved() -> None:
    moments = read_moments(lines(entry(0.0), entry(10.0, wanted_kib=GIB), entry(40.0, wanted_kib=GIB)), "x")
    compared = rethink(moments, ChosenPolicy(Least(), Parameters()))
    web = compared.recorded.shares[uuid_of(1)]
    # 10 s of all it may have, then 30 s of its third of the way
    third = pytest.approx(2 * GIB + 2 * GIB / 3, abs=8)
    assert web.last_kib == third
    assert web.mean_kib == pytest.approx((10 * 3 * GIB + 30 * (2 * GIB + 2 * GIB / 3)) / 40, abs=8)
    assert web.moved_kib == pytest.approx(GIB / 3, abs=8)
    assert compared.other.shares[uuid_of(1)].mean_kib == 2 * GIB
    assert compared.verdicts() == []
    assert compared.names == NAMES


def test_gap_in_the_record_counts_only_so_far() -> None:
    moments = read_moments(lines(entry(0.0, wanted_kib=GIB), entry(1e6)), "x")
    compared = rethink(moments, find_policy("shares"))
    assert compared.recorded.shares[uuid_of(1)].seconds == GAP_MOST_S


def test_another_daemon_begins_without_beliefs() -> None:
    moments = read_moments(lines(entry(0.0, monotonic_s=500.0), entry(10.0, monotonic_s=5.0)), "x")
    assert rethink(moments, find_policy("proportional")).moments == 2


def test_table_names_vms_sizes_and_differences(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", str(file), "policy=shares"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith("3 looks from ")
    assert out[0].endswith("thought through again under shares")
    assert out[1] == "recorded: by the policy of then (proportional)"
    assert out[2] == "wanted: what was to be held, on the average of time; moved: the sum of its changes"
    heads = [head for head in out[4].split("  ") if head]
    assert [head.strip() for head in heads] == [
        *("VM", "wanted (recorded)", "wanted (shares)", "difference", "moved (recorded)", "moved (shares)")
    ]
    assert {row.split()[0] for row in out[5:7]} == {"web", "db"}
    assert "GiB" in out[5]


def test_table_under_a_policy_that_ruled_itself_tells_what_was_recorded_from_what_is_thought(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mixed.jsonl"
    changed = entry(20.0) | {"policy": "shares"}
    file.write_text("\n".join(lines(entry(0.0), changed)), encoding="utf-8")
    assert main(["replay", str(file), "policy=shares"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert "(proportional, shares)" in out[1]
    assert "wanted (recorded)  wanted (shares)" in out[4]


def test_json_has_the_same_in_numbers(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", "--json", str(file), "policy=pressure"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["recorded_policy"], answer["policy"], answer["looks"]) == ("proportional", "pressure", 3)
    assert {vm["name_label"] for vm in answer["vms"]} == {"web", "db"}
    assert all(isinstance(vm["mean_kib"], int) for vm in answer["vms"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["FILE"], "command line: policy: say which: policy= one of proportional, shares, pressure"),
        (["FILE", "policy=luck"], "command line: policy: there is no 'luck', but proportional, "),
        (["FILE", "policy=shares", "luck=7"], "command line: luck: cannot be '7'"),
        (["FILE", "FILE", "policy=shares"], "there is a file already"),
        (["FILE", "policy=shares", "since=2h"], "command line: since=2h: is not for a file"),
        (["--jsn", "FILE", "policy=shares"], "command line: --jsn: unknown option"),
        (["/nowhere/x", "policy=shares"], "/nowhere/x: cannot be read: No such file"),
    ],
)
def test_words_that_cannot_be_are_named_with_the_reason(
    file: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    assert main(["replay", *(str(file) if word == "FILE" else word for word in words)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert said in captured.err


@pytest.mark.parametrize(
    ("line", "where", "key"),
    [
        ("{", "x:2", ""),
        ("[]", "x:2", "entry"),
        (json.dumps(entry(0.0) | {"time_s": "noon"}), "x:2", "time_s"),
        (json.dumps(entry(0.0) | {"policy": "luck"}), "x:2", "policy"),
        (json.dumps(entry(0.0) | {"host": {}}), "x:2", "host.total_kib"),
        (json.dumps(entry(0.0) | {"names": {"u": 1}}), "x:2", "names"),
        (json.dumps(entry(0.0) | {"wishes": {"requests": [{}]}}), "x:2", "wishes.requests[0].request_id"),
    ],
)
def test_bad_line_of_a_file_is_named_with_the_field(line: str, where: str, key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_moments(["", line], "x")
    assert (caught.value.where, caught.value.key) == (where, key)


def test_empty_stretch_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").write_text("\n")
    assert main(["replay", str(tmp_path / "empty"), "policy=shares"]) == 1
    assert capsys.readouterr().err == "xcpmem replay: nothing was recorded then\n"


def test_usage_is_shown_when_nothing_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay"]) == 0
    assert capsys.readouterr().err.startswith("Usage: xcpmem replay FILE policy=NAME")


def test_options_may_stand_in_front_as_with_every_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["-s", str(tmp_path / "none"), "-u", "root", "replay", "since=1h", "policy=shares"]) == 1
    assert "Unknown command" not in capsys.readouterr().err


def test_daemon_that_cannot_be_asked_is_told_as_every_command_does(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XCPMEM_SOCKET", str(tmp_path / "none.sock"))
    assert main(["replay", "since=1h", "policy=shares"]) == 1
    assert "connecting to" in capsys.readouterr().err
