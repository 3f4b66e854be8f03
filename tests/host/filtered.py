"""Runs a program under the system call filter of a unit, as systemd would, but merciless.

    python filtered.py UNIT PROGRAM [ARGUMENT...]

systemd answers a forbidden call with the unit's SystemCallErrorNumber=; here the kernel kills the program
(SIGSYS), so that none goes unnoticed. Only those of `REFUSED` are answered, because the daemon is known to do
without. MemoryDenyWriteExecute= is part of the filter, as in systemd.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import subprocess
import sys
from pathlib import Path

REFUSED = ("fchown",)
"""SQLite calls it as root, to give its files to the owner of the database, and goes on without."""

# libseccomp's seccomp.h
KILL_PROCESS, ERRNO, ALLOW = 0x80000000, 0x00050000, 0x7FFF0000
MASKED_EQUAL = 7
# Linux's prctl.h and mman.h
PR_SET_NO_NEW_PRIVS = 38
PROT_WRITE, PROT_EXEC = 2, 4


class Comparison(ctypes.Structure):
    """seccomp.h's scmp_arg_cmp: an argument by its index, under a mask."""

    _fields_ = (
        ("argument", ctypes.c_uint),
        ("operator", ctypes.c_int),
        ("mask", ctypes.c_uint64),
        ("value", ctypes.c_uint64),
    )


def members(word: str) -> frozenset[str]:
    """The calls of a group such as ``@system-service``; a call is its own only member."""
    if not word.startswith("@"):
        return frozenset({word})
    told = subprocess.run(
        ["systemd-analyze", "--no-pager", "syscall-filter", word], capture_output=True, text=True, check=True
    )
    lines = (line.strip() for line in told.stdout.splitlines()[1:])
    return frozenset().union(*(members(line) for line in lines if line and not line.startswith("#")))


def allowed_calls(unit: str) -> frozenset[str]:
    """What the lines SystemCallFilter= leave, read in order, as systemd.exec(5) has it."""
    calls = members("@default")
    for line in re.findall(r"^SystemCallFilter=(.+)$", unit, flags=re.MULTILINE):
        named = frozenset().union(*(members(word) for word in line.removeprefix("~").split()))
        calls = calls - named if line.startswith("~") else calls | named
    return calls


def load(unit: str) -> None:
    """Put this process under the filter; there is no way back."""
    seccomp = ctypes.CDLL("libseccomp.so.2")
    seccomp.seccomp_init.restype = ctypes.c_void_p
    context = ctypes.c_void_p(seccomp.seccomp_init(ctypes.c_uint32(KILL_PROCESS)))

    def rule(action: int, call: str, *comparisons: Comparison) -> None:
        number = seccomp.seccomp_syscall_resolve_name(call.encode())
        if number < 0:  # of another architecture
            return
        array = (Comparison * len(comparisons))(*comparisons)
        status = seccomp.seccomp_rule_add_array(
            context, ctypes.c_uint32(action), number, len(comparisons), array
        )
        if status:
            raise OSError(-status, f"no rule for {call}")

    writable_code = {"mmap", "mprotect", "pkey_mprotect", "shmat"}
    if "\nMemoryDenyWriteExecute=yes\n" not in unit:
        writable_code = set()
    for call in sorted(allowed_calls(unit) - writable_code):
        rule(ALLOW, call)
    for call in REFUSED:
        rule(ERRNO | errno.EPERM, call)
    if writable_code:
        rule(ALLOW, "mmap", Comparison(2, MASKED_EQUAL, PROT_EXEC, 0))
        rule(ALLOW, "mmap", Comparison(2, MASKED_EQUAL, PROT_WRITE, 0))
        rule(ALLOW, "mprotect", Comparison(2, MASKED_EQUAL, PROT_EXEC, 0))
    if ctypes.CDLL(None).prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise OSError("no_new_privs was refused")
    status = seccomp.seccomp_load(context)
    if status:
        raise OSError(-status, "the filter was refused")


if __name__ == "__main__":
    load(Path(sys.argv[1]).read_text(encoding="utf-8"))
    os.execv(sys.argv[2], sys.argv[2:])  # noqa: S606 - arguments of the test
