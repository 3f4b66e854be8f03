"""``xcpmem replay``: what another policy would have wanted, over a recorded stretch.

The stretch is a file of ``xcpmem journal-export``, or what the daemon has kept between two times; it is
thought through here, and the daemon notices nothing but the question.
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from xcpmem.client import main as ask_daemon
from xcpmem.columns import lay_out
from xcpmem.errors import ConfigError, InvalidValue
from xcpmem.plugins import find_installed, installed_policies
from xcpmem.progressbar import Progress
from xcpmem.rethinking import Share, read_moments, rethink
from xcpmem.units import format_kib

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from xcpmem.engine.policy import ChosenPolicy
    from xcpmem.rethinking import Comparison, Moment

_COMMAND_LINE: Final = "command line"
_AS_JSON: Final = "--json"
_RECORDED: Final = "recorded"
_CLIENT_OPTIONS: Final = frozenset({"-s", "-h", "-p", "-u", "-pw", "-pwf"})
_CLIENT_KEYS: Final = frozenset({"since", "until", "server", "port", "username", "password", "passwordfile"})
_USAGE: Final = """\
Usage: xcpmem replay FILE policy=NAME [PARAMETER=VALUE ...] [--json]
       xcpmem replay [since=2h] [until=TIME] policy=NAME [PARAMETER=VALUE ...] [--json]

Thinks a recorded stretch through again under another policy, and shows what each VM would have been meant to
hold. FILE is what 'xcpmem journal-export' printed; without one the daemon's journal is asked.

  xcpmem journal-export since=1d > monday.jsonl
  xcpmem replay monday.jsonl policy=pressure

Exit code: 0; 1 if the daemon could not be asked or nothing was recorded; 2 for wrong words or a bad file.
"""


@dataclass(frozen=True, slots=True)
class _Order:
    """The command line.

    Args:
        file: empty: the daemon is asked.
        policy: to be tried.
        client_words: options and keys for asking the daemon.
        as_json: whether programs read the answer.
    """

    file: str
    policy: ChosenPolicy
    client_words: tuple[str, ...]
    as_json: bool


def replay_main(argv: Sequence[str], environment: Mapping[str, str] = os.environ) -> int:
    """Run the command.

    Args:
        argv: the words after ``replay``.
        environment: the process's.

    Returns:
        The exit code.
    """
    if not argv or {"--help", "-help"} & set(argv):
        sys.stderr.write(_USAGE)
        return 0
    try:
        order = _read(argv)
        if order.file:
            moments = _read_file(order.file)
        else:
            lines: list[str] = []
            code = ask_daemon(["journal-export", *order.client_words], environment, lines.append)
            if code:
                return code
            moments = read_moments("".join(lines).splitlines(), "the daemon's journal")
    except ConfigError as error:
        sys.stderr.write(f"xcpmem replay: {error}\n")
        return 2
    if not moments:
        sys.stderr.write("xcpmem replay: nothing was recorded then\n")
        return 1
    progress = Progress("replaying")
    comparison = rethink(moments, order.policy, progress.show)
    progress.end()
    answer = _answer(comparison, moments, order.policy)
    sys.stdout.write(json.dumps(answer) + "\n" if order.as_json else _format(answer))
    return 0


def _read(argv: Sequence[str]) -> _Order:
    """Read the words.

    Raises:
        ConfigError: names the word, and why.
    """
    file = ""
    client_words: list[str] = []
    parameters: dict[str, object] = {}
    words = iter(word for word in argv if word != _AS_JSON)
    for word in words:
        key, equals, value = word.partition("=")
        if word in _CLIENT_OPTIONS:
            client_words += [word, next(words, "")]
        elif word.startswith("-"):
            raise ConfigError(_COMMAND_LINE, word, "unknown option")
        elif not equals:
            if file:
                raise ConfigError(_COMMAND_LINE, word, f"there is a file already: {file}")
            file = word
        elif key in _CLIENT_KEYS:
            client_words.append(word)
        else:
            parameters[key] = value
    policy = str(parameters.pop("policy", ""))
    if not policy:
        raise ConfigError(
            _COMMAND_LINE, "policy", f"say which: policy= one of {', '.join(installed_policies())}"
        )
    if file and client_words:
        raise ConfigError(_COMMAND_LINE, client_words[0], "is not for a file, all of which is replayed")
    return _Order(file, _find(policy, parameters), tuple(client_words), _AS_JSON in argv)


def _find(policy: str, parameters: Mapping[str, object]) -> ChosenPolicy:
    try:
        return find_installed(policy, parameters)
    except InvalidValue as error:
        name, value = error.params
        why = f"cannot be {value!r}"
        if name == "policy":
            why = f"there is no {value!r}, but {', '.join(installed_policies())}"
        raise ConfigError(_COMMAND_LINE, name, why) from error


def _read_file(name: str) -> list[Moment]:
    try:
        with Path(name).open(encoding="utf-8") as lines:
            return read_moments(lines, name)
    except OSError as error:
        raise ConfigError(name, "", f"cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(name, "", "is no text") from error


def _answer(comparison: Comparison, moments: Sequence[Moment], policy: ChosenPolicy) -> dict[str, Any]:
    """Put a comparison as plain data, keys in a stable order."""
    recorded, other = comparison.recorded.shares, comparison.other.shares
    return {
        "since_s": comparison.since_s,
        "until_s": comparison.until_s,
        "looks": comparison.moments,
        "recorded_policy": ", ".join(sorted({moment.policy.name for moment in moments})),
        "policy": policy.name,
        "vms": [
            {
                "uuid": uuid,
                "name_label": comparison.names.get(uuid, uuid),
                "recorded_mean_kib": recorded.get(uuid, Share()).mean_kib,
                "mean_kib": share.mean_kib,
                "recorded_moved_kib": recorded.get(uuid, Share()).moved_kib,
                "moved_kib": share.moved_kib,
            }
            for uuid, share in other.items()
        ],
        "requests": [
            {"request": request, "recorded": then, "now": now} for request, then, now in comparison.verdicts()
        ],
    }


def _format(answer: dict[str, Any]) -> str:
    """Write the answer for people: a row for each VM, those that differ most first."""
    recorded, policy = answer["recorded_policy"], answer["policy"]
    since, until = (
        time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(answer[key])) for key in ("since_s", "until_s")
    )
    rows = []
    for vm in sorted(answer["vms"], key=lambda vm: -abs(vm["mean_kib"] - vm["recorded_mean_kib"])):
        change_kib = vm["mean_kib"] - vm["recorded_mean_kib"]
        rows.append(
            (
                vm["name_label"],
                format_kib(vm["recorded_mean_kib"]),
                format_kib(vm["mean_kib"]),
                f"{'+' if change_kib > 0 else ''}{format_kib(change_kib)}" if change_kib else "",
                format_kib(vm["recorded_moved_kib"]),
                format_kib(vm["moved_kib"]),
            )
        )
    wanted, moved = (tuple(f"{what} ({who})" for who in (_RECORDED, policy)) for what in ("wanted", "moved"))
    lines = [
        f"{answer['looks']} looks from {since} to {until}, thought through again under {policy}",
        f"{_RECORDED}: by the policy of then ({recorded})",
        "wanted: what was to be held, on the average of time; moved: the sum of its changes",
        "",
        *lay_out([("VM", *wanted, "difference", *moved), *rows], "<>>>>>"),
    ]
    if answer["requests"]:
        requests = [(each["request"], each["recorded"], each["now"]) for each in answer["requests"]]
        lines += ["", *lay_out([("reservation", _RECORDED, policy), *requests], "<<<")]
    return "\n".join([*lines, ""])
