"""The longer run: ``python -m tests.fuzz [TARGET...] [--runs N | --seconds S]``, started by ``make fuzz``.

With atheris installed (``pip install '.[fuzz]'``) it follows the branches that inputs take; else, or with
``--plain``, inputs are the corpus mutated at random. Each target runs in a process of its own, whose memory
is looked at while it runs.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Final

from tests.fuzz.targets import CORPUS, TARGETS, corpus

if TYPE_CHECKING:
    from collections.abc import Sequence

LOOK_EVERY: Final = 1000
WARM_UP: Final = 10
"""Growth is counted from a tenth of the run on: caches have filled by then."""
GROWTH_MOST_BYTES: Final = 16 << 20
INPUT_BYTES_MOST: Final = 4096
_PIECES: Final = (
    b"\0",
    b"\xff\xff\xff\xff",
    b"<",
    b"]]>",
    b"&#0;",
    b'"',
    b"\\u0000",
    b"[",
    b"{",
    b"9" * 40,
    b"-1",
    b"=",
)


def resident_bytes() -> int:
    """What this process holds; proc(5), statm: the second number, in pages."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def mutate(rng: random.Random, data: bytes) -> bytes:
    """Change a few bytes of an input."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 6)):
        at = rng.randint(0, len(changed))
        match rng.randint(0, 5):
            case 0:
                changed[at : at + 1] = bytes([rng.randrange(256)])
            case 1:
                changed[at:at] = rng.choice(_PIECES)
            case 2:
                del changed[at : at + rng.randint(1, 8)]
            case 3:
                begin = rng.randint(0, len(changed))
                changed[at:at] = changed[begin : begin + rng.randint(1, 64)]
            case 4:
                changed[at : at + 4] = rng.randbytes(4)
            case 5:
                changed[at:at] = changed[at : at + 16] * rng.randint(1, 8)
    return bytes(changed[:INPUT_BYTES_MOST])


def run_plain(name: str, runs: int, seconds: float, seed: int) -> str:
    """Try a target on mutated inputs and say how it went; what it raises has the input noted."""
    target, rng, pool = TARGETS[name], random.Random(seed), [*corpus(name)]  # noqa: S311 -- no secret
    began_s, settled_bytes, done = time.monotonic(), 0, 0
    while done < runs and (not seconds or time.monotonic() - began_s < seconds):
        data = mutate(rng, rng.choice(pool))
        try:
            target(data)
        except BaseException as error:
            error.add_note(f"input: {data!r}")
            raise
        done += 1
        if done % LOOK_EVERY == 0 and rng.random() < 0.5:
            pool[rng.randrange(len(pool))] = rng.choice([data, *corpus(name)])
        if done == max(1, runs // WARM_UP):
            settled_bytes = resident_bytes()
    growth_bytes = resident_bytes() - settled_bytes
    took_s = time.monotonic() - began_s
    if growth_bytes > GROWTH_MOST_BYTES:
        raise AssertionError(f"{name} grew by {growth_bytes} bytes over {done} inputs")
    return f"{name:13} {done:8} inputs {took_s:6.0f} s  grew by {growth_bytes >> 10:6} KiB"


def run_atheris(name: str, runs: int, seconds: float, seed: int) -> None:
    """Let libFuzzer choose the inputs; it ends the process itself, with the input in a file on failure."""
    import atheris  # noqa: PLC0415 -- an extra

    target = TARGETS[name]
    with TemporaryDirectory(prefix="xcpmem-corpus-") as found:
        words = [
            f"-seed={seed}",
            f"-max_len={INPUT_BYTES_MOST}",
            "-rss_limit_mb=1024",
            "-print_final_stats=1",
        ]
        words += [f"-max_total_time={seconds:.0f}"] if seconds else [f"-runs={runs}"]
        atheris.instrument_all()
        atheris.Setup([sys.argv[0], *words, found, str(CORPUS / name)], target)
        atheris.Fuzz()


def _run_each(names: Sequence[str], words: Sequence[str]) -> int:
    """Run each target in a process of its own; return how many failed."""
    failed = 0
    for name in names:
        done = subprocess.run((sys.executable, "-m", "tests.fuzz", name, "--alone", *words), check=False)
        failed += done.returncode != 0
    return failed


def main() -> int:
    """Fuzz; 0 if every invariant held."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=main.__doc__)
    parser.add_argument(
        "target", nargs="*", choices=[*TARGETS, []], metavar="TARGET", help=", ".join(TARGETS)
    )
    parser.add_argument("--runs", type=int, default=100_000, help="inputs for each target")
    parser.add_argument("--seconds", type=float, default=0.0, help="stop each target after this")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--plain", action="store_true", help="do without atheris")
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not options.alone:
        words = ("--runs", str(options.runs), "--seconds", str(options.seconds), "--seed", str(options.seed))
        return _run_each(options.target or [*TARGETS], (*words, *["--plain"] * options.plain))
    (name,) = options.target
    if options.plain or find_spec("atheris") is None:
        sys.stdout.write(run_plain(name, options.runs, options.seconds, options.seed) + "\n")
    else:
        run_atheris(name, options.runs, options.seconds, options.seed)
    return 0


if __name__ == "__main__":
    sys.exit(main())
