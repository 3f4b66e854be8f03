"""A dynamic range set over XenAPI: obeyed, shown in xenstore and metrics, and remembered."""

from __future__ import annotations

import stat
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from tests.e2e.clients import XenApi, Xenstore, logged_in, xenstore

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tests.e2e.programs import Daemon, Workshop

GIB = 1 << 30
GIB_KIB = 1 << 20
LESS = 3 * GIB - GIB // 4
"""A bit less than the 3 GiB that the guests have: reached in a quarter of a second."""

RATE_BYTES_S = GIB
"""How fast a guest of the quiet host balloons."""

LATENESS_S = 10.0
"""What a busy machine may add to anything."""

MIB = 1 << 20


def set_range(api: XenApi, name: str, minimum: int, maximum: int) -> None:
    """Set a range and wait until the guest has obeyed."""
    api.call("VM.set_memory_dynamic_range", api.ref(name), minimum, maximum)
    api.call("VM.wait_memory_target_live", api.ref(name))


@pytest.fixture
def narrowed(api: XenApi) -> Iterator[XenApi]:
    """The quiet host, to be put back at the end."""
    yield api
    set_range(api, "guest-1", GIB, 3 * GIB)


def test_narrower_range_is_obeyed_at_the_guests_own_speed(narrowed: XenApi, store: Xenstore) -> None:
    started_s = time.monotonic()
    set_range(narrowed, "guest-1", GIB, 2 * GIB)
    took_s = time.monotonic() - started_s
    assert 2 * GIB - MIB <= actual(narrowed) <= 2 * GIB + MIB
    own_s = GIB / RATE_BYTES_S
    assert own_s * 0.9 <= took_s <= own_s + LATENESS_S
    assert store.memory_kib(1) == {
        "dynamic-min": GIB_KIB,
        "dynamic-max": 2 * GIB_KIB,
        "target": 2 * GIB_KIB,
    }


def actual(api: XenApi) -> int:
    return int(api.call("VM_metrics.get_memory_actual", api.vm("guest-1")["metrics"]))


def test_others_are_left_as_they_are_by_a_neighbours_range(narrowed: XenApi, store: Xenstore) -> None:
    before = [store.memory_kib(domid) for domid in (2, 3, 4)]
    set_range(narrowed, "guest-1", GIB, LESS)
    assert [store.memory_kib(domid) for domid in (2, 3, 4)] == before


def test_metrics_follow_a_range(narrowed: XenApi, quiet: Daemon) -> None:
    before = quiet.series("xcpmem_domain_memory_actual_bytes")
    assert set(before) == {"1", "2", "3", "4"}
    assert before["1"] == pytest.approx(3 * GIB, abs=MIB)
    set_range(narrowed, "guest-1", GIB, LESS)
    after = quiet.series("xcpmem_domain_memory_actual_bytes")
    assert after["1"] == pytest.approx(LESS, abs=MIB)


def test_health_is_said_shortly_and_at_length(quiet: Daemon) -> None:
    assert quiet.fetch("/livez") == "ok"
    assert quiet.fetch("/readyz") == "ok"
    lines = quiet.fetch("/livez?verbose").splitlines()
    assert lines == ["[+]ring ok", "[+]ledger ok", "livez check passed"]
    lines = quiet.fetch("/readyz?verbose").splitlines()
    assert lines == ["[+]host ok", "[+]ring ok", "readyz check passed"]


@dataclass(frozen=True)
class Life:
    """What could be seen of a daemon before it was killed, or after it had started again."""

    vms: Mapping[str, Mapping[str, Any]]
    identities: tuple[str, ...]
    keys: Mapping[int, Mapping[str, int]]
    password: str
    password_mode: int


def look_at(daemon: Daemon, api: XenApi) -> Life:
    with xenstore(daemon.store) as store:
        path = daemon.state_dir / "root.password"
        return Life(
            vms={
                name: {key: vm[key] for key in ("uuid", "memory_dynamic_min", "memory_dynamic_max")}
                for name, vm in api.vms().items()
            },
            identities=tuple(
                api.call(f"{name}.get_uuid", ref)
                for name in ("pool", "host")
                for ref in api.call(f"{name}.get_all")
            ),
            keys={domid: store.memory_kib(domid) for domid in range(1, 5)},
            password=daemon.password,
            password_mode=stat.S_IMODE(path.stat().st_mode),
        )


@pytest.fixture(scope="module")
def lives(shared_shop: Workshop) -> tuple[Life, Life]:
    """A daemon whose limits were changed, killed with -9; and the next on the same state dir.

    The simulated host dies with its daemon, so the second one finds the scenario's limits in xenstore.
    """
    first = shared_shop.daemon(state="r")
    with logged_in(first) as api:
        set_range(api, "guest-1", GIB, LESS)
        set_range(api, "guest-2", LESS, LESS)
        before = look_at(first, api)
    first.kill()
    second = shared_shop.daemon(state="r")
    with logged_in(second) as api:
        for name in ("guest-1", "guest-2"):
            api.call("VM.wait_memory_target_live", api.ref(name))
        after = look_at(second, api)
    second.kill()
    return before, after


def test_limits_survive_kill_9_and_win_over_the_scenarios(lives: tuple[Life, Life]) -> None:
    before, after = lives
    assert after.vms["guest-1"]["memory_dynamic_max"] == str(LESS)
    assert after.vms["guest-2"]["memory_dynamic_min"] == str(LESS)
    assert after.vms == before.vms


def test_xenstore_says_the_same_after_kill_9(lives: tuple[Life, Life]) -> None:
    before, after = lives
    less_kib = LESS // 1024
    assert after.keys[2] == {"dynamic-min": less_kib, "dynamic-max": less_kib, "target": less_kib}
    assert after.keys == before.keys


def test_uuids_of_vms_host_and_pool_stay(lives: tuple[Life, Life], api: XenApi) -> None:
    before, after = lives
    assert len(before.identities) == 2
    assert after.identities == before.identities
    elsewhere = {name: vm["uuid"] for name, vm in api.vms().items()}
    assert elsewhere == {name: vm["uuid"] for name, vm in before.vms.items()}  # made from seed and domid


def test_password_stays(lives: tuple[Life, Life], quiet: Daemon) -> None:
    before, after = lives
    assert (after.password, after.password_mode) == (before.password, 0o600)
    assert quiet.password != after.password
