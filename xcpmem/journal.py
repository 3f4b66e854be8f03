"""The journal of decisions: what was decided when, on whose wish, and what it was decided from.

SQLite in ``journal.db`` of the state directory, apart from the records, behind a thread of its own: neither a
slow nor a full disk, neither a lock nor a damaged file stops the ring. What cannot be written is counted and
warned of once. The oldest entries go when there are too many, or when they take too much space.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sqlite3
import zlib
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from xcpmem.snapshot import to_plain
from xcpmem.units import kib_to_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path
    from typing import TypeVar

    from xcpmem.engine.model import HostState, Wishes

    _T = TypeVar("_T")

FILE_NAME: Final = "journal.db"

SCHEMA_VERSION: Final = 1
"""SQLite's user_version; a file of another version is set aside."""

BACKLOG: Final = 64
"""So many entries may wait for the disk; each holds a look in memory."""

LOCK_WAIT_S: Final = 1.0
"""How long a write waits for somebody who reads the file."""

CLOSE_S: Final = 2.0
"""What is not written so long after the daemon was told to end is lost."""

_ROW_BYTES: Final = 200
"""What an entry takes beside its texts, about."""

_COMPRESSION: Final = 1
_INSERT: Final = (
    "INSERT INTO entry (time_s, turn, policy, vms, told, inputs, size) VALUES (?, ?, ?, ?, ?, ?, ?)"
)
_SELECT: Final = (
    "SELECT id, time_s, turn, policy, told, CASE WHEN ? THEN inputs END FROM entry "
    "WHERE id > ? AND time_s BETWEEN ? AND ? AND instr(vms, ?) AND (vms != '' OR ?) ORDER BY id "
)
_OLDEST: Final = _SELECT + "ASC LIMIT ?"
_NEWEST: Final = _SELECT + "DESC LIMIT ?"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Decision:
    """One sentence of an entry.

    Args:
        level: of `logging`.
        kind: what it tells of, a word for programs.
        vm: uuid of the VM it is about, or empty.
        text: for people.
    """

    level: int
    kind: str
    vm: str
    text: str


@dataclass(frozen=True, slots=True)
class Entry:
    """A turn of the ring in which something was decided, or a look worth keeping.

    Args:
        time_s: Unix time, seconds.
        monotonic_s: the same on the clock of the looks.
        turn: its number.
        policy: by which memory was divided.
        parameters: of the policy.
        asked: who asked for what before it.
        decisions: in order.
        host: what was seen.
        wishes: what was thought of.
        names: of the VMs, by uuid.
    """

    time_s: float
    monotonic_s: float
    turn: int
    policy: str
    parameters: Mapping[str, object]
    asked: tuple[str, ...]
    decisions: tuple[Decision, ...]
    host: HostState
    wishes: Wishes
    names: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """Which entries are wanted.

    Args:
        since_s: Unix time, seconds; the earliest.
        until_s: the latest.
        vm: uuid of a VM that the decisions are about; empty: any.
        after: only entries with a higher number.
        limit: at most so many, 1 or more.
        is_newest_first: whether the limit keeps the newest; they come in the order of time anyway.
        has_decisions: whether looks without a decision are left out.
        is_whole: whether what the decisions were made from is given too; it is much.
    """

    since_s: float = 0.0
    until_s: float = 1e18
    vm: str = ""
    after: int = 0
    limit: int = 100
    is_newest_first: bool = True
    has_decisions: bool = True
    is_whole: bool = True


class Journal:
    """The file, written behind the ring's back.

    Args:
        state_dir: exists.
        rows: at most so many entries are kept.
        size_kib: ... and at most so much of them.
    """

    def __init__(self, state_dir: Path, *, rows: int, size_kib: int) -> None:
        self.path = state_dir / FILE_NAME
        self.lost = 0
        """Entries that could not be written."""
        self._rows_most = rows
        self._bytes_most = kib_to_bytes(size_kib)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="xcpmem-journal")
        self._connection: sqlite3.Connection | None = None
        self._rows = self._bytes = 0
        self._waiting: deque[Entry] = deque()
        self._writing: asyncio.Task[None] | None = None
        self._has_warned = False

    def put(self, entry: Entry) -> None:
        """Have an entry written soon; never waits, never fails."""
        if len(self._waiting) >= BACKLOG:
            self._lose(1, "the disk is too slow")
            return
        self._waiting.append(entry)
        if self._writing is None:
            self._writing = asyncio.create_task(self._write(), name="journal")

    async def read(self, question: Question) -> list[dict[str, Any]]:
        """Give entries as plain data, oldest first.

        Returns:
            ``id``, ``time_s``, ``turn``, ``policy``, ``asked``, ``decisions``; if the whole is wanted, also
            ``monotonic_s``, ``parameters``, ``host``, ``wishes``, ``names``.
            Nothing when the file cannot be read, which is warned of.
        """
        return await self._call(lambda: self._read(question))

    async def close(self) -> None:
        """Write what waits, for `CLOSE_S` at most, and let go of the file."""
        if self._writing is not None:
            await asyncio.wait({self._writing}, timeout=CLOSE_S)
        self._thread.submit(self._close)
        self._thread.shutdown(wait=self._writing is None)

    async def _call(self, work: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    async def _write(self) -> None:
        """Write what waits, and what comes meanwhile, batch by batch."""
        try:
            while self._waiting:
                batch = list(self._waiting)
                why = await self._call(partial(self._append, batch))
                for _ in batch:
                    self._waiting.popleft()
                if why:
                    self._lose(len(batch), why)
                elif self._has_warned:
                    self._has_warned = False
                    _log.info("the journal is written again; %d entries were lost so far", self.lost)
        finally:
            self._writing = None

    def _lose(self, count: int, why: str) -> None:
        self.lost += count
        if not self._has_warned:
            self._has_warned = True
            _log.warning("decisions are not kept in %s: %s; memory is balanced as before", self.path, why)

    def _append(self, batch: Sequence[Entry]) -> str:
        """Write entries and prune; say what went wrong, or nothing."""
        try:
            connection = self._open()
            with connection:
                connection.execute("BEGIN IMMEDIATE")
                rows = [_row(entry) for entry in batch]
                connection.executemany(_INSERT, rows)
                size = sum(int(str(row[-1])) for row in rows)
                gone_rows, gone_bytes = self._prune(connection, len(rows), size)
        except (sqlite3.Error, OSError) as error:
            self._forget()
            return str(error)
        self._rows += len(rows) - gone_rows
        self._bytes += size - gone_bytes
        return ""

    def _prune(self, connection: sqlite3.Connection, rows: int, size: int) -> tuple[int, int]:
        """Delete the oldest entries until the rest is within the limits, and count them."""
        rows_over, bytes_over = self._rows + rows - self._rows_most, self._bytes + size - self._bytes_most
        gone_rows = gone_bytes = last = 0
        if rows_over > 0 or bytes_over > 0:
            for number, each in connection.execute("SELECT id, size FROM entry ORDER BY id"):
                if gone_rows >= rows_over and gone_bytes >= bytes_over:
                    break
                gone_rows, gone_bytes, last = gone_rows + 1, gone_bytes + each, number
            connection.execute("DELETE FROM entry WHERE id <= ?", (last,))
        return gone_rows, gone_bytes

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            try:
                connection = _connect(self.path)
            except sqlite3.DatabaseError as error:
                if isinstance(error, sqlite3.OperationalError):
                    raise
                aside = self.path.with_suffix(".damaged")
                self.path.replace(aside)
                for leftover in ("-wal", "-shm"):  # they belong to the file that is gone
                    self.path.with_name(FILE_NAME + leftover).unlink(missing_ok=True)
                _log.warning("the journal is set aside as %s and begun anew: %s", aside, error)
                connection = _connect(self.path)
            self._connection = connection
            (self._rows, self._bytes) = connection.execute(
                "SELECT COUNT(*), COALESCE(SUM(size), 0) FROM entry"
            ).fetchone()
        return self._connection

    def _read(self, question: Question) -> list[dict[str, Any]]:
        asked = (
            question.is_whole,
            question.after,
            question.since_s,
            question.until_s,
            question.vm,
            not question.has_decisions,
        )
        select = _NEWEST if question.is_newest_first else _OLDEST
        try:
            found = self._open().execute(select, (*asked, question.limit)).fetchall()
            entries = [_plain(row) for row in found]
        except (sqlite3.Error, OSError, ValueError, zlib.error) as error:
            self._forget()
            _log.warning("the journal cannot be read: %s", error)
            return []
        return entries[::-1] if question.is_newest_first else entries

    def _forget(self) -> None:
        """Open the file anew next time: what went wrong may have been this connection's."""
        self._close()

    def _close(self) -> None:
        if self._connection is not None:
            connection, self._connection = self._connection, None
            connection.close()


def open_journal(state_dir: Path, *, rows: int, size_kib: int) -> Journal | None:
    """Begin to keep a journal, unless it is to have no entries or no space; arguments as of `Journal`."""
    return Journal(state_dir, rows=rows, size_kib=size_kib) if rows and size_kib else None


def _connect(path: Path) -> sqlite3.Connection:
    """Open the file, or make it.

    Raises:
        sqlite3.DatabaseError: it is damaged, or of another version.
        sqlite3.OperationalError: it cannot be opened now.
        OSError: the same.
    """
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    connection = sqlite3.connect(path, timeout=LOCK_WAIT_S, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master")]
        if version == 0 and not tables:
            connection.execute(
                "CREATE TABLE entry (id INTEGER PRIMARY KEY AUTOINCREMENT, time_s REAL NOT NULL, "
                "turn INTEGER NOT NULL, policy TEXT NOT NULL, vms TEXT NOT NULL, told BLOB NOT NULL, "
                "inputs BLOB NOT NULL, size INTEGER NOT NULL)"
            )
            connection.execute("CREATE INDEX entry_time ON entry (time_s)")
            connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        elif version != SCHEMA_VERSION:
            raise sqlite3.DatabaseError(f"it is of version {version}, this xcpmem knows {SCHEMA_VERSION}")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def _row(entry: Entry) -> tuple[object, ...]:
    told = _pack(
        {
            "asked": list(entry.asked),
            "decisions": [[each.level, each.kind, each.vm, each.text] for each in entry.decisions],
        }
    )
    inputs = _pack(
        {
            "monotonic_s": entry.monotonic_s,
            "parameters": dict(entry.parameters),
            "host": to_plain(entry.host),
            "wishes": to_plain(entry.wishes),
            "names": dict(entry.names),
        }
    )
    vms = " ".join(_about(entry))
    size = len(told) + len(inputs) + len(vms) + _ROW_BYTES
    return (entry.time_s, entry.turn, entry.policy, vms, told, inputs, size)


def _about(entry: Entry) -> Iterator[str]:
    """Name what the decisions are about: VMs by uuid, and ``-`` for what is about none."""
    if entry.decisions or entry.asked:
        yield "-"
    yield from {each.vm for each in entry.decisions if each.vm}


def _plain(row: tuple[Any, ...]) -> dict[str, Any]:
    number, time_s, turn, policy, packed, inputs = row
    head = {"id": number, "time_s": time_s, "turn": turn, "policy": policy}
    unpacked = _unpack(packed)
    names = ("level", "kind", "vm", "text")
    decisions = [dict(zip(names, each, strict=True)) for each in unpacked["decisions"]]
    told = {**head, "asked": unpacked["asked"], "decisions": decisions}
    return told if inputs is None else {**told, **_unpack(inputs)}


def _pack(value: object) -> bytes:
    return zlib.compress(json.dumps(value, separators=(",", ":")).encode(), _COMPRESSION)


def _unpack(data: bytes) -> dict[str, Any]:
    return dict(json.loads(zlib.decompress(data)))
