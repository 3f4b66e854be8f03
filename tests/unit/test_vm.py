"""What was seen of a domain, laid over the record of its VM."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest

from tests.builders import uuid_of
from xcpmem.units import kib_to_bytes, mib_to_kib
from xcpmem.vm import Built, Live, Vm

GIB = kib_to_bytes(mib_to_kib(1024))
VM = Vm(
    uuid=uuid_of(1),
    name_label="web",
    memory_static_min=0,
    memory_static_max=4 * GIB,
    memory_dynamic_min=GIB,
    memory_dynamic_max=2 * GIB,
    memory_target=2 * GIB,
    other_config={"a": "b"},
)
LIVE = Live(7, "Running", GIB, GIB + 4096, 12.5, uncooperative=True, built=Built("pvh", 2, nested_virt=False))


def test_vm_of_a_domain_is_as_if_made_with_what_was_seen() -> None:
    laid = VM.with_live(LIVE, 3, {"task": "start"})
    assert laid == replace(VM, **LIVE._asdict(), version=3, current_operations={"task": "start"})
    assert vars(laid).keys() == {each.name for each in fields(Vm)}
    assert VM.domid == -1


@pytest.mark.parametrize(("image_bytes", "power_state"), [(-1, "Halted"), (GIB, "Suspended")])
def test_vm_without_a_domain_is_as_if_none_had_been_seen(image_bytes: int, power_state: str) -> None:
    stored = replace(VM, memory_suspended=image_bytes)
    laid = stored.with_live(LIVE, 3).with_live(None, 4)
    assert laid == replace(stored, power_state=power_state, memory_target=LIVE.memory_target, version=4)
