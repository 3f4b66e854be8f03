"""Entry of the lab: image, boot, verdict. Started by `tests/lab/run`."""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.lab.boots import selected
from tests.lab.image import ImageError, cached_image
from tests.lab.machine import boot
from tests.lab.payload import pack_payload

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import FrameType

    from tests.lab.image import Image
    from tests.lab.machine import Transcript

ATTEMPTS: Final = 2


def main() -> int:
    """Run the lab and return the exit code: 0 if every check passed."""
    signal.signal(signal.SIGTERM, _stop)
    arguments = _arguments()
    try:
        chosen = selected(arguments.only)
        image = cached_image()
        if arguments.image_only:
            _tell(f"image in {image.directory}")
            return 0
        output = arguments.output or Path(tempfile.mkdtemp(prefix="xcpmem-lab-"))
        transcripts = {
            name: _attempt(image, name, checks, output, arguments.log) for name, checks in chosen.items()
        }
    except (ImageError, ValueError) as error:
        _tell(f"{error}")
        return 1
    return _verdict(transcripts)


def _attempt(image: Image, name: str, checks: Sequence[str], output: Path, log_levels: str) -> Transcript:
    """Boot for some checks, once more if the machine itself hung or crashed."""
    directory = output / name
    directory.mkdir(parents=True, exist_ok=True)
    payload = directory / "payload.cpio.gz"
    pack_payload(payload, checks, log_levels)
    for attempt in range(1, ATTEMPTS + 1):
        boot_output = directory / f"attempt-{attempt}"
        boot_output.mkdir(exist_ok=True)
        _tell(f"boot {name}, console log in {boot_output / 'console.log'}")
        transcript = boot(image, payload, boot_output)
        # A check that failed is an answer, whatever became of the machine afterwards.
        if transcript.is_complete or transcript.failed:
            break
        _tell(f"boot {name}: the emulated machine hung or crashed; its last lines:")
        for line in transcript.end_of_log:
            _tell(f"| {line}")
    return transcript


def _verdict(transcripts: Mapping[str, Transcript]) -> int:
    """Print what came out, closing with the one line that counts."""
    failed: list[str] = []
    for name, transcript in transcripts.items():
        failed += transcript.failed
        if not transcript.is_complete:
            failed.append(f"boot {name}: no complete verdict came out")
        elif not transcript.passed and not transcript.failed:
            failed.append(f"boot {name}: ran no check")
        for figure in transcript.figures:
            _tell(f"figure {figure}")
    for failure in failed:
        _tell(f"FAILED {failure}")
    passed = sum(len(transcript.passed) for transcript in transcripts.values())
    sys.stdout.write(f"{passed} passed, {len(failed)} failed\n")
    return 1 if failed or not passed else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="tests/lab/run", description="The checks on an emulated real Xen host."
    )
    parser.add_argument("--output", type=Path, help="directory for the console log (default: a new one)")
    parser.add_argument(
        "--only", nargs="+", default=(), metavar="CHECK", help="run these checks, or boots, alone"
    )
    parser.add_argument("--log", default="", metavar="LEVELS", help="XCPMEM_LOG of the daemon under test")
    parser.add_argument("--image-only", action="store_true", help="build the image if need be, boot nothing")
    return parser.parse_args()


def _stop(number: int, frame: FrameType | None) -> None:
    """End in order on SIGTERM, so that the machine and half a build are cleaned up."""
    raise SystemExit(128 + number)


def _tell(text: str) -> None:
    sys.stdout.write(f"lab: {text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
