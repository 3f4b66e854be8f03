"""What is stored comes back, whatever happened in between, and a file that is not ours is refused."""

from __future__ import annotations

import asyncio
import sqlite3
import stat
import sys
from typing import TYPE_CHECKING

import pytest

from xcpmem.errors import ConfigError, HostError
from xcpmem.store import SCHEMA_VERSION, Store
from xcpmem.vm import Live, Vm

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

GIB = 2**30


def make_vm(uuid: str = "0c0ffee0-0000-4000-8000-000000000001", **changes: object) -> Vm:
    given: dict[str, object] = {
        "uuid": uuid,
        "name_label": "web1",
        "memory_static_min": 0,
        "memory_static_max": 4 * GIB,
        "memory_dynamic_min": GIB,
        "memory_dynamic_max": 4 * GIB,
        "memory_target": GIB,
    }
    return Vm(**(given | changes))  # type: ignore[arg-type]


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    store = Store(tmp_path)
    await store.load()
    yield store
    await store.close()


async def reload(store: Store) -> dict[str, Vm]:
    await store.close()
    again = Store(store.path.parent)
    try:
        return dict((await again.load()).vms)
    finally:
        await again.close()


async def test_store_starts_empty(tmp_path: Path) -> None:
    store = Store(tmp_path / "new" / "state")
    state = await store.load()
    await store.close()
    assert (dict(state.vms), dict(state.values)) == ({}, {})


async def test_store_keeps_its_file_to_its_owner(tmp_path: Path) -> None:
    store = Store(tmp_path / "state")
    await store.load()
    await store.save([make_vm()])
    assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "state").iterdir()} == {0o600}
    await store.close()


async def test_store_narrows_the_mode_of_a_file_that_others_could_read(tmp_path: Path) -> None:
    (tmp_path / "state.db").touch(mode=0o644)
    store = Store(tmp_path)
    await store.load()
    assert stat.S_IMODE(store.path.stat().st_mode) == 0o600
    await store.close()


async def test_vm_comes_back_as_it_was_saved(store: Store) -> None:
    vm = make_vm(
        name_label="wéb 'one'; DROP TABLE vm",
        name_description="line\nline",
        memory_static_min=-5,
        memory_overhead=72351744,
        HVM_shadow_multiplier=1.2,
        VCPUs_max=8,
        VCPUs_at_startup=2,
        domain_type="pvh",
        is_control_domain=True,
        other_config={"a": "b", "ü": ""},
        platform={"nested-virt": "true"},
        blocked_operations={"changing_dynamic_range": "no"},
        requires_reboot=True,
    )
    await store.save([vm])
    assert await reload(store) == {vm.uuid: vm}


async def test_vm_comes_back_halted_whatever_its_domain_did(store: Store) -> None:
    live = Live(domid=7, power_state="Running", memory_target=GIB, memory_actual=GIB, start_time_s=5.0)
    vm = make_vm().with_live(live, version=9)
    await store.save([vm])
    assert await reload(store) == {vm.uuid: make_vm()}


async def test_later_save_replaces_the_earlier(store: Store) -> None:
    await store.save([make_vm(), make_vm("other")], {"pool": "x"})
    await store.save([make_vm(name_label="web2")], {"pool": "y"})
    vms = await reload(store)
    assert {vm.uuid: vm.name_label for vm in vms.values()} == {make_vm().uuid: "web2", "other": "web1"}


async def test_values_come_back(tmp_path: Path) -> None:
    store = Store(tmp_path)
    await store.load()
    await store.save(values={"pool": "x", "policy": "proportional"})
    await store.close()
    again = Store(tmp_path)
    assert dict((await again.load()).values) == {"pool": "x", "policy": "proportional"}
    await again.close()


async def test_acknowledged_save_survives_a_kill(tmp_path: Path) -> None:
    program = """
import asyncio, os, signal, sys
from pathlib import Path
from xcpmem.store import Store
async def main():
    store = Store(Path(sys.argv[1]))
    await store.load()
    await store.save(values={"acknowledged": "yes"})
    os.kill(os.getpid(), signal.SIGKILL)
asyncio.run(main())
"""
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", program, str(tmp_path))
    async with asyncio.timeout(30):
        assert await process.wait() == -9
    store = Store(tmp_path)
    assert (await store.load()).values["acknowledged"] == "yes"
    await store.close()


async def test_save_waits_for_the_disk(store: Store) -> None:
    def ask() -> list[object]:
        assert store._connection is not None
        pragmas = ("journal_mode", "synchronous", "locking_mode")
        return [store._connection.execute(f"PRAGMA {pragma}").fetchone()[0] for pragma in pragmas]

    full = 2
    assert await store._call(ask) == ["wal", full, "exclusive"]


async def test_save_of_several_is_all_or_nothing(store: Store) -> None:
    await store.save([make_vm()])
    with pytest.raises(HostError, match="state cannot be saved"):
        await store.save([make_vm(name_label="web2")], {"pool": None})  # type: ignore[dict-item]
    assert (await reload(store))[make_vm().uuid].name_label == "web1"


async def test_save_fails_in_words_when_the_store_is_closed(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(HostError, match="closed"):
        await store.save([make_vm()])
    await store.close()


async def test_store_refuses_a_second_daemon(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xcpmem.store.LOCK_WAIT_S", 0.0)
    second = Store(store.path.parent)
    with pytest.raises(ConfigError, match="is in use by another xcpmemd"):
        await second.load()
    await second.close()


async def refuse(tmp_path: Path) -> ConfigError:
    store = Store(tmp_path)
    with pytest.raises(ConfigError) as caught:
        await store.load()
    await store.close()
    assert str(caught.value).startswith(str(tmp_path / "state.db"))
    assert "\n" not in str(caught.value)
    return caught.value


async def test_store_refuses_a_file_of_a_newer_version(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "state.db")
    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    connection.close()
    assert "newer" in (await refuse(tmp_path)).why


async def test_store_refuses_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "state.db").write_bytes(b"hello" * 1000)
    assert "damaged or no database" in (await refuse(tmp_path)).why


async def test_store_refuses_a_database_of_somebody_else(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "state.db")
    connection.execute("CREATE TABLE theirs (x)")
    connection.close()
    assert "not one of xcpmem" in (await refuse(tmp_path)).why


async def test_store_refuses_a_damaged_file(tmp_path: Path) -> None:
    store = Store(tmp_path)
    await store.load()
    await store.save([make_vm(f"vm-{number}", name_description="x" * 1000) for number in range(100)])
    await store.close()
    content = bytearray((tmp_path / "state.db").read_bytes())
    content[4096 * 3 : 4096 * 6] = b"\xff" * 4096 * 3
    (tmp_path / "state.db").write_bytes(content)
    assert "damaged" in (await refuse(tmp_path)).why


@pytest.mark.parametrize(
    ("edit", "why"),
    [
        ("UPDATE vm SET other_config = 'x'", "other_config"),
        ("UPDATE vm SET other_config = '[1]'", "other_config"),
        ("UPDATE vm SET VCPUs_max = 'many'", "VCPUs_max"),
        ("UPDATE vm SET is_a_template = 2", "is_a_template"),
        ("UPDATE vm SET domain_type = 'lguest'", "domain_type"),
        ("UPDATE vm SET HVM_shadow_multiplier = 'big'", "HVM_shadow_multiplier"),
        ("ALTER TABLE vm DROP COLUMN platform", "platform"),
    ],
)
async def test_store_names_the_vm_and_field_that_somebody_spoilt(tmp_path: Path, edit: str, why: str) -> None:
    store = Store(tmp_path)
    await store.load()
    await store.save([make_vm()])
    await store.close()
    connection = sqlite3.connect(tmp_path / "state.db")
    connection.execute(edit)
    connection.commit()
    connection.close()
    text = str(await refuse(tmp_path))
    assert why in text
    assert make_vm().uuid in text


async def test_file_itself_refuses_limits_out_of_order(tmp_path: Path) -> None:
    store = Store(tmp_path)
    await store.load()
    await store.save([make_vm()])
    await store.close()
    connection = sqlite3.connect(tmp_path / "state.db")
    with pytest.raises(sqlite3.IntegrityError):
        connection.execute("UPDATE vm SET memory_dynamic_min = memory_static_max + 1")
    connection.close()


async def test_store_names_the_path_when_it_may_not_write(tmp_path: Path) -> None:
    (tmp_path / "state.db").mkdir()
    assert "directory" in (await refuse(tmp_path)).why


async def test_annotations_come_back_with_their_types(store: Store) -> None:
    vm = make_vm(annotations={"tags": ("a", "b"), "user_version": 3, "PV_args": "quiet", "NVRAM": {"k": "v"}})
    await store.save([vm])
    assert await reload(store) == {vm.uuid: vm}


async def test_vm_that_is_to_be_forgotten_is_gone(store: Store) -> None:
    await store.save([make_vm(), make_vm("other")])
    await store.save([make_vm(name_label="web2")], forget=["other"])
    assert {vm.uuid: vm.name_label for vm in (await reload(store)).values()} == {make_vm().uuid: "web2"}


async def test_file_of_the_second_schema_is_brought_up_to_date(store: Store) -> None:
    await store.save([make_vm(annotations={"PV_args": "quiet"})])
    await store.close()
    connection = sqlite3.connect(store.path)
    connection.execute("ALTER TABLE vm DROP COLUMN memory_suspended")
    connection.execute("PRAGMA user_version = 2")
    connection.close()
    assert await reload(store) == {make_vm().uuid: make_vm(annotations={"PV_args": "quiet"})}


async def test_file_of_the_first_schema_is_brought_up_to_date(store: Store) -> None:
    await store.save([make_vm()])
    await store.close()
    connection = sqlite3.connect(store.path)
    connection.execute("ALTER TABLE vm DROP COLUMN annotations")
    connection.execute("ALTER TABLE vm DROP COLUMN memory_suspended")
    connection.execute("PRAGMA user_version = 1")
    connection.close()
    assert await reload(store) == {make_vm().uuid: make_vm()}
    connection = sqlite3.connect(store.path)
    assert connection.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)
    connection.close()
