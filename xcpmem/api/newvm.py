"""The record that ``VM.create`` is given becomes a halted VM."""

from __future__ import annotations

from dataclasses import fields
from functools import cache
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

from xcpmem.api.datamodel import load_datamodel
from xcpmem.engine.accounting import DOMAIN_TYPES
from xcpmem.errors import FieldType
from xcpmem.law import BIOS_ORDER, domain_type_for
from xcpmem.vm import Vm

if TYPE_CHECKING:
    from collections.abc import Mapping

_REQUIRED: Final = (
    "name_label",
    "memory_static_max",
    "memory_dynamic_max",
    "memory_dynamic_min",
    "memory_static_min",
)
_OWN: Final = frozenset(field.name for field in fields(Vm))
# What xapi takes from nobody, or from an image that there is none of.
_IGNORED: Final = frozenset({"power_state", "suspend_VDI", "last_booted_record", "last_boot_CPU_flags"})


def make_vm(given: Mapping[str, Any]) -> Vm:
    """Make a VM of the constructor's arguments.

    Args:
        given: typed, by XenAPI's names; those that an object cannot be made with left out.

    Returns:
        A halted VM with a uuid of its own, whose overhead is not counted yet.

    Raises:
        FieldType: one is missing without which there is no VM.
        ConstraintOrder: the memory limits are out of order.
        InvalidValue: another field is out of its range.
    """
    for name in _REQUIRED:
        if name not in given:
            raise FieldType(name)
    own = {name: value for name, value in given.items() if name in _OWN - _IGNORED}
    own.setdefault("memory_target", given["memory_dynamic_min"])
    own.setdefault("VCPUs_at_startup", min(1, given.get("VCPUs_max", 1)))
    if own.get("domain_type") not in DOMAIN_TYPES:
        own["domain_type"] = domain_type_for(given.get("HVM_boot_policy", ""))
    annotations = {name: value for name, value in given.items() if name in annotated() and value is not None}
    annotations["HVM_boot_policy"] = (
        (given.get("HVM_boot_policy") or BIOS_ORDER) if own["domain_type"] == "hvm" else ""
    )
    return Vm(uuid=str(uuid4()), annotations=annotations, **own)


@cache
def annotated() -> frozenset[str]:
    """List the fields of VMs that are kept as they are given and mean nothing here."""
    declared = load_datamodel().classes["VM"].fields.values()
    return frozenset(field.name for field in declared if field.is_constructed) - _OWN - _IGNORED
