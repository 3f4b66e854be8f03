"""Entry of the lab: image, boot, verdict. Started by `tests/lab/run`."""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.lab.image import ImageError, cached_image
from tests.lab.machine import boot
from tests.lab.payload import pack_payload

if TYPE_CHECKING:
    from types import FrameType

    from tests.lab.machine import Transcript

BOOTS: Final = 2


def main() -> int:
    """Run the lab and return the exit code: 0 if every check passed."""
    signal.signal(signal.SIGTERM, _stop)
    arguments = _arguments()
    try:
        image = cached_image()
        if arguments.image_only:
            _tell(f"image in {image.directory}")
            return 0
        output = arguments.output or Path(tempfile.mkdtemp(prefix="xcpmem-lab-"))
        output.mkdir(parents=True, exist_ok=True)
        payload = output / "payload.cpio.gz"
        pack_payload(payload, tuple(arguments.only))
    except ImageError as error:
        _tell(f"{error}")
        return 1
    for attempt in range(1, BOOTS + 1):
        boot_output = output / f"boot-{attempt}"
        boot_output.mkdir(exist_ok=True)
        _tell(f"boot {attempt}, console log in {boot_output / 'console.log'}")
        transcript = boot(image, payload, boot_output)
        # A check that failed is an answer, whatever became of the machine afterwards.
        if transcript.is_complete or transcript.failed:
            break
        _tell(f"boot {attempt}: the emulated machine hung or crashed; its last lines:")
        for line in transcript.end_of_log:
            _tell(f"| {line}")
    return _verdict(transcript, boot_output)


def _verdict(transcript: Transcript, boot_output: Path) -> int:
    """Print what came out, closing with the one line that counts."""
    failed = list(transcript.failed)
    if not transcript.is_complete:
        failed.append("machine no complete verdict came out")
    _tell(f"console log in {boot_output / 'console.log'}")
    for figure in transcript.figures:
        _tell(f"figure {figure}")
    for failure in failed:
        _tell(f"FAILED {failure}")
    if not transcript.passed and not failed:
        failed.append("machine ran no check")
    sys.stdout.write(f"{len(transcript.passed)} passed, {len(failed)} failed\n")
    return 1 if failed else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="tests/lab/run", description="The checks on an emulated real Xen host."
    )
    parser.add_argument("--output", type=Path, help="directory for the console log (default: a new one)")
    parser.add_argument("--only", nargs="+", default=(), metavar="CHECK", help="run these checks alone")
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
