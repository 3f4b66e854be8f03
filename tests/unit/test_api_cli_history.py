"""``history`` and ``journal-export`` on the command line."""

from __future__ import annotations

import json
import time
from datetime import datetime

import pytest

from tests.cli_double import XenDouble, say
from xcpmem.api.cli_history import read_time
from xcpmem.errors import CommandError

WEB = "11111111-1111-1111-1111-111111111111"
GONE = "99999999-9999-9999-9999-999999999999"
NOON = datetime(2026, 11, 24, 12, 0).astimezone().timestamp()
ENTRY = {
    "id": 1,
    "time_s": NOON,
    "turn": 9,
    "policy": "proportional",
    "asked": ["root asked for more"],
    "decisions": [{"level": 20, "kind": "goal", "vm": WEB, "text": "web1 is to hold 2 GiB"}],
}


class RememberingXen(XenDouble):
    """Answers for the journal: the pages that it was given, then nothing."""

    def __init__(self, *pages: list[dict[str, object]], lost: int = 0) -> None:
        super().__init__()
        self.pages = list(pages)
        self.lost = lost
        self.asked: list[object] = []

    async def call(self, method, params, *, peer):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN201 as its parent
        if method in {"Memory.get_history", "Memory.get_journal"}:
            self.asked.append(dict(params[1]))
            return json.dumps({"entries": self.pages.pop(0) if self.pages else [], "lost": self.lost})
        return await super().call(method, params, peer=peer)


async def test_history_prints_who_asked_and_what_was_decided_with_local_time() -> None:
    line = await say(RememberingXen([ENTRY]), "history")
    assert line.stdout.splitlines() == [
        "2026-11-24 12:00:00  root asked for more",
        "2026-11-24 12:00:00  web1 is to hold 2 GiB",
    ]


async def test_history_passes_its_filters_on() -> None:
    xen = RememberingXen()
    await say(xen, "history", "vm=web1", "since=2026-11-24T12:00", "limit=5")
    await say(xen, "history", f"vm={GONE}")
    assert xen.asked == [{"since": f"{NOON:.3f}", "vm": WEB, "limit": "5"}, {"vm": GONE}]


async def test_empty_history_says_so_and_what_was_lost() -> None:
    line = await say(RememberingXen(lost=3), "history")
    assert line.stdout == ""
    assert line.stderr == "Nothing was decided then.\n3 entries were lost: see the daemon's log.\n"


async def test_export_goes_on_until_there_is_no_more() -> None:
    xen = RememberingXen([{"id": 1}, {"id": 2}], [{"id": 3}])
    line = await say(xen, "journal-export", "since=2026-11-24T12:00")
    assert [json.loads(row)["id"] for row in line.stdout.splitlines()] == [1, 2, 3]
    since = {"since": f"{NOON:.3f}"}
    assert xen.asked == [since, since | {"after": "2"}, since | {"after": "3"}]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["history", "vm=nobody"], "No VM is called 'nobody': of one that is gone, give the uuid"),
        (["history", "form=now"], "Unknown parameter 'form': history takes vm, since, until, limit"),
        (["journal-export", "vm=web1"], "Unknown parameter 'vm': journal-export takes since, until"),
        (["history", "since=noon"], "Failed to parse parameter 'since': expecting a span back from now"),
    ],
)
async def test_words_that_cannot_be_understood_ask_nothing(words: list[str], expected: str) -> None:
    xen = RememberingXen([ENTRY])
    line = await say(xen, *words)
    assert expected in line.stderr
    assert (xen.asked, line.code) == ([], 1)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("90s", NOON - 90),
        ("15m", NOON - 900),
        ("15min", NOON - 900),
        ("2h", NOON - 7200),
        ("3d", NOON - 3 * 86400),
        ("9999999w", 0.0),
        ("2026-11-24T12:00:30", NOON + 30),
        ("1970-01-02T00:00+00:00", 86400.0),
        ("11:59", NOON - 60),
    ],
)
def test_times_are_read_as_people_write_them(text: str, expected: float) -> None:
    assert read_time("since", text, lambda: NOON) == expected


@pytest.mark.parametrize("text", ["", "5", "5y", "25:00", "2026-13-01", "tomorrow", "-5m"])
def test_what_is_no_time_is_refused_with_what_would_be_one(text: str) -> None:
    with pytest.raises(CommandError, match="2026-11-24T13:00"):
        read_time("since", text, time.time)
