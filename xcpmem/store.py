"""What outlives the daemon: VM records and a few named values, in ``state.db`` of the state directory.

SQLite with a write-ahead log and full sync: a write that was awaited is on disk, one that was not is either
there as a whole or not at all. One thread does all of it. The file belongs to one daemon at a time. What Xen
knows (which domains run, reservations) is not kept here.
"""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from dataclasses import MISSING, dataclass, field
from typing import TYPE_CHECKING, Final

from xcpmem.errors import ConfigError, HostError, XcpmemError
from xcpmem.vm import STORED_FIELDS, Vm, thaw

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path
    from typing import TypeVar

    _T = TypeVar("_T")

SCHEMA_VERSION: Final = 3
"""Kept as SQLite's user_version; files of a newer xcpmem are refused, older ones brought up to it."""

_ADDED: Final = (
    (2, "annotations TEXT NOT NULL DEFAULT '{}'"),
    (3, "memory_suspended INTEGER NOT NULL DEFAULT -1"),
)
"""Columns of the table of VMs that were not there from the first schema on, each with its schema."""

FILE_NAME: Final = "state.db"

LOCK_WAIT_S: Final = 5.0
"""How long a starting daemon waits for its predecessor to let go of the file."""

_COLUMN_TYPES: Final = {
    "str": "TEXT",
    "int": "INTEGER",
    "bool": "INTEGER",
    "float": "REAL",
    "Mapping[str, str]": "TEXT",
    "Mapping[str, Any]": "TEXT",
}
_COLUMNS: Final = tuple(f.name for f in STORED_FIELDS)
_MAPS: Final = frozenset(f.name for f in STORED_FIELDS if str(f.type).startswith("Mapping"))
_BOOLEANS: Final = frozenset(f.name for f in STORED_FIELDS if f.type == "bool")
_SAVE_VM: Final = (
    f"INSERT OR REPLACE INTO vm ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))})"  # noqa: S608 names of our own fields
)


@dataclass(frozen=True, slots=True)
class StoredState:
    """All that was stored when the daemon started.

    Args:
        vms: by uuid; none of them running, as far as the store knows.
        values: text by name.
    """

    vms: Mapping[str, Vm] = field(default_factory=dict)
    values: Mapping[str, str] = field(default_factory=dict)


class Store:
    """The file, behind one thread.

    Args:
        state_dir: is made (0700) if it is missing; the file in it is readable by its owner alone.
    """

    def __init__(self, state_dir: Path) -> None:
        self.path = state_dir / FILE_NAME
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="xcpmem-store")
        self._connection: sqlite3.Connection | None = None
        self._closed = False

    async def load(self) -> StoredState:
        """Open the file, making it if it is missing, and read all of it.

        Raises:
            ConfigError: it cannot be used: no permission, damaged, of a newer version, or another daemon
                has it.
        """
        return await self._call(self._load)

    async def save(
        self,
        vms: Iterable[Vm] = (),
        values: Mapping[str, str] | None = None,
        forget: Iterable[str] = (),
    ) -> None:
        """Write VM records and values; all are on disk when this returns, or none is.

        Args:
            vms: new or changed; live fields are left out.
            values: new or changed.
            forget: uuids of VMs that are to be no more.

        Raises:
            HostError: the disk refused; nothing was changed.
        """
        rows = [_row(vm) for vm in vms]
        items = list((values or {}).items())
        gone = [(uuid,) for uuid in forget]
        await self._call(lambda: self._save(rows, items, gone))

    async def close(self) -> None:
        """Let go of the file; once is enough, twice is harmless."""
        if not self._closed:
            self._closed = True
            await self._call(self._close)
            self._thread.shutdown()

    async def _call(self, work: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _load(self) -> StoredState:
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            self.path.chmod(0o600)
        except OSError as error:
            raise ConfigError(str(self.path), "", error.strerror or str(error)) from error
        try:
            self._connection = sqlite3.connect(self.path, timeout=LOCK_WAIT_S, isolation_level=None)
            return _read(self._prepare(self._connection), str(self.path))
        except sqlite3.Error as error:
            self._close()
            raise ConfigError(str(self.path), "", _explain(error), may_pass=_is_locked(error)) from error
        except ConfigError:
            self._close()
            raise

    def _prepare(self, connection: sqlite3.Connection) -> sqlite3.Connection:
        """Take the file for this daemon alone, check it, and make the tables of a new one."""
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        with connection:
            connection.execute("BEGIN EXCLUSIVE")
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
            if version > SCHEMA_VERSION:
                why = f"made by a newer xcpmem (schema {version}; this one knows {SCHEMA_VERSION})"
                raise ConfigError(str(self.path), "", why)
            if version == 0 and tables:
                raise ConfigError(str(self.path), "", "is a database, but not one of xcpmem")
            if version == 0:
                connection.execute(_vm_table())
                connection.execute("CREATE TABLE value (name TEXT PRIMARY KEY, text TEXT NOT NULL)")
            for since, column in _ADDED if version > 0 else ():
                if version < since:
                    connection.execute(f"ALTER TABLE vm ADD COLUMN {column}")
            if version != SCHEMA_VERSION:
                connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
            (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
            if verdict != "ok":
                raise ConfigError(str(self.path), "", f"is damaged: {' '.join(verdict.split())}")
        return connection

    def _save(
        self, rows: list[tuple[object, ...]], items: list[tuple[str, str]], gone: list[tuple[str]]
    ) -> None:
        if self._connection is None:
            raise HostError("state cannot be saved: the store is closed")
        try:
            with self._connection:
                self._connection.execute("BEGIN IMMEDIATE")
                self._connection.executemany(_SAVE_VM, rows)
                self._connection.executemany("INSERT OR REPLACE INTO value VALUES (?, ?)", items)
                self._connection.executemany("DELETE FROM vm WHERE uuid = ?", gone)
        except sqlite3.Error as error:
            raise HostError(f"state cannot be saved: {error}") from error

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _vm_table() -> str:
    """Declare the table from the dataclass, with the order law as SQLite's own check."""
    columns = [f"{f.name} {_COLUMN_TYPES[str(f.type)]} NOT NULL" for f in STORED_FIELDS]
    return (
        f"CREATE TABLE vm ({', '.join(columns)}, PRIMARY KEY (uuid), "
        "CHECK (memory_static_min <= memory_dynamic_min AND memory_dynamic_min <= memory_dynamic_max "
        "AND memory_dynamic_max <= memory_static_max))"
    )


def _row(vm: Vm) -> tuple[object, ...]:
    return tuple(
        json.dumps(dict(getattr(vm, name))) if name in _MAPS else getattr(vm, name) for name in _COLUMNS
    )


def _read(connection: sqlite3.Connection, where: str) -> StoredState:
    cursor = connection.execute("SELECT * FROM vm")
    names = [column[0] for column in cursor.description]
    vms = (_vm(dict(zip(names, row, strict=True)), where) for row in cursor)
    return StoredState(
        vms={vm.uuid: vm for vm in vms},
        values=dict(connection.execute("SELECT name, text FROM value")),
    )


def _vm(row: dict[str, object], where: str) -> Vm:
    """Make a VM of a row, which may have been edited by hand."""
    given: dict[str, object] = {}
    for stored in STORED_FIELDS:
        value = row.get(stored.name, MISSING)
        try:
            given[stored.name] = _value(stored.name, str(stored.type), value)
        except ValueError as error:
            raise ConfigError(where, f"vm {row.get('uuid')}: {stored.name}", str(error)) from error
    try:
        return Vm(**given)  # type: ignore[arg-type]
    except XcpmemError as error:
        raise ConfigError(where, f"vm {given['uuid']}", str(error)) from error


def _value(name: str, kind: str, value: object) -> object:
    if name in _MAPS and isinstance(value, str):
        loaded = json.loads(value)
        if isinstance(loaded, dict) and (
            kind == "Mapping[str, Any]" or all(isinstance(text, str) for text in loaded.values())
        ):
            return thaw(loaded)
    elif name in _BOOLEANS and value in {0, 1}:
        return bool(value)
    elif kind == "float" and isinstance(value, (int, float)):
        return float(value)
    elif type(value).__name__ == kind:
        return value
    raise ValueError(f"expected {kind}, found {value!r}")


def _is_locked(error: sqlite3.Error) -> bool:
    return "locked" in str(error)


def _explain(error: sqlite3.Error) -> str:
    if _is_locked(error):
        return "is in use by another xcpmemd"
    return f"is damaged or no database: {error}"
