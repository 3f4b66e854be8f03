"""The client against servers that say what a test wants them to say."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from xcpmem.__main__ import main as xcpmem
from xcpmem.api.cli_frames import (
    Chunk,
    Debug,
    End,
    Error,
    Exit,
    Failed,
    Greeting,
    HttpGet,
    Load,
    Message,
    Ok,
    Print,
    PrintStderr,
    Prompt,
    encode,
)
from xcpmem.client import main

if TYPE_CHECKING:
    from collections.abc import Iterator

GREETING = encode(Greeting())
DEADLINE_S = 10.0
ROOT = Path(__file__).parents[2]


class Server:
    """Takes one connection, answers it with given bytes and keeps what it heard.

    Args:
        path: of its socket.
        answer: what it says, at once.
    """

    def __init__(self, path: str, answer: bytes) -> None:
        self.path = path
        self.heard = b""
        self._answer = answer
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(path)
        self._listener.listen()
        self._listener.settimeout(DEADLINE_S)
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        connection, _ = self._listener.accept()
        with connection:
            connection.settimeout(DEADLINE_S)
            while b"\r\n\r\n" not in self.heard or not self.heard.endswith(b"password=null"):
                self.heard += connection.recv(65536)
            with suppress(ConnectionError):  # the client may leave in the middle
                connection.sendall(self._answer)
                connection.shutdown(socket.SHUT_WR)
                while data := connection.recv(65536):
                    self.heard += data

    def close(self) -> None:
        self._listener.close()
        self._thread.join(DEADLINE_S)
        assert not self._thread.is_alive()


@contextmanager
def serving(tmp_path: Path, answer: bytes) -> Iterator[Server]:
    server = Server(str(tmp_path / "s"), answer)
    try:
        yield server
    finally:
        server.close()


def answering(*messages: Message) -> bytes:
    return GREETING + b"".join(encode(message) for message in messages)


def run(tmp_path: Path, answer: bytes, *words: str) -> tuple[int, Server]:
    with serving(tmp_path, answer) as server:
        code = main([*words], {"XCPMEM_SOCKET": server.path})
    return code, server


def test_client_sends_the_request_of_xe(tmp_path: Path) -> None:
    code, server = run(tmp_path, answering(Exit(0)), "vm-list", "params=all", "-u", "ann")
    assert code == 0
    body = b"vm-list\nparams=all\nusername=ann\npassword=null"
    assert server.heard == (
        b"POST /cli HTTP/1.0\r\nUser-agent: xe-cli/Unix/0.2\r\noriginator: cli\r\n"
        b"content-length: %d\r\n\r\n%b%b" % (len(body), body, GREETING)
    )


def test_client_passes_a_traceparent_on(tmp_path: Path) -> None:
    _, server = run(tmp_path, answering(Exit(0)), "vm-list", "--traceparent", "00-ab")
    assert b"\r\ntraceparent: 00-ab\r\n" in server.heard


def test_client_does_what_the_server_says(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    answer = answering(
        Print("one"),
        PrintStderr("half "),
        PrintStderr("line\n"),
        Debug("hidden"),
        Error("CODE", ("a", "b")),
        Print("zwei \u20ac"),
        Exit(3),
    )
    code, _ = run(tmp_path, answer, "vm-list")
    assert code == 3
    out, err = capfd.readouterr()
    assert out == "one\nzwei \u20ac\n"
    assert err == "half line\nError code: CODE\nError parameters: a, b\n"


def test_client_shows_what_it_reads_when_asked_to(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run(tmp_path, answering(Debug("deep"), Exit(0)), "vm-list", "--debug")
    assert "debug from server: deep\n" in capfd.readouterr().err


@pytest.mark.parametrize("message", [Load(".ssh/id_rsa"), HttpGet("a", "b")])
def test_client_gives_no_file_away(message: Message, tmp_path: Path) -> None:
    code, server = run(tmp_path, answering(message, Exit(0)), "vm-list")
    assert code == 0
    assert server.heard.endswith(GREETING + encode(Failed()))


def test_client_answers_a_prompt_from_its_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read, write = os.pipe()
    os.write(write, b"yes\nmore\n")
    os.close(write)
    with os.fdopen(read) as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        _, server = run(tmp_path, answering(Prompt(), Exit(0)), "vm-list")
    assert server.heard.endswith(encode(Chunk(b"yes")) + encode(End()))


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (b"", "Lost connection to the server.\n"),
        (GREETING, "Lost connection to the server.\n"),
        (answering(Print("x"))[:-1], "Lost connection to the server.\n"),
        (b"HTTP/1.1 500 Internal Server Error\r\n\r\n", "Server internal error.\n"),
        (b"http/1.1 404\r\n\r\n", "Server internal error.\n"),
        (b"SSH-2.0-OpenSSH\r\n", "Failed to contact a running management agent.\n"),
        (encode(Greeting(1, 0)), "Protocol version mismatch: Server has protocol version 1.0."),
        (GREETING + b"\xff\xff\xff\xff", "a frame of -1 bytes"),
        (answering(Ok()), "Unexpected message from server: Ok()"),
    ],
    ids=["nothing", "greeting", "half", "http", "small http", "ssh", "version", "garbage", "unexpected"],
)
def test_broken_dialogue_ends_in_one_with_a_word(
    answer: bytes,
    text: str,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    code, _ = run(tmp_path, answer, "vm-list")
    assert code == 1
    assert text in capfd.readouterr().err


def test_server_that_never_greets_is_not_waited_for(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("xcpmem.client.DEADLINE_S", 0.05)
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        assert main(["vm-list"], {"XCPMEM_SOCKET": path}) == 1
    assert capfd.readouterr().err == "Lost connection to the server.\n"


def test_server_that_is_not_there_is_named(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = str(tmp_path / "none")
    assert main(["vm-list"], {"XCPMEM_SOCKET": path}) == 1
    told = (
        f"Error: No such file or directory (connecting to {path}): "
        "does xcpmemd run? The line that it prints when it is ready names its socket.\n"
    )
    assert capfd.readouterr().err == told
    assert main(["vm-list", "-s", path], {}) == 1
    assert capfd.readouterr().err == told


def test_refused_connection_is_named(capfd: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        assert main(["vm-list", "-s", "127.0.0.1", "-p", str(port)], {}) == 1
    assert capfd.readouterr().err == (
        f"Error: Connection refused (connecting to 127.0.0.1, port {port}): "
        "does xcpmemd run there, and listen on that port?\n"
    )


def test_who_names_no_server_learns_how_to_name_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    path = str(tmp_path / "none")
    monkeypatch.setattr("xcpmem.client.SYSTEM_SOCKET", path)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        monkeypatch.setattr("xcpmem.client.DEFAULT_PORT", port)
        assert main(["vm-list"], {}) == 1
    assert capfd.readouterr().err == (
        f"Error: Connection refused (connecting to {path} and 127.0.0.1, port {port}): "
        "does xcpmemd run? If its socket is elsewhere, name it in XCPMEM_SOCKET or with -s.\n"
    )


def test_user_who_is_refused_at_a_socket_is_named_with_it(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    answer = answering(
        PrintStderr("Authentication failed\n"), PrintStderr("For usage run: 'xe help'\n"), Exit(1)
    )
    code, server = run(tmp_path, answer, "vm-list", "-u", "ann")
    assert code == 1
    assert capfd.readouterr().err == (
        "Authentication failed\nFor usage run: 'xe help'\n"
        f"User ann was refused by {server.path}: log in with -u and -pw or -pwf.\n"
    )


def test_system_socket_is_tried_before_tcp(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    with serving(tmp_path, answering(Print("system"), Exit(0))) as server:
        monkeypatch.setattr("xcpmem.client.SYSTEM_SOCKET", server.path)
        assert main(["vm-list"], {}) == 0
    assert capfd.readouterr().out == "system\n"


def test_given_port_goes_past_the_system_socket(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("xcpmem.client.SYSTEM_SOCKET", str(tmp_path / "unused"))
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        assert main(["vm-list", "-p", str(port)], {"XCPMEM_SOCKET": str(tmp_path / "unused")}) == 1
    assert f"127.0.0.1, port {port}" in capfd.readouterr().err


def test_unknown_command_is_answered_with_the_nearest(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    answer = answering(
        PrintStderr("Unknown command: vm-lits\n"), PrintStderr("For usage run: 'xe help'\n"), Exit(1)
    )
    code, _ = run(tmp_path, answer, "vm-lits")
    assert code == 1
    assert capfd.readouterr().err == (
        "Unknown command: vm-lits\nFor usage run: 'xe help'\nDid you mean 'vm-list'?\n"
    )


def test_failing_command_that_the_server_knows_gets_no_suggestion(
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    run(tmp_path, answering(PrintStderr("Error: no\n"), Exit(1)), "vm-lits")
    assert capfd.readouterr().err == "Error: no\n"


def test_server_may_be_the_path_of_a_socket_as_one_would_type_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with serving(tmp_path, answering(Exit(0))) as server:
        assert main(["-s", "./s", "vm-list"], {}) == 0
    assert b"vm-list" in server.heard


@pytest.mark.parametrize("name", ["a..b", "x" * 64])
def test_server_that_cannot_be_a_name_is_not_found(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["-s", name, "vm-list"], {}) == 1
    assert capfd.readouterr().err == f"Host '{name}' not found.\n"


@pytest.mark.parametrize("arguments", [[], ["vm-list", "--help"], ["vm-list", "-p", "x"]])
def test_usage_goes_to_standard_error_and_is_no_failure(
    arguments: list[str],
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert main(arguments, {}) == 0
    out, err = capfd.readouterr()
    assert out == ""
    assert "Usage: xcpmem <cmd> [-s server]" in err


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["help"], ["help", "vm-list"], ["vm-list", "--help"], ["vm-list", "params=all", "-help"]],
)
def test_help_needs_no_daemon(arguments: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    assert xcpmem(arguments) == 0
    assert "xcpmem vm-list power-state=running" in capfd.readouterr().out


@pytest.mark.parametrize("arguments", [["help", "vm-lits"], ["vm-lits", "--help"]])
def test_help_about_a_command_that_there_is_not_fails(
    arguments: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    assert xcpmem(arguments) == 1
    assert capfd.readouterr() == ("", "Unknown command 'vm-lits'\nDid you mean 'vm-list'?\n")


def test_help_explains_the_commands_that_there_are_among_others(capfd: pytest.CaptureFixture[str]) -> None:
    assert xcpmem(["help", "zzz", "vm-list"]) == 1
    out, err = capfd.readouterr()
    assert out.startswith("vm-list: ")
    assert err == "Unknown command 'zzz'\n"


def test_version_is_told(capfd: pytest.CaptureFixture[str]) -> None:
    assert xcpmem(["--version"]) == 0
    assert capfd.readouterr().out.splitlines()[1] == "ThinCLI protocol: 0.2"


def test_client_imports_no_library_and_ends_quietly_when_nobody_reads(tmp_path: Path) -> None:
    program = (
        "import sys\nfrom xcpmem.__main__ import main\ncode = main(sys.argv[1:])\n"
        "heavy = {'asyncio', 'ssl', 'argparse', 'json', 'aiohttp', 'lxml', 'pyxs', 'prometheus_client'}\n"
        "sys.stderr.write(' '.join(heavy & set(sys.modules)))\nsys.exit(code)\n"
    )
    answer = answering(*[Print("x" * 1000)] * 1000, Exit(0))
    read, write = os.pipe()
    os.close(read)
    with serving(tmp_path, answer) as server:
        done = subprocess.run(
            [sys.executable, "-c", program, "vm-list"],
            env={"XCPMEM_SOCKET": server.path},
            stdout=write,
            stderr=subprocess.PIPE,
            timeout=60,
            check=False,
        )
    os.close(write)
    assert (done.returncode, done.stderr) == (1, b"")


def test_command_imports_nothing_but_its_words_and_a_little_of_the_standard_library() -> None:
    code = (
        "import sys\n"
        "from xcpmem.__main__ import main\n"
        "main(['vm-list', '--minimal', '-s', '/nowhere/x.sock'])\n"
        "print(*sys.modules)"
    )
    run = subprocess.run(
        [sys.executable, "-S", "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    found = set(run.stdout.split())
    slow = {"argparse", "asyncio", "email", "http", "json", "logging", "ssl", "sqlite3", "urllib", "xmlrpc"}
    assert found & slow == set()
    assert {name.partition(".")[0] for name in found} <= {*sys.stdlib_module_names, "__main__", "xcpmem"}
    assert {name for name in found if name.startswith("xcpmem.")} <= {
        *("xcpmem.__main__", "xcpmem.client", "xcpmem.client_settings", "xcpmem.errors", "xcpmem.units"),
        *("xcpmem.api", "xcpmem.api.cli_catalog", "xcpmem.api.cli_frames", "xcpmem.api.cli_help"),
    }
