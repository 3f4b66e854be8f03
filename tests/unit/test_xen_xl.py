"""How `xl` is called: tried with a script in its place."""

from __future__ import annotations

import asyncio
import fcntl
import os
import select
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from xcpmem.errors import SrFull, ToolstackError
from xcpmem.xen.toolstack import Blueprint, Holding, Size, Subject
from xcpmem.xen.xl import CONFIG_KEY, OUTPUT_BYTES_MOST, XlToolstack, outside_sandbox

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

UUID = "0c0ffee0-0000-4000-8000-000000000001"
TITLE = f"VM web ({UUID})"
SIZE = Size(memory_mib=512, static_max_mib=1024)
WEB = Subject(7, TITLE)
WAIT_S = 20.0


def script(folder: Path, body: str = "") -> XlToolstack:
    """A toolstack whose xl writes down its words and then does as the body says."""
    path = folder / "xl"
    words = folder / "words"
    path.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {words}\n{body}\n', encoding="utf-8")
    path.chmod(0o700)
    return XlToolstack(str(path), create_s=WAIT_S, act_s=WAIT_S)


def words(folder: Path) -> list[str]:
    return (folder / "words").read_text(encoding="utf-8").splitlines()


def blueprint(folder: Path, **changes: Any) -> Blueprint:
    config = folder / "web.cfg"
    config.write_text('name = "web"\n', encoding="utf-8")
    given: dict[str, Any] = {"uuid": UUID, "name_label": "web", "settings": {CONFIG_KEY: str(config)}}
    return Blueprint(**(given | changes))


async def test_domain_is_created_paused_with_its_memory_and_uuid(tmp_path: Path) -> None:
    await script(tmp_path).create(blueprint(tmp_path), SIZE)
    assert words(tmp_path) == [
        *("create", "-p", str(tmp_path / "web.cfg")),
        *("memory=512", "maxmem=1024", f'uuid="{UUID}"'),
    ]


@pytest.mark.parametrize(
    ("act", "expected"),
    [
        (lambda it: it.unpause(WEB), ["unpause", "7"]),
        (lambda it: it.pause(WEB), ["pause", "7"]),
        (lambda it: it.shutdown(WEB), ["shutdown", "-F", "7"]),
        (lambda it: it.reboot(WEB), ["reboot", "-F", "7"]),
        (lambda it: it.destroy(WEB), ["destroy", "7"]),
    ],
)
async def test_each_act_is_one_command(
    tmp_path: Path, act: Callable[[XlToolstack], Awaitable[None]], expected: list[str]
) -> None:
    await act(script(tmp_path, "echo said and done; echo nothing wrong >&2"))
    assert words(tmp_path) == expected


async def test_failure_names_the_vm_and_the_last_that_xl_said_and_logs_all_of_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    toolstack = script(tmp_path, "echo 'libxl: first' >&2; printf 'cannot\\033 map it\\n\\n' >&2; exit 3")
    with pytest.raises(ToolstackError) as failure:
        await toolstack.create(blueprint(tmp_path), SIZE)
    assert failure.value.params == (f"{TITLE}: xl create failed (status 3): cannot map it",)
    assert "(status 3); it said: libxl: first | cannot map it" in caplog.text


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("exit 1", "(status 1): it did not say why"),
        ("kill -11 $$", "(SIGSEGV): it did not say why"),
        ("kill -40 $$", "(signal 40): it did not say why"),
        ("yes x | head -c 3000000 >&2; printf '\\n\\377bad\\n' >&2; exit 1", "(status 1): \ufffdbad"),
        (f"head -c {OUTPUT_BYTES_MOST} /dev/zero | tr '\\0' y >&2; exit 1", "(status 1): " + "y" * 500),
    ],
)
async def test_whatever_xl_says_is_taken_in_moderation(tmp_path: Path, body: str, said: str) -> None:
    with pytest.raises(ToolstackError) as failure:
        await script(tmp_path, body).pause(WEB)
    assert str(failure.value) == f"{TITLE}: xl pause failed {said}"


async def test_command_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ToolstackError) as failure:
        await XlToolstack(str(tmp_path / "no-xl")).destroy(WEB)
    assert str(failure.value) == f"{TITLE}: there is no command {tmp_path / 'no-xl'} on this host"


@pytest.mark.parametrize(
    ("path", "why"),
    [
        (None, f"other_config:{CONFIG_KEY} must name the file to build it from"),
        ("web.cfg", f"other_config:{CONFIG_KEY}: web.cfg is no absolute path"),
        ("-c", f"other_config:{CONFIG_KEY}: -c is no absolute path"),
        ("/a=b", f"other_config:{CONFIG_KEY}: /a=b must not have '=' in it"),
        ("/nowhere/web.cfg", f"other_config:{CONFIG_KEY}: no file /nowhere/web.cfg"),
        ("/", f"other_config:{CONFIG_KEY}: no file /"),
    ],
)
async def test_vm_that_does_not_say_what_to_build_it_from_is_refused_before_xl_is_asked(
    tmp_path: Path, path: str | None, why: str
) -> None:
    toolstack = script(tmp_path)
    vm = blueprint(tmp_path, settings={} if path is None else {CONFIG_KEY: path})
    with pytest.raises(ToolstackError) as failure:
        toolstack.check(vm)
    assert str(failure.value) == f"{TITLE}: {why}"
    with pytest.raises(ToolstackError):
        await toolstack.create(vm, SIZE)
    assert not (tmp_path / "words").exists()


class Pipe:
    """A named pipe into which the script tells its process id, and which it holds open while it lives."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "pipe"
        os.mkfifo(self.path)
        self._reader = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK)
        self.hold = f"exec 9> {self.path}; echo $$ >&9"

    def read(self) -> bytes:
        """Wait for what is written; nothing when nobody holds it any more."""
        readable, _, _ = select.select([self._reader], [], [], WAIT_S)
        assert readable
        return os.read(self._reader, 100)

    def close(self) -> None:
        os.close(self._reader)


async def test_xl_that_does_not_end_is_killed(tmp_path: Path) -> None:
    pipe = Pipe(tmp_path)
    toolstack = script(tmp_path, f"{pipe.hold}; exec sleep 60")
    patient = asyncio.create_task(toolstack.create(blueprint(tmp_path), SIZE))
    assert await asyncio.to_thread(pipe.read)
    patient.cancel()
    with pytest.raises(asyncio.CancelledError):
        await patient
    assert pipe.read() == b""
    hasty = XlToolstack(str(tmp_path / "xl"), act_s=0.05)
    with pytest.raises(ToolstackError) as failure:
        await hasty.destroy(WEB)
    assert str(failure.value) == f"{TITLE}: xl destroy did not end within 0.05 s"
    pipe.close()


async def test_one_that_stays_behind_for_the_domain_is_neither_waited_for_nor_killed(tmp_path: Path) -> None:
    pipe = Pipe(tmp_path)
    toolstack = script(tmp_path, f"(exec sleep 60) & exec 9> {pipe.path}; echo $! >&9")
    await toolstack.create(blueprint(tmp_path), SIZE)
    stayed = int(pipe.read())
    os.kill(stayed, signal.SIGKILL)
    pipe.close()


PROGRAM = """\
import asyncio, sys
from xcpmem.xen.toolstack import Subject
from xcpmem.xen.xl import XlToolstack
asyncio.run(XlToolstack(sys.argv[1]).destroy(Subject(7, "VM")))
"""


def test_xl_dies_with_the_daemon(tmp_path: Path) -> None:
    pipe = Pipe(tmp_path)
    script(tmp_path, f"{pipe.hold}; exec sleep 60")
    daemon = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(tmp_path / "xl")], cwd=Path(__file__).parents[2]
    )
    assert pipe.read()
    daemon.kill()
    daemon.wait(WAIT_S)
    assert pipe.read() == b""
    pipe.close()


OUTSIDE_PROGRAM = """\
import asyncio, os, sys
from xcpmem.xen.toolstack import Subject
from xcpmem.xen.xl import XlToolstack, outside_sandbox
asyncio.run(XlToolstack(sys.argv[1], outside=outside_sandbox(os.environ)).destroy(Subject(7, "VM")))
"""


def service_manager(folder: Path) -> dict[str, str]:
    """An environment with a systemd-run that runs its words as no child of whoever calls it."""
    path = folder / "bin" / "systemd-run"
    path.parent.mkdir()
    path.write_text(
        f'#!/bin/sh\nwhile [ "${{1#--}}" != "$1" ]; do echo "$1" >> {folder}/options; shift; done\n"$@"\n',
        encoding="utf-8",
    )
    path.chmod(0o700)
    return {**os.environ, "PATH": f"{path.parent}:{os.environ['PATH']}", "INVOCATION_ID": "1"}


async def test_under_systemd_xl_runs_in_a_unit_of_its_own(tmp_path: Path) -> None:
    environ = service_manager(tmp_path)
    script(tmp_path)
    toolstack = XlToolstack(str(tmp_path / "xl"), outside=outside_sandbox(environ), act_s=WAIT_S)
    await toolstack.destroy(WEB)
    assert words(tmp_path) == ["destroy", "7"]
    options = (tmp_path / "options").read_text(encoding="utf-8").splitlines()
    assert {"--pipe", "--wait", "--collect", "--property=KillMode=process"} <= set(options)


async def test_failure_in_a_unit_of_its_own_is_told_as_any_other(tmp_path: Path) -> None:
    environ = service_manager(tmp_path)
    script(tmp_path, "echo 'no such domain' >&2; exit 3")
    toolstack = XlToolstack(str(tmp_path / "xl"), outside=outside_sandbox(environ), act_s=WAIT_S)
    with pytest.raises(ToolstackError) as failure:
        await toolstack.destroy(WEB)
    assert str(failure.value) == f"{TITLE}: xl destroy failed (status 3): no such domain"


def test_xl_in_a_unit_of_its_own_dies_with_the_daemon(tmp_path: Path) -> None:
    pipe = Pipe(tmp_path)
    environ = service_manager(tmp_path)
    script(tmp_path, f"{pipe.hold}; exec sleep 60")
    daemon = subprocess.Popen(
        [sys.executable, "-c", OUTSIDE_PROGRAM, str(tmp_path / "xl")],
        cwd=Path(__file__).parents[2],
        env=environ,
    )
    assert pipe.read()
    daemon.kill()
    daemon.wait(WAIT_S)
    assert pipe.read() == b""
    pipe.close()


def test_without_systemd_xl_is_run_as_it_is(tmp_path: Path) -> None:
    environ = service_manager(tmp_path)
    assert outside_sandbox(environ)
    assert outside_sandbox({key: value for key, value in environ.items() if key != "INVOCATION_ID"}) == ()
    assert outside_sandbox({"INVOCATION_ID": "1", "PATH": str(tmp_path)}) == ()


HOLDING = Holding(actual_kib=524288, target_kib=524288)


def image(folder: Path) -> Path:
    path = folder / "image"
    path.touch()
    return path


def is_locked(path: Path) -> bool:
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


async def test_domain_is_written_and_left_paused_and_its_file_locked_meanwhile(tmp_path: Path) -> None:
    path = image(tmp_path)
    toolstack = script(tmp_path, f"flock -s -n {path} -c true; echo $? > {tmp_path / 'locked'}")
    await toolstack.save(WEB, str(path), HOLDING)
    assert words(tmp_path) == ["save", "-p", "7", str(path)]
    assert (tmp_path / "locked").read_text(encoding="utf-8") == "1\n"
    assert not is_locked(path)


async def test_domain_is_built_again_from_its_file(tmp_path: Path) -> None:
    await script(tmp_path).restore(blueprint(tmp_path, settings={}), SIZE, "/images/web")
    assert words(tmp_path) == ["restore", "-p", "/images/web"]


async def test_domain_that_cannot_be_written_says_why(tmp_path: Path) -> None:
    with pytest.raises(ToolstackError) as failure:
        await script(tmp_path, "echo 'no such device' >&2; exit 5").save(WEB, str(image(tmp_path)), HOLDING)
    assert str(failure.value) == f"{TITLE}: xl save failed (status 5): no such device"


async def test_domain_for_which_the_disk_has_no_room_is_not_begun(tmp_path: Path) -> None:
    huge_kib = 2**45
    with pytest.raises(SrFull) as failure:
        await script(tmp_path).save(WEB, str(image(tmp_path)), Holding(huge_kib, huge_kib))
    requested, maximum = (int(text) for text in failure.value.params)
    assert requested == (huge_kib + 100 * 1024) * 1024
    assert maximum < requested
    assert not (tmp_path / "words").exists()


async def test_file_system_that_counts_no_room_is_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(total=0, free=0))
    await script(tmp_path).save(WEB, str(image(tmp_path)), HOLDING)
    assert words(tmp_path)[0] == "save"


async def test_domain_that_xl_could_not_build_again_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ToolstackError, match="it holds 4 GiB and was told to hold 3 GiB"):
        await script(tmp_path).save(WEB, str(image(tmp_path)), Holding(4 * 2**20, 3 * 2**20))
    assert not (tmp_path / "words").exists()


async def test_xl_that_writes_is_left_to_its_end_when_we_go_away(tmp_path: Path) -> None:
    pipe, path = Pipe(tmp_path), image(tmp_path)
    ended = tmp_path / "ended"
    body = f"{pipe.hold}; head -n 1 {tmp_path / 'go'} > /dev/null; touch {ended}"
    os.mkfifo(tmp_path / "go")
    saving = asyncio.create_task(script(tmp_path, body).save(WEB, str(path), HOLDING))
    process = int(await asyncio.to_thread(pipe.read))
    saving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await saving
    assert is_locked(path)
    await asyncio.to_thread((tmp_path / "go").write_text, "on\n")
    assert await asyncio.to_thread(pipe.read) == b""
    assert await asyncio.to_thread(os.waitpid, process, 0) == (process, 0)
    assert ended.exists()
    assert not is_locked(path)
    pipe.close()
