"""Every command as our client and as a re-created `xe` show it, beside what xe's description says."""

from __future__ import annotations

import asyncio
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from tests import thincli
from tests.cli_double import DB1, WEB1, XenDouble
from xcpmem import client
from xcpmem.api.cli_catalog import COMMANDS
from xcpmem.api.cli_help import suggest
from xcpmem.api.cli_http import make_cli_handler
from xcpmem.api.http import make_app
from xcpmem.api.server import Server
from xcpmem.errors import BadPowerState, XcpmemError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

DEADLINE_S = 20.0
OF_XE = (
    *("vm-memory-limits-set", "vm-memory-dynamic-range-set", "vm-memory-static-range-set", "vm-memory-set"),
    *(
        "vm-memory-target-set",
        "vm-memory-balloon",
        "vm-memory-target-wait",
        "vm-memory-shadow-multiplier-set",
    ),
    *("vm-compute-memory-overhead", "vm-compute-maximum-memory"),
    *("host-compute-free-memory", "host-compute-memory-overhead"),
    *("vm-list", "host-list", "pool-list", "task-list", "template-list"),
    *(
        f"{word}-param-{verb}"
        for word in ("vm", "host", "pool", "template")
        for verb in ("list", "get", "set", "add", "remove", "clear")
    ),
    *("task-param-list", "task-param-get"),
    *("vm-create", "vm-clone", "vm-copy", "vm-destroy"),
    *("vm-start", "vm-shutdown", "vm-reboot", "vm-pause", "vm-unpause"),
    *("vm-suspend", "vm-resume", "vm-migrate"),
)


class Case(NamedTuple):
    """One command and what becomes of it."""

    words: tuple[str, ...]
    out: str
    err: str
    code: int


class Odd(XcpmemError, code="ODD_THING"):
    """Nothing that anybody knows."""

    params = ("one", "two")


def read_cases() -> list[Case]:
    cases = []
    text = (Path(__file__).parent / "cli_golden.txt").read_text()
    for block in text.split("\n\n"):
        lines = [line for line in block.splitlines() if not line.startswith("#")]
        if not lines:
            continue
        parts = {mark: [line[2:] for line in lines if line[0] == mark] for mark in "$>!="}
        cases.append(
            Case(
                tuple(shlex.split(parts["$"][0])),
                "".join(f"{line}\n" for line in parts[">"]),
                "".join(f"{line}\n" for line in parts["!"]),
                int(parts["="][0]),
            )
        )
    return cases


CASES = read_cases()


def make_xen() -> XenDouble:
    xen = XenDouble()
    xen.answers = {
        "VM.clone": DB1,
        "VM.copy": DB1,
        "VM.create": DB1,
        "VM.get_uuid": "22222222-2222-2222-2222-222222222222",
        "VM.compute_memory_overhead": 26214400,
        "VM.maximise_memory": 8563720192,
        "host.compute_free_memory": 3221225472,
        "host.compute_memory_overhead": 75497472,
    }
    xen.failures = {
        f"VM.set_memory_static_range {WEB1}": BadPowerState(WEB1, "halted", "running"),
        "VM.unpause": Odd(),
    }
    return xen


@pytest.fixture
async def port() -> AsyncIterator[int]:
    xen = make_xen()
    app = make_app(xen, cli=make_cli_handler(xen))  # type: ignore[arg-type]  # only the command line calls
    server = Server(app, host="127.0.0.1")
    yield await server.start()
    await server.close()


def without_trailing_blanks(text: str) -> str:
    return "".join(f"{line.rstrip()}\n" for line in text.splitlines())


@pytest.mark.parametrize("case", CASES, ids=lambda case: " ".join(case.words)[:60])
async def test_command_prints_what_xe_prints(
    case: Case, port: int, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = await thincli.run(port, *case.words, username="root", password="secret")
    assert (without_trailing_blanks(ended.out), ended.err, ended.code) == (case.out, case.err, case.code)
    monkeypatch.setenv("HOME", "/nonexistent")
    options = ("-s", "127.0.0.1", "-p", str(port), "-u", "root", "-pw", "secret")
    async with asyncio.timeout(DEADLINE_S):
        code = await asyncio.to_thread(client.main, [*options, *case.words], {})
    out, err = capfd.readouterr()
    suggestion = "".join(f"{line}\n" for line in suggest(case.words[0]))
    assert (out, err.removesuffix(suggestion), code) == (ended.out, ended.err, ended.code)


def test_every_command_of_xes_description_is_shown() -> None:
    assert {*OF_XE} <= {*COMMANDS}
    assert {*OF_XE} - {case.words[0] for case in CASES} == set()
