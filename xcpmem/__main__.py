"""`xcpmem`: local tools by name, help without a daemon, and for everything else the client.

What a command line needs is imported when it is asked for, so that the client stays quick.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

_TOOLS: Final = {
    "replay": "replay:replay_main",
    "simhost": "simhost_tool:simhost_main",
    "simulate": "simulate:simulate_main",
    "top": "top:top_main",
}
"""The local tools: where each is, imported when it is asked for."""

_OPTIONS: Final = frozenset({"-s", "-h", "-p", "-u", "-pw", "-pwf"})
"""They may stand in front of any command, and a value follows each."""

_HELP: Final = frozenset({"help", "--help", "-help"})


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line.

    Args:
        arguments: without the program's name; None takes the process's.

    Returns:
        The exit code.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    at = _command_at(words)
    if words[at : at + 1] and words[at] in _TOOLS:
        module, _, function = _TOOLS[words[at]].partition(":")
        return int(getattr(import_module(f"xcpmem.{module}"), function)([*words[:at], *words[at + 1 :]]))
    match words:
        case ["--version" | "-version"]:
            from xcpmem import __version__  # noqa: PLC0415 - only this answer needs it
            from xcpmem.api.cli_frames import MAJOR, MINOR  # noqa: PLC0415 - only this answer needs it

            sys.stdout.write(f"xcpmem {__version__}\nThinCLI protocol: {MAJOR}.{MINOR}\n")
            return 0
        case [help_word, *names] if help_word in _HELP and not any(name.startswith("-") for name in names):
            return _teach(names)
        case [command, *rest] if not command.startswith("-") and {"--help", "-help"} & set(rest):
            return _teach([command])
    from xcpmem.client import main as run_client  # noqa: PLC0415 - local tools do without

    return run_client(words)


def _teach(names: Sequence[str]) -> int:
    """Explain commands, or give an overview; whoever asks for one that there is not has failed."""
    from xcpmem.api.cli_help import teach, unknown  # noqa: PLC0415 - only this answer needs it

    known = [name for name in names if not unknown(name)]
    if known or not names:
        sys.stdout.write(f"{teach(known)}\n")
    for line in (line for name in names for line in unknown(name)):
        sys.stderr.write(f"{line}\n")
    return int(known != [*names])


def _command_at(words: Sequence[str]) -> int:
    """Find where the command stands behind options, as `xe` has it."""
    at = 0
    while at < len(words) and words[at] in _OPTIONS:
        at += 2
    return at


if __name__ == "__main__":
    sys.exit(main())
