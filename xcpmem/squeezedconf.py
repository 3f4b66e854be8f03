"""Importing squeezed's own file: what it says, as settings of ours.

squeezed.conf has ``key = value`` lines, ``#`` begins a comment; sizes are bytes, times seconds. What has no
counterpart is kept as a comment that says why, so that nothing gets lost unseen.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from xcpmem.errors import ConfigError
from xcpmem.units import bytes_to_kib_ceil

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

IMPORT_FLAG: Final = "--import-squeezed-conf"

SWITCH: Final = "/var/run/message-switch/sock"
"""xapi's message switch."""

SOCKET: Final = "/var/xapi/memory"
"""squeezed's direct socket."""

_LINE: Final = re.compile(r"\s*([A-Za-z0-9_-]+)\s*=\s*(.*?)\s*")
_DEFAULTS: Final = {"use-switch": "true"}

_HEAD: Final = """\
# Made of {path}: xcpmem in squeezed's place. Every key and its default: deploy/xcpmem.toml
driver = "xen"
squeezed_socket = "{socket}"
"""


def import_squeezed_conf(path: Path) -> str:
    """Translate squeezed's file.

    Args:
        path: of the file; its defaults are those of squeezed.

    Returns:
        TOML for ``xcpmemd --config``.

    Raises:
        ConfigError: the file cannot be read, or a value is none of its kind; names file, line and key.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "is not UTF-8 text"
        raise ConfigError(str(path), "", f"cannot be read: {why}") from error
    rows = [_HEAD.format(path=path, socket=SOCKET)]
    said = set()
    for where, key, value in _settings(str(path), text):
        said.add(key)
        rows.append(_translate(where, key, value))
    rows += [_translate("", key, value) for key, value in _DEFAULTS.items() if key not in said]
    return "".join(rows)


def _settings(path: str, text: str) -> Iterator[tuple[str, str, str]]:
    for number, line in enumerate(text.splitlines(), 1):
        content = line.partition("#")[0]
        if not content.strip():
            continue
        match = _LINE.fullmatch(content)
        if match is None:
            raise ConfigError(f"{path}:{number}", "", f"expected key = value, got {line.strip()!r}")
        yield f"{path}:{number}", match[1], match[2]


def _translate(where: str, key: str, value: str) -> str:
    reader = _READERS.get(key)
    if reader is None:
        return f"# {key} = {value}   has no counterpart\n"
    try:
        return reader(value)
    except ValueError as error:
        raise ConfigError(where, key, f"expected {error}, got {value!r}") from error


def _seconds(value: str) -> str:
    try:
        time_s = float(value)
    except ValueError:
        raise ValueError("seconds") from None
    if not 0 < time_s < float("inf"):
        raise ValueError("seconds above 0")
    return f"safety_look_s = {time_s:g}   # squeezed looked so often; here changes are heard of at once\n"


def _truth(value: str) -> bool:
    if value not in {"true", "false"}:
        raise ValueError("true or false")
    return value == "true"


def _dynamic_min(value: str) -> str:
    if not value.isdecimal():
        raise ValueError("a size in bytes")
    return f"domain_zero_dynamic_min_kib = {bytes_to_kib_ceil(int(value))}\n"


def _dynamic_max(value: str) -> str:
    if value == "auto":
        return "# domain-zero-dynamic-max = auto: domain 0's size when xcpmem first sees it\n"
    if not value.isdecimal():
        raise ValueError("auto or a size in bytes")
    return f"# domain-zero-dynamic-max = {value}: set it with dom0_mem= on Xen's command line\n"


_READERS: Final[Mapping[str, Callable[[str], str]]] = {
    "balance-check-interval": _seconds,
    "manage-domain-zero": lambda value: f"manage_domain_zero = {str(_truth(value)).lower()}\n",
    "domain-zero-dynamic-min": _dynamic_min,
    "domain-zero-dynamic-max": _dynamic_max,
    "use-switch": lambda value: f'message_switch = "{SWITCH}"\n' if _truth(value) else "",
}
