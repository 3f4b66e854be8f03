"""The emulated machine: QEMU in software emulation, its serial console, and the verdict that comes out."""

from __future__ import annotations

import os
import re
import selectors
import shutil
import subprocess
import sys
import time
from collections import deque
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

    from tests.lab.image import Image

BOOT_TIMEOUT_S: Final = 1200
"""Several times of what a boot takes on an idle machine; a slow one was seen to take more than 600 s."""
POWER_OFF_TIMEOUT_S: Final = 30
END_OF_LOG_LINES: Final = 40

# With SMAP or SMEP a PV dom0 dies on its first exception under emulation; with MONITOR, C-states or
# mwait Xen takes a general protection fault when it idles. Without eager-fpu Xen switches vector
# registers lazily, and under emulation on a busy machine one task's then turn up in another: ld.so fails
# its assertions, programs in dom0 and guests die of SIGSEGV. No test needs a network.
QEMU: Final = (
    *("qemu-system-x86_64", "-machine", "q35", "-accel", "tcg,thread=multi"),
    *("-cpu", "EPYC,-smap,-smep,-monitor", "-smp", "2", "-m", "4096"),
    *("-nographic", "-no-reboot", "-nic", "none"),
)
XEN_ARGUMENTS: Final = (
    "dom0_mem=1024M,max:1024M com1=115200,8n1 console=com1 loglvl=warning guest_loglvl=none "
    "spec-ctrl=no,eager-fpu=yes smap=0 smep=0 cpuidle=0 mwait-idle=0"
)
DOM0_ARGUMENTS: Final = "console=hvc0 mitigations=off quiet"

# The hypervisor's own messages may stand before a line of dom0's, on the one serial line they share.
_LINE: Final = re.compile(r"LAB (STEP|PASS|FAIL|FIGURE|LOG|VERDICT) (.*)")
_VERDICT: Final = re.compile(r"(?:pass|fail) (\d+) passed (\d+) failed")


@dataclass(slots=True)
class Transcript:
    """What one boot said: the checks, the figures, the verdict if there was one, and the end of the log."""

    passed: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    figures: list[str] = field(default_factory=list)
    verdict: tuple[int, int] | None = None
    end_of_log: deque[str] = field(default_factory=lambda: deque(maxlen=END_OF_LOG_LINES))

    @property
    def is_complete(self) -> bool:
        """Whether the verdict came out and counts exactly the checks that were seen."""
        return self.verdict == (len(self.passed), len(self.failed))

    def feed(self, line: str) -> str | None:
        """Take one line of the console; return it without noise if it is one for the watcher."""
        self.end_of_log.append(line)
        found = _LINE.search(line)
        if found is None:
            return None
        kind, text = found.groups()
        if kind == "PASS":
            self.passed.append(text)
        elif kind == "FAIL":
            self.failed.append(text)
        elif kind == "FIGURE":
            self.figures.append(text)
        elif kind == "VERDICT" and (counts := _VERDICT.fullmatch(text)):
            self.verdict = (int(counts[1]), int(counts[2]))
        return f"{kind.lower():7} {text}"


def boot(image: Image, payload: Path, output: Path) -> Transcript:
    """Boot the image with the payload laid over dom0's root, and follow it until it is off.

    The console goes to console.log in output, the lines for the watcher to standard output with the
    seconds since power on before them. A machine that is not off after BOOT_TIMEOUT_S is switched off.

    Args:
        image: The files to boot.
        payload: A gzipped cpio archive that the kernel unpacks over the image's dom0 root.
        output: A directory for the console log and the joined initramfs.

    Returns:
        What came out; it is incomplete when the machine hung or crashed.
    """
    initramfs = output / "dom0.cpio.gz"
    with initramfs.open("wb") as joined:
        for part in (image.dom0, payload):
            with part.open("rb") as piece:
                shutil.copyfileobj(piece, joined)
    command = (
        *(*QEMU, "-kernel", str(image.xen), "-append", XEN_ARGUMENTS),
        *("-initrd", f"{image.kernel} {DOM0_ARGUMENTS},{initramfs}"),
    )
    transcript = Transcript()
    with (output / "console.log").open("wb") as log:
        machine = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        try:
            assert machine.stdout is not None
            _follow(machine.stdout, log, transcript)
        finally:
            machine.kill()
            machine.wait()
            initramfs.unlink()
    return transcript


def _follow(console: IO[bytes], log: IO[bytes], transcript: Transcript) -> None:
    """Feed the console to log and transcript until it closes or the time is over."""
    powered_on = time.monotonic()
    deadline = powered_on + BOOT_TIMEOUT_S
    pending = b""
    with selectors.DefaultSelector() as selector:
        selector.register(console, selectors.EVENT_READ)
        while selector.select(max(0.0, deadline - time.monotonic())):
            chunk = os.read(console.fileno(), 65536)
            if not chunk:
                return
            log.write(chunk)
            log.flush()
            *lines, pending = (pending + chunk).split(b"\n")
            for line in lines:
                text = line.decode(errors="replace").strip("\r\0")
                if told := transcript.feed(text):
                    sys.stdout.write(f"[{time.monotonic() - powered_on:6.1f} s] {told}\n")
                    sys.stdout.flush()
                if transcript.verdict:
                    deadline = min(deadline, time.monotonic() + POWER_OFF_TIMEOUT_S)
