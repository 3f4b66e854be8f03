"""The audit trail: who changed what, from where, and what it was before; in ``audit.log`` of the state dir.

One line of JSON for each change that was made, appended before its caller is answered, so that it survives a
killed daemon (a power cut may take the last lines: the log has them too). A change whose daemon was killed
before its line was there gets one at the next start, for `intents` knew that it was begun. One that ended in
an error has a line if the daemon ended meanwhile, or if its object is not as it was before. The file is
bounded: when it is full it becomes ``audit.log.1`` and a new one begins. Refused changes stand in the
daemon's log alone, so that nobody can push others' changes out of the trail by trying what is forbidden.
"""

from __future__ import annotations

import json
import logging
import os
from collections import deque
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Final

from xcpmem.intents import Intents
from xcpmem.units import mib_to_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

FILE_NAME: Final = "audit.log"
FILE_BYTES: Final = mib_to_bytes(8)
LATEST_MOST: Final = 1000
CUT_SHORT: Final = "not known: it was cut short before its caller was answered"
"""The outcome of a change that may have been made, or not."""

_MODE: Final = 0o600

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One change.

    Args:
        time: of day, as ``2026-01-31T12:00:00Z``.
        user: who; ``root`` for the owner of the Unix socket.
        role: in which role.
        source: from where: an address, or ``unix uid 0``.
        call: the message of XenAPI.
        target: the object that was changed: class, uuid and name; empty if there is no single one.
        arguments: of the call, by name; passwords hidden, long ones cut.
        before: the fields of the object that are different now, as they were.
        after: the same as they are.
        task: what stood for the call, if its caller did not wait; else empty.
        outcome: empty for what was done; the code of the error that ended what was done by half; else
            `CUT_SHORT`.
    """

    time: str
    user: str
    role: str
    source: str
    call: str
    target: str = ""
    arguments: Mapping[str, str] = field(default_factory=dict)
    before: Mapping[str, str] = field(default_factory=dict)
    after: Mapping[str, str] = field(default_factory=dict)
    task: str = ""
    outcome: str = ""

    @property
    def line(self) -> str:
        """It as one line of JSON, without what is empty."""
        return json.dumps({name: value for name, value in asdict(self).items() if value}, ensure_ascii=True)


class AuditTrail:
    """The file, and the latest lines of it.

    Args:
        folder: where the file is; None: nothing is kept on disk.
        file_bytes: how large a file may grow; there are two at most.
    """

    def __init__(self, folder: Path | None, *, file_bytes: int = FILE_BYTES) -> None:
        self._path = folder / FILE_NAME if folder is not None else None
        self._intents = Intents(folder) if folder is not None else None
        self._file_bytes = file_bytes
        self._latest: deque[str] = deque(maxlen=LATEST_MOST)
        self._descriptor: int | None = None
        self._written_bytes = 0
        self.unwritten = 0
        """Changes that could not be kept, because the disk refused."""

    def open(self) -> None:
        """Read the latest lines and be ready to append; a disk that refuses is told in the log.

        What an earlier daemon had begun and not come to the end of gets its line now.
        """
        if self._path is None or self._intents is None:
            return
        try:
            for path in (self._path.with_suffix(".log.1"), self._path):
                if path.exists():
                    self._latest.extend(path.read_text(encoding="utf-8", errors="replace").splitlines())
            self._open(self._path)
            for begun in self._intents.load():
                line = json.dumps({**parse_line(begun), "outcome": CUT_SHORT}, ensure_ascii=True)
                self._latest.append(line)
                self._append(self._path, line.encode() + b"\n")
            self._intents.forget()
        except OSError as error:
            _log.error("the audit trail cannot be kept: %s", error, extra={"why": error})

    def close(self) -> None:
        """Let go of the files."""
        if self._intents is not None:
            self._intents.close()
        self._let_go()

    @contextmanager
    def expecting(self, change: Change) -> Iterator[None]:
        """Know of a change while it is made, so that a kill leaves it with a line; see `intents`."""
        number = 0
        if self._intents is not None:
            try:
                number = self._intents.begin(change.line)
            except OSError as error:
                self._complain(error)
        try:
            yield
        finally:
            if self._intents is not None:
                try:
                    self._intents.end(number)
                except OSError as error:
                    self._complain(error)

    def _let_go(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def keep(self, change: Change) -> None:
        """Append a change; when the disk refuses, the log and `unwritten` tell."""
        line = change.line
        self._latest.append(line)
        if self._path is None:
            return
        try:
            self._append(self._path, line.encode() + b"\n")
        except OSError as error:
            self._complain(error)

    def latest(self, count: int) -> tuple[str, ...]:
        """Give the last lines, the oldest first; at most `LATEST_MOST`."""
        return tuple(self._latest)[-count:] if count > 0 else ()

    def _complain(self, error: OSError) -> None:
        self.unwritten += 1
        _log.error("a change could not be kept in the audit trail: %s", error, extra={"why": error})

    def _append(self, path: Path, data: bytes) -> None:
        if self._descriptor is not None and self._written_bytes + len(data) > self._file_bytes:
            self._let_go()
            path.rename(path.with_suffix(".log.1"))
        if self._descriptor is None:
            self._open(path)
        if self._descriptor is not None:
            written = os.write(self._descriptor, data)
            self._written_bytes += written
            if written < len(data):
                raise OSError(f"{written} of {len(data)} bytes written")

    def _open(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, _MODE)
        self._written_bytes = os.fstat(self._descriptor).st_size


def parse_line(line: str) -> dict[str, Any]:
    """Read a line of the trail; one that was cut short by a full disk gives nothing."""
    try:
        found = json.loads(line)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
