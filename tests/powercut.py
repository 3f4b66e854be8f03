"""Power cuts under the store: what a disk may hold that lost its power between two acknowledgements.

A disk keeps what was synced. Of what was written since, it may keep any sectors and lose the others, in any
order. So every save is bracketed by copies of the files, and images are made that take each sector that
differs from the older or the newer copy at random. Three facts of SQLite's write-ahead log are held to, since
it syncs in that order: a page of the database is written only when the log that holds it is synced; the log
begins anew only when the database is; and then its new header is synced before anything behind it (without
which this program finds damaged databases within some hundred cuts). A recorded run::

    python -m tests.powercut --saves 300 --images 40
"""

from __future__ import annotations

import argparse
import asyncio
import random
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from xcpmem.store import FILE_NAME, Store

SECTOR_BYTES: Final = 512
LOG_HEADER_BYTES: Final = 32
CHECKPOINT_PAGES: Final = 12
"""The log is copied back into the database this often, so that a short run has many of the risky moments."""

NAMES: Final = 24
"""Named values that are written over and over."""


@dataclass(frozen=True)
class Disk:
    """The bytes of the store's files at one moment."""

    database: bytes
    log: bytes

    @classmethod
    def of(cls, folder: Path) -> Disk:
        """Copy them."""
        log = folder / f"{FILE_NAME}-wal"
        return cls((folder / FILE_NAME).read_bytes(), log.read_bytes() if log.exists() else b"")

    def put(self, folder: Path) -> None:
        """Make a state directory of them."""
        folder.mkdir()
        (folder / FILE_NAME).write_bytes(self.database)
        (folder / f"{FILE_NAME}-wal").write_bytes(self.log)


def cut(before: Disk, after: Disk, rng: random.Random) -> Disk:
    """Lose the power somewhere between two moments that were both synced."""
    if rng.random() < 0.5:  # while the log is written: the database is still the old one
        return Disk(before.database, _torn_log(before.log, after.log, rng))
    return Disk(_torn(before.database, after.database, rng), after.log)


def _torn_log(old: bytes, new: bytes, rng: random.Random) -> bytes:
    """Tear the log; where it begins anew, its header comes first and alone."""
    old_header, new_header = old[:LOG_HEADER_BYTES], new[:LOG_HEADER_BYTES]
    if not old or old_header == new_header:
        return _torn(old, new, rng)
    if rng.random() < 0.2:
        return rng.choice((old_header, new_header)) + old[LOG_HEADER_BYTES:]
    return new_header + _torn(old, new, rng)[LOG_HEADER_BYTES:]


def _torn(old: bytes, new: bytes, rng: random.Random) -> bytes:
    """Take each sector from either; of what was added, keep a part, with sectors of it missing."""
    length = rng.randint(min(len(old), len(new)), max(len(old), len(new)))
    chance = rng.choice((0.0, 0.1, 0.5, 0.9, 1.0))
    made = bytearray()
    for start in range(0, length, SECTOR_BYTES):
        source = new if rng.random() < chance else old
        made += source[start : start + SECTOR_BYTES].ljust(SECTOR_BYTES, b"\0")
    return bytes(made[:length])


@dataclass(frozen=True)
class Tally:
    """What came of many power cuts; ``newer`` images hold a save already that was not acknowledged yet."""

    saves: int
    images: int
    newer: int
    checkpoints: int
    lost: tuple[str, ...]


async def cut_again_and_again(folder: Path, saves: int, images: int, seed: int) -> Tally:
    """Save so often, and after each lose the power so many times; each image must hold all acknowledged."""
    rng = random.Random(seed)  # noqa: S311 -- no secret
    store = Store(folder / "live")
    await store.load()
    await store._call(lambda: _checkpoint_often(store))
    acknowledged: dict[str, str] = {}
    lost: list[str] = []
    checkpoints, made, newer = 0, 0, 0
    before = Disk.of(folder / "live")
    for number in range(saves):
        values = {f"name-{rng.randrange(NAMES)}": f"{number}-{'x' * rng.randrange(3000)}" for _ in range(2)}
        await store.save(values=values)
        after = Disk.of(folder / "live")
        checkpoints += after.database != before.database
        wanted = (acknowledged, acknowledged | values)
        for _ in range(images):
            made += 1
            found = await _recover(cut(before, after, rng), folder / "image")
            newer += found == wanted[1]
            if found not in wanted:
                lost.append(f"save {number}: {_first_difference(found, wanted[0])}")
        acknowledged = wanted[1]
        found = await _recover(after, folder / "image")
        if found != acknowledged:
            lost.append(f"save {number} was acknowledged: {_first_difference(found, acknowledged)}")
        before = after
    await store.close()
    return Tally(saves, made, newer, checkpoints, tuple(lost))


def _checkpoint_often(store: Store) -> None:
    assert store._connection is not None
    store._connection.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}").close()


async def _recover(disk: Disk, folder: Path) -> dict[str, str]:
    """Start a daemon's store on an image; return the values that it finds."""
    disk.put(folder)
    store = Store(folder)
    try:
        return dict((await store.load()).values)
    finally:
        await store.close()
        shutil.rmtree(folder)


def _first_difference(found: dict[str, str], wanted: dict[str, str]) -> str:
    name = min(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name))
    return f"{name} is {found.get(name, 'nothing')[:12]}, not {wanted.get(name, 'nothing')[:12]}"


def main() -> int:
    """Cut the power and tell what came of it; 0 if nothing that was acknowledged was lost."""
    parser = argparse.ArgumentParser(prog="python -m tests.powercut", description=main.__doc__)
    parser.add_argument("--saves", type=int, default=300)
    parser.add_argument("--images", type=int, default=40, help="power cuts between each two saves")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    began_s = time.monotonic()
    with TemporaryDirectory(prefix="xp-") as name:
        tally = asyncio.run(cut_again_and_again(Path(name), options.saves, options.images, options.seed))
    took_s = time.monotonic() - began_s
    sys.stdout.write(
        f"{tally.images} power cuts around {tally.saves} saves with {tally.checkpoints} checkpoints "
        f"in {took_s:.0f} s: {len(tally.lost)} lost something\n"
    )
    sys.stdout.write("".join(f"{line}\n" for line in tally.lost[:20]))
    return 1 if tally.lost else 0


if __name__ == "__main__":
    sys.exit(main())
