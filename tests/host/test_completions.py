"""The completions at work in the shells that they are made for."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "deploy" / "completions"

# bash splits words at "=", so these are the words as its readline gives them.
BASH = """
source {folder}/xcpmem.bash
COMP_WORDS=({words} "{current}")
COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
compopt() {{ :; }}
_xcpmem xcpmem "{current}" before
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


def run(*words: str) -> list[str]:
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.parametrize(
    ("words", "current", "completed"),
    [
        ("xcpmem", "vm-memory-dyn", ["vm-memory-dynamic-range-set"]),
        ("xcpmem -u alice", "vm-sh", ["vm-shutdown"]),
        ("xcpmem vm-memory-dynamic-range-set", "mi", ["min="]),
        ("xcpmem vm-memory-dynamic-range-set vm = web1", "power", ["power-state="]),
        ("xcpmem user-add role =", "vm-o", ["vm-operator"]),
        ("xcpmem vm-list params =", "uuid,memory-dynamic-mi", ["uuid,memory-dynamic-min"]),
        ("xcpmem vm-param-set", "other", ["other-config:"]),
        ("xcpmem vm-start", "--pa", ["--paused"]),
    ],
)
def test_bash_completes(words: str, current: str, completed: list[str]) -> None:
    assert run("bash", "-c", BASH.format(folder=FOLDER, words=words, current=current)) == completed


@pytest.mark.parametrize(
    ("line", "completed"),
    [
        ("xcpmem vm-memory-dyn", "vm-memory-dynamic-range-set"),
        ("xcpmem vm-memory-dynamic-range-set mi", "min="),
        ("xcpmem user-add role=vm-o", "role=vm-operator"),
        ("xcpmem vm-param-get param-name=memory-dynamic-mi", "param-name=memory-dynamic-min"),
    ],
)
def test_fish_completes(line: str, completed: str) -> None:
    script = f"source {FOLDER}/xcpmem.fish; complete -C '{line}'"
    start = line.rsplit(maxsplit=1)[-1]
    words = run("fish", "--no-config", "-c", script)
    assert [word for word in words if word.startswith(start)] == [completed]


def test_zsh_reads_its_file_and_finds_the_function() -> None:
    script = f"autoload -Uz compinit; fpath=({FOLDER} $fpath); compinit -u -D; print $_comps[xcpmem]"
    assert run("zsh", "-f", "-c", script) == ["_xcpmem"]
    assert run("zsh", "-f", "-n", str(FOLDER / "_xcpmem")) == []
