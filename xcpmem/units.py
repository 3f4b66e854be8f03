"""The one place where sizes change their unit.

Everything inside xcpmem counts KiB; XenAPI and Prometheus speak bytes, the hypervisor pages, people
"4GiB". The rounding direction is part of each function's name.
"""

from __future__ import annotations

import re
from typing import Final

from xcpmem.errors import InvalidValue

BYTES_PER_KIB: Final = 1024
KIB_PER_MIB: Final = 1024
BYTES_PER_MIB: Final = BYTES_PER_KIB * KIB_PER_MIB
KIB_PER_PAGE: Final = 4
BYTES_PER_PAGE: Final = KIB_PER_PAGE * BYTES_PER_KIB
PAGES_PER_MIB: Final = KIB_PER_MIB // KIB_PER_PAGE

_SIZE = re.compile(r"\s*([0-9]+)\s*([a-zA-Z]*)\s*")
_POWER: Final = {
    suffix: power
    for power, suffixes in enumerate(
        (("", "b", "bytes"), ("k", "kb", "kib"), ("m", "mb", "mib"), ("g", "gb", "gib"), ("t", "tb", "tib")),
    )
    for suffix in suffixes
}
_NAMES: Final = ("KiB", "MiB", "GiB", "TiB")
UNITS_HINT: Final = "sizes are bytes unless they say KiB, MiB, GiB or TiB"
"""What to tell whoever seems to have forgotten a unit."""


def kib_to_bytes(size_kib: int) -> int:
    """Convert KiB to bytes, exactly."""
    return size_kib * BYTES_PER_KIB


def bytes_to_kib_floor(size_bytes: int) -> int:
    """Convert bytes to KiB, rounding down, as xapi does before it writes xenstore."""
    return size_bytes // BYTES_PER_KIB


def bytes_to_kib_ceil(size_bytes: int) -> int:
    """Convert bytes to KiB, rounding up: for a need that must be covered."""
    return -(-size_bytes // BYTES_PER_KIB)


def bytes_to_mib_ceil(size_bytes: int) -> int:
    """Convert bytes to MiB, rounding up."""
    return -(-size_bytes // BYTES_PER_MIB)


def bytes_to_mib_floor(size_bytes: int) -> int:
    """Convert bytes to MiB, rounding down."""
    return size_bytes // BYTES_PER_MIB


def mib_to_bytes(size_mib: int) -> int:
    """Convert MiB to bytes, exactly."""
    return size_mib * BYTES_PER_MIB


def mib_to_kib(size_mib: int) -> int:
    """Convert MiB to KiB, exactly."""
    return size_mib * KIB_PER_MIB


def kib_to_mib_floor(size_kib: int) -> int:
    """Convert KiB to MiB, rounding down."""
    return size_kib // KIB_PER_MIB


def kib_to_whole_pages_floor(size_kib: int) -> int:
    """Round KiB down to whole pages, in KiB: what Xen makes of any size."""
    return size_kib - size_kib % KIB_PER_PAGE


def kib_to_whole_pages_ceil(size_kib: int) -> int:
    """Round KiB up to whole pages, in KiB."""
    return -(-size_kib // KIB_PER_PAGE) * KIB_PER_PAGE


def pages_to_kib(pages: int) -> int:
    """Convert 4 KiB pages to KiB, exactly."""
    return pages * KIB_PER_PAGE


def pages_to_mib_ceil(pages: int) -> int:
    """Convert 4 KiB pages to MiB, rounding up."""
    return -(-pages // PAGES_PER_MIB)


def parse_size_bytes(text: str, field: str) -> int:
    """Read a size as `xe` does: decimal digits and an optional binary suffix.

    Args:
        text: for example ``4294967296``, ``4GiB``, ``512 mb``; all suffixes are powers of 1024.
        field: what the size is for, named in the error.

    Returns:
        Bytes, 0 or more.

    Raises:
        InvalidValue: no digits, a sign, a fraction, or an unknown suffix.
    """
    match = _SIZE.fullmatch(text)
    power = _POWER.get(match[2].lower()) if match else None
    if match is None or power is None:
        raise InvalidValue(field, text)
    return int(match[1]) * int(BYTES_PER_KIB**power)


def format_kib(size_kib: int) -> str:
    """Write a size for people, to four digits: ``1.5 GiB``, ``412 KiB``."""
    size, name = float(size_kib), _NAMES[0]
    for larger in _NAMES[1:]:
        if abs(size) < BYTES_PER_KIB:
            break
        size, name = size / BYTES_PER_KIB, larger
    digits = ".4g" if abs(size) < BYTES_PER_KIB else ".0f"
    return f"{size:{digits}} {name}"


def format_bytes(size_bytes: int) -> str:
    """Write a byte count for people: ``6 GiB``."""
    if abs(size_bytes) < BYTES_PER_KIB:
        return "1 byte" if size_bytes == 1 else f"{size_bytes} bytes"
    return format_kib(size_bytes // BYTES_PER_KIB)
