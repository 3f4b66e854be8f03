"""Where keys are in xenstore."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xcpmem.errors import InvalidValue
from xcpmem.xen import paths

if TYPE_CHECKING:
    from collections.abc import Callable

KEYS = {
    paths.target: "memory/target",
    paths.static_max: "memory/static-max",
    paths.dynamic_min: "memory/dynamic-min",
    paths.dynamic_max: "memory/dynamic-max",
    paths.videoram: "memory/videoram",
    paths.initial_reservation: "memory/initial-reservation",
    paths.reservation_id: "memory/reservation-id",
    paths.memory_offset: "memory/memory-offset",
    paths.uncooperative: "memory/uncooperative",
    paths.memory_meminfo: "memory/meminfo",
    paths.memory_swapinfo: "memory/swapinfo",
    paths.feature_balloon: "control/feature-balloon",
    paths.balloon_active: "control/balloon-active",
    paths.data_updated: "data/updated",
    paths.meminfo_free: "data/meminfo_free",
    paths.meminfo_total: "data/meminfo_total",
    paths.xcpmem_report: "data/xcpmem/1",
    paths.pv_addons_major_version: "attr/PVAddons/MajorVersion",
    paths.pv_addons_minor_version: "attr/PVAddons/MinorVersion",
    paths.control: "control",
    paths.data: "data",
    paths.vm: "vm",
    paths.name: "name",
    paths.domain_type: "domain-type",
}


@pytest.mark.parametrize(("key", "relative"), KEYS.items(), ids=KEYS.values())
def test_key_lies_in_its_domain_and_is_found_again_in_an_event(
    key: Callable[[int], str], relative: str
) -> None:
    assert key(17) == f"/local/domain/17/{relative}"
    assert paths.domain_key(key(17)) == (17, relative)
    assert paths.is_absolute_path(key(17))


@pytest.mark.parametrize("domid", [-1, 0x7FF0, 65535])
def test_domain_is_refused_when_the_number_is_no_real_domain(domid: int) -> None:
    with pytest.raises(InvalidValue, match="domid"):
        paths.domain(domid)


def test_domain_key_is_empty_for_the_directory_itself() -> None:
    assert paths.domain_key(paths.domain(0)) == (0, "")


@pytest.mark.parametrize(
    "path",
    [
        "/local/domain",
        "/local/domain/",
        "/local/domain/x/name",
        "/local/domain/01/name",
        "/local/domain/-1/name",
        "/local/domain/\u0661/name",
        "/local/domain/32752",
        "/local/domain/123456/name",
        "/vm/1/name",
        "@releaseDomain",
        "",
    ],
)
def test_domain_key_is_none_outside_all_domains(path: str) -> None:
    assert paths.domain_key(path) is None


@settings(deadline=None)
@given(st.text())
def test_domain_key_takes_any_text(text: str) -> None:
    found = paths.domain_key(f"/local/domain/{text}")
    assert found is None or 0 <= found[0] < 0x7FF0


def test_reservations_lie_below_xcpmem_by_owner() -> None:
    assert paths.reservations() == "/xcpmem/reservations"
    assert paths.reservations_of("root") == "/xcpmem/reservations/root"
    assert paths.reservation("root", "5b0f") == "/xcpmem/reservations/root/5b0f"
    assert paths.in_transfer("root", "5b0f") == "/xcpmem/reservations/root/5b0f/in-transfer"


def test_reservations_of_squeezed_lie_where_squeezed_keeps_them() -> None:
    assert paths.squeezed_reservations() == "/squeezed/state"
    assert paths.squeezed_reservations_of("xenopsd") == "/squeezed/state/xenopsd"
    assert paths.squeezed_reservation("xenopsd", "5b0f") == "/squeezed/state/xenopsd/5b0f"
    assert paths.squeezed_in_transfer("xenopsd", "5b0f") == "/squeezed/state/xenopsd/5b0f/in-transfer"


@pytest.mark.parametrize("name", ["", "a/b", "OpaqueRef:5b0f", "a b", "..", "\u00e4", "a\n"])
def test_reservation_is_refused_when_owner_or_id_is_no_node_name(name: str) -> None:
    with pytest.raises(InvalidValue, match="owner"):
        paths.reservation(name, "5b0f")
    with pytest.raises(InvalidValue, match="reservation"):
        paths.squeezed_reservation("xenopsd", name)


@pytest.mark.parametrize("path", ["/", "/a", "/a/b-c_d@1", "/" + "a" * 3071])
def test_absolute_path_is_known(path: str) -> None:
    assert paths.is_absolute_path(path)


@pytest.mark.parametrize(
    "path",
    ["", "a", "//", "/a/", "/a//b", "/a b", "/a.b", "/\u00e4", "/a\n", "/" + "a" * 3072, "@releaseDomain"],
)
def test_absolute_path_is_refused_as_xenstored_would(path: str) -> None:
    assert not paths.is_absolute_path(path)


@pytest.mark.parametrize(
    ("path", "relative"),
    [
        ("data/updated", True),
        ("a" * 2048, True),
        ("a" * 2049, False),
        ("/a", False),
        ("@a", False),
        ("a/", False),
    ],
)
def test_relative_path_is_told_from_others(path: str, relative: bool) -> None:
    assert paths.is_relative_path(path) is relative


@pytest.mark.parametrize(
    ("path", "special"),
    [
        (paths.RELEASE_DOMAIN, True),
        (paths.INTRODUCE_DOMAIN, True),
        ("@releaseDomain/3", True),
        ("@", False),
        ("@a/", False),
        ("/a", False),
        ("a", False),
    ],
)
def test_special_watch_is_told_from_paths(path: str, special: bool) -> None:
    assert paths.is_special_watch(path) is special


@pytest.mark.parametrize(("path", "parent"), [("/a/b", "/a"), ("/a", "/"), ("/", "/")])
def test_parent_is_the_directory_above(path: str, parent: str) -> None:
    assert paths.parent(path) == parent
