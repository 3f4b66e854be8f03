"""Completion for bash, zsh and fish, made from the commands and the fields of records.

``python -m xcpmem.api.completions deploy/completions`` writes the three files; a test does so too and
compares. They complete names of commands, their keys, names of fields behind ``params=``, ``param-name=`` and
as selectors, roles, and switches; not the names of VMs, for which a daemon would have to be asked at each
press of a key.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from xcpmem.api.cli_catalog import COMMANDS, HOST_SELECTORS, VM_SELECTORS
from xcpmem.api.cli_fields import RECORD_CLASSES, Access
from xcpmem.users import ROLES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from xcpmem.api.cli_catalog import Command

_SWITCHES: Final = ("--minimal", "--multiple", "--force")
_OPTIONS: Final = ("-s", "-p", "-u", "-pw", "-pwf", "--nossl", "--help", "--version")
_FIND_COMMAND: Final = "        case $word in {}) command=$word; break ;; esac"
_FLAGS: Final = frozenset({"force", "paused", "approximate", "pam"})
_WORD_OF: Final = {VM_SELECTORS: "vm", HOST_SELECTORS: "host"}


def keys_of(command: Command) -> list[str]:
    """List the keys that a command takes, each with its ``=``."""
    keys = [f"{key}=" for key in (*command.required, *command.optional) if key not in _FLAGS]
    word, _, verb = command.name.partition("-")
    if command.selectors:
        word = _WORD_OF[command.selectors]
        keys += [f"{word}=", *_filters(word)]
    elif verb == "list" and word in RECORD_CLASSES:
        keys += _filters(word)
    elif verb == "param-set" and word in RECORD_CLASSES:
        keys += _settable(word)
    return list(dict.fromkeys(keys))


def _filters(word: str) -> list[str]:
    return [f"{field.name}=" for field in RECORD_CLASSES[word].fields if not field.is_hidden]


def _settable(word: str) -> list[str]:
    fields = RECORD_CLASSES[word].fields
    plain = [f"{field.name}=" for field in fields if field.access is Access.RW and not field.is_hidden]
    return plain + [
        f"{field.name}:" for field in fields if field.access is Access.MRW and not field.is_hidden
    ]


def _field_names(word: str) -> list[str]:
    return [field.name for field in RECORD_CLASSES[word].fields if not field.is_hidden]


def _switches_of(command: Command) -> list[str]:
    return [*_SWITCHES, *(f"--{key}" for key in command.optional if key in _FLAGS and key != "force")]


def _names() -> list[str]:
    return [command.name for command in _shown()]


def _words_of(command: Command) -> str:
    return " ".join([*keys_of(command), *_switches_of(command)])


def _shown() -> list[Command]:
    return [command for command in COMMANDS.values() if not command.is_hidden]


def make_bash() -> str:
    """Write the completion for bash."""
    lines = [
        "# Completion of xcpmem for bash; goes to /usr/share/bash-completion/completions/xcpmem.",
        "# Made by: python -m xcpmem.api.completions deploy/completions",
        "_xcpmem() {",
        "    local current=$2 command= word words=",
        "    COMPREPLY=()",
        '    for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do',
        _FIND_COMMAND.format("|".join(_names())),
        "    done",
        "    # bash splits words at '=', so the key stands one or two words before.",
        "    local key=",
        "    if [[ $current == = ]]; then",
        "        key=${COMP_WORDS[COMP_CWORD-1]} current=",
        "    elif [[ ${COMP_WORDS[COMP_CWORD-1]} == = ]]; then",
        "        key=${COMP_WORDS[COMP_CWORD-2]}",
        "    fi",
        "    case $key in",
        f"        role) words='{' '.join(ROLES)}' ;;",
        "        params | param-name)",
        "            case $command in",
    ]
    lines += [
        f"                {word}-*) words='{' '.join(_field_names(word))}' ;;" for word in RECORD_CLASSES
    ]
    lines += [
        "            esac ;;",
        "        '')",
        "            case $command in",
        f"                '') words='{' '.join([*_names(), *_OPTIONS])}' ;;",
    ]
    for command in _shown():
        words = _words_of(command)
        lines += [f"                {command.name}) words='{words}' ;;"]
    lines += [
        "            esac ;;",
        "    esac",
        "    if [[ $key == params && $current == *,* ]]; then",
        "        local start=${current%,*},",
        '        mapfile -t COMPREPLY < <(compgen -P "$start" -W "$words" -- "${current##*,}")',
        "    else",
        '        mapfile -t COMPREPLY < <(compgen -W "$words" -- "$current")',
        "    fi",
        "    [[ ${COMPREPLY[*]} == *[=:] ]] && compopt -o nospace",
        "    return 0",
        "}",
        "complete -F _xcpmem xcpmem",
    ]
    return "\n".join(lines) + "\n"


def make_zsh() -> str:
    """Write the completion for zsh."""
    lines = [
        "#compdef xcpmem",
        "# Completion of xcpmem for zsh; goes to a folder of $fpath, as _xcpmem.",
        "# Made by: python -m xcpmem.api.completions deploy/completions",
        "_xcpmem() {",
        "    local -a commands words_for",
        "    commands=(",
        *(f"        '{_zsh(command.name)}:{_zsh(command.summary)}'" for command in _shown()),
        "    )",
        "    local word command=",
        "    for word in ${words[2,CURRENT-1]}; do",
        _FIND_COMMAND.format("|".join(_names())),
        "    done",
        "    if [[ -z $command ]]; then",
        "        _describe command commands",
        f"        compadd -- {' '.join(_OPTIONS)}",
        "        return",
        "    fi",
        "    case $PREFIX in",
        f"        role=*) compset -P '*='; compadd -- {' '.join(ROLES)}; return ;;",
        "        params=*|param-name=*)",
        "            compset -P '*='; compset -P '*,'",
        "            case $command in",
    ]
    lines += [
        f"                {word}-*) compadd -S '' -- {' '.join(_field_names(word))} ;;"
        for word in RECORD_CLASSES
    ]
    lines += ["            esac", "            return ;;", "    esac", "    case $command in"]
    for command in _shown():
        keys = " ".join(keys_of(command))
        switches = " ".join(_switches_of(command))
        lines += [f"        {command.name}) compadd -S '' -- {keys}; compadd -- {switches} ;;"]
    lines += ["    esac", "}", '_xcpmem "$@"']
    return "\n".join(lines) + "\n"


def make_fish() -> str:
    """Write the completion for fish."""
    names = " ".join(_names())
    lines = [
        "# Completion of xcpmem for fish; goes to /usr/share/fish/vendor_completions.d/xcpmem.fish.",
        "# Made by: python -m xcpmem.api.completions deploy/completions",
        f"set -l commands {names}",
        "complete -c xcpmem -f",
        'set -l none "not __fish_seen_subcommand_from $commands"',
    ]
    lines += [
        f'complete -c xcpmem -n "$none" -a {command.name} -d "{_fish(command.summary)}"'
        for command in _shown()
    ]
    lines += [f'complete -c xcpmem -n "$none" -a "{option}"' for option in _OPTIONS]
    for command in _shown():
        words = _words_of(command)
        condition = f"__fish_seen_subcommand_from {command.name}"
        lines.append(f'complete -c xcpmem -n "{condition}" -a "{words}"')
        word = command.name.partition("-")[0]
        if word in RECORD_CLASSES:
            for key in ("params", "param-name"):
                if key in (*command.required, *command.optional):
                    fields = " ".join(f"{key}={name}" for name in _field_names(word))
                    lines.append(f'complete -c xcpmem -n "{condition}" -a "{fields}"')
        if "role" in command.required:
            roles = " ".join(f"role={role}" for role in ROLES)
            lines.append(f'complete -c xcpmem -n "{condition}" -a "{roles}"')
    return "\n".join(lines) + "\n"


def _zsh(text: str) -> str:
    return text.replace("'", "'\\''").replace(":", "\\:")


def _fish(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("$", "\\$")


FILES: Final = {"xcpmem.bash": make_bash, "_xcpmem": make_zsh, "xcpmem.fish": make_fish}
"""What makes each file."""


def main(arguments: Sequence[str]) -> int:
    """Write the files into a folder."""
    folder = Path(arguments[0])
    folder.mkdir(parents=True, exist_ok=True)
    for name, make in FILES.items():
        (folder / name).write_text(make(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
