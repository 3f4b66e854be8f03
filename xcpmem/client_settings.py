"""How the client is told where to connect, as whom, and what to send.

Options count before ``XE_EXTRA_ARGS``, that before the other variables (``XE_SERVER``, ``XE_PORT``,
``XE_USERNAME``, ``XE_PASSWORD``, ``XE_PASSWORDFILE``, ``XE_NOSSL``, ``XE_DEBUG``), those before ``~/.xe``.
Every option also has a ``key=value`` form. What none of them takes is the command's own. All as in `xe`
(xapi's ``ocaml/xe-cli/newcli.ml``), but ``--debug-on-fail`` is taken for ``--debug``.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from xcpmem.errors import CommandError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

DEFAULT_SERVER: Final = "127.0.0.1"
_LARGEST_PORT: Final = 65535
_OPTIONS: Final = {
    "-s": "server",
    "-h": "server",
    "-p": "port",
    "-u": "username",
    "-pw": "password",
    "-pwf": "passwordfile",
    "--traceparent": "traceparent",
}
_SWITCHES: Final = {"--nossl": "nossl", "--debug": "debug", "--debug-on-fail": "debugonfail"}
_KEYS: Final = (*dict.fromkeys(_OPTIONS.values()), *_SWITCHES.values())


class UsageAsked(Exception):
    """The command line asks for its usage, or cannot be understood: exit code 0, as with `xe`."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How to reach the server, and the words to send.

    Args:
        words: the command first.
        server: host name, address or the path of a Unix socket.
        port: TCP port, or None for the default.
        is_server_given: whether someone said where to connect to.
        username: for the session.
        password: for the session.
        nossl: whether TLS is never used.
        debug: whether to show what comes in.
        traceparent: a header for tracing, passed on as it is.
    """

    words: tuple[str, ...]
    server: str = DEFAULT_SERVER
    port: int | None = None
    is_server_given: bool = False
    username: str = "root"
    password: str = field(default="null", repr=False)
    nossl: bool = False
    debug: bool = False
    traceparent: str = ""

    @property
    def is_minimal(self) -> bool:
        """Whether the command's output is for a script."""
        return "--minimal" in self.words


def read_settings(arguments: Sequence[str], environment: Mapping[str, str]) -> Settings:
    """Find the settings: options before ``XE_EXTRA_ARGS`` before other ``XE_*`` before ``~/.xe``.

    Args:
        arguments: the command line without the program's name.
        environment: the process's; ``HOME`` leads to ``~/.xe``, lines of ``key=value``.

    Returns:
        The settings; what no setting took is the words, in the order given, the command moved to the
        front of any switches before it.

    Raises:
        UsageAsked: ``--help``, no words, or a port that is none.
        CommandError: the password file cannot be read.
    """
    found: dict[str, str] = {}
    rc_words = _take_words((f"{key}={value}" for key, value in _read_rc(environment.get("HOME", ""))), found)
    found.update(
        {key: environment[f"XE_{key.upper()}"] for key in _KEYS if f"XE_{key.upper()}" in environment}
    )
    extra_words = _take_words(_split_extra(environment.get("XE_EXTRA_ARGS", "")), found)
    if "TRACEPARENT" in environment:
        found["traceparent"] = environment["TRACEPARENT"]
    words = _take_words((word for word in arguments if word not in {"-help", "--help"}), found)
    if {"-help", "--help"} & set(arguments):
        raise UsageAsked
    words = _command_first([*words, *extra_words, *rc_words])
    if not words:
        raise UsageAsked
    if found.get("passwordfile"):
        found["username"], found["password"] = _read_password_file(found["passwordfile"])
    return Settings(
        tuple(words),
        server=found.get("server", DEFAULT_SERVER),
        port=_read_port(found["port"]) if "port" in found else None,
        is_server_given="server" in found or "port" in found,
        username=found.get("username", "root"),
        password=found.get("password", "null"),
        nossl=found.get("nossl") == "true",
        debug="true" in {found.get("debug"), found.get("debugonfail")},
        traceparent=found.get("traceparent", ""),
    )


def _take_words(words: Iterator[str], found: dict[str, str]) -> list[str]:
    """Move what sets a key that is ours into ``found`` and give the rest."""
    rest = []
    for word in words:
        if word in _SWITCHES:
            found[_SWITCHES[word]] = "true"
        elif word in _OPTIONS:
            value = next(words, None)
            if value is None:
                rest.append(word)
            else:
                found[_OPTIONS[word]] = value
        else:
            key, equals, value = word.partition("=")
            if equals and key in _KEYS:
                found[key] = value
            else:
                rest.append(word)
    return rest


def _command_first(words: list[str]) -> list[str]:
    """Move the command before the switches that stand in front of it; a server takes the first word."""
    at = next((at for at, word in enumerate(words) if not word.startswith("-")), 0)
    return [*words[at : at + 1], *words[:at], *words[at + 1 :]]


def _split_extra(text: str) -> Iterator[str]:
    r"""Split ``XE_EXTRA_ARGS`` at its commas; ``\,`` is a comma within a word."""
    word = ""
    letters = iter(text)
    for letter in letters:
        if letter == "\\":
            word += next(letters, "")
        elif letter == ",":
            yield from filter(None, [word])
            word = ""
        else:
            word += letter
    yield from filter(None, [word])


def _read_rc(home: str) -> list[tuple[str, str]]:
    """Read ``~/.xe``; without it, or if a line is no setting, there are no defaults."""
    try:
        with open(os.path.join(home, ".xe"), encoding="utf-8") as file:  # noqa: PTH123, PTH118 - pathlib loads slowly
            lines = [line.rstrip("\n") for line in file]
    except (OSError, UnicodeDecodeError):
        return []
    pairs = [line.partition("=") for line in lines if line]
    if not all(equals for _, equals, _ in pairs):
        sys.stderr.write("Error parsing rc file. No defaults loaded\n")
        return []
    return [(key, value) for key, _, value in pairs]


def _read_port(text: str) -> int:
    if not text.isdecimal() or int(text) > _LARGEST_PORT:
        sys.stderr.write(f"Port number must be an integer (0-{_LARGEST_PORT})\n")
        raise UsageAsked
    return int(text)


def _read_password_file(path: str) -> tuple[str, str]:
    try:
        with open(path, encoding="utf-8") as file:  # noqa: PTH123 - pathlib loads slowly
            username, password = (file.readline() for _ in range(2))
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(f"Error opening password file '{path}'") from error
    if not password:
        raise CommandError(
            "Error: password file format: expecting username on the first line, password on the second line",
        )
    return username.rstrip("\n"), password.rstrip("\n")
