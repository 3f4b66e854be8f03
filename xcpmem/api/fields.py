"""What the record of each kind of object says: pure functions from what is known to XenAPI's fields.

Only the fields that mean something here are spelled out; `complete` adds the datamodel's defaults for the
rest and refuses what is not of the declared type, so that the codecs can write every record blindly.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Final

from xcpmem import __version__
from xcpmem.api.datamodel import load_datamodel
from xcpmem.api.marshal import make_check
from xcpmem.api.newvm import annotated
from xcpmem.api.typenames import EPOCH
from xcpmem.api.values import Record
from xcpmem.errors import ApiError
from xcpmem.law import (
    CHANGING_DYNAMIC_RANGE,
    CHANGING_SHADOW_MEMORY,
    CHANGING_STATIC_RANGE,
    CLEAN_REBOOT,
    CLEAN_SHUTDOWN,
    CLONE,
    COPY,
    DESTROY,
    HARD_REBOOT,
    HARD_SHUTDOWN,
    MAKE_INTO_TEMPLATE,
    PAUSE,
    POOL_MIGRATE,
    PROVISION,
    RESUME,
    RESUME_ON,
    SHUTDOWN,
    START,
    START_ON,
    SUSPEND,
    UNPAUSE,
    check_operation,
)
from xcpmem.refs import NULL_REF, named_uuid, opaque_ref

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Mapping, Sequence

    from xcpmem.api.sessions import Session
    from xcpmem.api.task import Task
    from xcpmem.law import Operation
    from xcpmem.vm import HostFacts, Vm

# XenServer 8's version of the API: clients turn to JSON-RPC 2.0 from 2.8 on, and know no minor beyond 23.
API_VERSION_MAJOR: Final = 2
API_VERSION_MINOR: Final = 21
# The Go SDK refuses to log in where "xapi" is missing.
_SOFTWARE_VERSION: Final[Mapping[str, str]] = {
    "product_brand": "xcpmem",
    "product_version": __version__,
    "xapi": f"{API_VERSION_MAJOR}.{API_VERSION_MINOR}",
    "xen": "",
}
# Of the operations that are served, those that xapi ever lists as allowed.
_LISTED_OPERATIONS: Final = (
    *(START, START_ON, PAUSE, UNPAUSE, CLEAN_SHUTDOWN, CLEAN_REBOOT, HARD_SHUTDOWN, HARD_REBOOT, SHUTDOWN),
    *(SUSPEND, RESUME, RESUME_ON, POOL_MIGRATE),
    *(COPY, CLONE, DESTROY, PROVISION, MAKE_INTO_TEMPLATE),
    *(CHANGING_DYNAMIC_RANGE, CHANGING_STATIC_RANGE, CHANGING_SHADOW_MEMORY),
)

# What VMs are given where nobody says otherwise, as xapi's own templates are.
_VM_HABITS: Final[Mapping[str, object]] = {
    "user_version": 1,
    "actions_after_reboot": "restart",
    "actions_after_crash": "restart",
    "has_vendor_device": False,
}

_NAMES_KEPT: Final = 8192

Fields = dict[str, object]


@dataclass(frozen=True, slots=True)
class _Form:
    """What a record of a class starts from: all defaults, and a check for each field."""

    defaults: Fields
    blank: Record
    checks: Mapping[str, Callable[[object], bool]]


@cache
def _form(class_name: str) -> _Form:
    declared = load_datamodel().classes[class_name].fields
    defaults = {name: field.default for name, field in declared.items()}
    return _Form(
        defaults,
        Record(defaults),
        {name: make_check(field.type) for name, field in declared.items()},
    )


def complete(class_name: str, known: Mapping[str, object]) -> Record:
    """Make a record of the fields that are known and the defaults of all others.

    Raises:
        TypeError: a field that the class does not have or that holds another type; a bug of this program.
    """
    form = _form(class_name)
    for name, value in known.items():
        if name not in form.checks or not form.checks[name](value):
            raise TypeError(f"{class_name}.{name} cannot be {value!r}")
    return Record({**form.defaults, **known}, form.blank)


def _fitting(class_name: str, written: Mapping[str, object], names: Container[str]) -> Fields:
    """Take from what clients wrote what a record can hold; a reference that is none is null, as in xapi."""
    checks = _form(class_name).checks
    return {
        name: value
        for name, value in written.items()
        if name in names and name in checks and checks[name](value)
    }


@lru_cache(maxsize=_NAMES_KEPT)
def metrics_uuid(class_name: str, uuid: str) -> str:
    """Name the metrics object of a VM or host: the same for ever, without being kept anywhere.

    Args:
        class_name: ``VM_metrics``, ``VM_guest_metrics`` or ``host_metrics``.
        uuid: of the VM or host.
    """
    return named_uuid(class_name, uuid)


@lru_cache(maxsize=_NAMES_KEPT)
def metrics_ref(class_name: str, uuid: str) -> str:
    """Give the reference of the metrics object of a VM or host; see `metrics_uuid`."""
    return opaque_ref(class_name, metrics_uuid(class_name, uuid))


def has_guest_metrics(vm: Vm) -> bool:
    """Tell whether there is a guest that could report anything."""
    return vm.is_resident and not vm.is_control_domain


def vm_fields(vm: Vm, host_ref: str) -> Fields:
    """Say what is known of a VM; sizes are bytes already."""
    guest_metrics = metrics_ref("VM_guest_metrics", vm.uuid) if has_guest_metrics(vm) else NULL_REF
    return {
        **_VM_HABITS,
        **_fitting("VM", vm.annotations, annotated()),
        "uuid": vm.uuid,
        "allowed_operations": tuple(op.name for op in _LISTED_OPERATIONS if _is_allowed(vm, op)),
        "current_operations": vm.current_operations,
        "name_label": vm.name_label,
        "name_description": vm.name_description,
        "power_state": vm.power_state,
        "is_a_template": vm.is_a_template,
        "resident_on": host_ref if vm.is_resident else NULL_REF,
        "scheduled_to_be_resident_on": host_ref if vm.is_scheduled else NULL_REF,
        "memory_overhead": vm.memory_overhead,
        "memory_target": vm.memory_target,
        "memory_static_max": vm.memory_static_max,
        "memory_dynamic_max": vm.memory_dynamic_max,
        "memory_dynamic_min": vm.memory_dynamic_min,
        "memory_static_min": vm.memory_static_min,
        "VCPUs_max": vm.VCPUs_max,
        "VCPUs_at_startup": vm.VCPUs_at_startup,
        "HVM_shadow_multiplier": vm.HVM_shadow_multiplier,
        "platform": vm.platform,
        "other_config": vm.other_config,
        "domid": vm.domid,
        "is_control_domain": vm.is_control_domain,
        "metrics": metrics_ref("VM_metrics", vm.uuid),
        "guest_metrics": guest_metrics,
        "is_a_snapshot": vm.is_a_snapshot,
        "blocked_operations": vm.blocked_operations,
        "requires_reboot": vm.requires_reboot,
        "domain_type": vm.domain_type,
    }


def _is_allowed(vm: Vm, operation: Operation) -> bool:
    try:
        check_operation(vm, operation)
    except ApiError:
        return False
    return True


def vm_metrics_fields(vm: Vm) -> Fields:
    """Say what is measured of a VM; ``memory_actual`` is 0 while it is not known, as in xapi."""
    return {
        "uuid": metrics_uuid("VM_metrics", vm.uuid),
        "memory_actual": vm.memory_actual,
        "VCPUs_number": vm.as_built.vcpus if vm.is_resident else 0,
        "start_time": datetime.fromtimestamp(vm.start_time_s, UTC) if vm.is_resident else EPOCH,
        "hvm": vm.is_resident and vm.as_built.domain_type == "hvm",
        "nested_virt": vm.is_resident and vm.uses_nested_virt,
        "current_domain_type": vm.as_built.domain_type if vm.is_resident else "unspecified",
    }


def vm_guest_metrics_fields(vm: Vm) -> Fields:
    """Say what a guest reports, which is nothing yet; xapi's ``memory`` is empty at all times."""
    return {
        "uuid": metrics_uuid("VM_guest_metrics", vm.uuid),
        "live": vm.is_resident,
    }


def host_fields(host: HostFacts, resident_vms: Sequence[Vm]) -> Fields:
    """Say what is known of the host.

    Args:
        host: its facts, sizes in bytes.
        resident_vms: the VMs that have a domain, the control domain among them.
    """
    control_domain = next((vm.ref for vm in resident_vms if vm.is_control_domain), NULL_REF)
    return {
        "uuid": host.uuid,
        "name_label": host.name_label,
        "memory_overhead": host.memory_overhead,
        "API_version_major": API_VERSION_MAJOR,
        "API_version_minor": API_VERSION_MINOR,
        "API_version_vendor": "XenSource",
        "enabled": True,
        "software_version": _SOFTWARE_VERSION,
        "resident_VMs": tuple(vm.ref for vm in resident_vms),
        "cpu_info": {"cpu_count": str(host.cpu_count)},
        "hostname": host.hostname,
        "address": host.address,
        "metrics": metrics_ref("host_metrics", host.uuid),
        "control_domain": control_domain,
        **_fitting("host", host.annotations, host.annotations),
    }


def host_metrics_fields(host: HostFacts) -> Fields:
    """Say what is measured of the host; sizes bytes."""
    return {
        "uuid": metrics_uuid("host_metrics", host.uuid),
        "memory_total": host.memory_total,
        "memory_free": host.memory_free,
        "live": True,
    }


def pool_fields(uuid: str, master: str, annotations: Mapping[str, object]) -> Fields:
    """Say what is known of the pool; nothing is restricted, ballooning least of all."""
    return {
        "uuid": uuid,
        "master": master,
        "restrictions": {"restrict_dmc": "false"},
        **_fitting("pool", annotations, annotations),
    }


def subject_ref(uname: str) -> str:
    """Give the reference of the subject that a user is."""
    return opaque_ref("subject", named_uuid("subject", uname))


def session_fields(session: Session, host_ref: str) -> Fields:
    """Say what is known of a session; as in xapi, a local superuser's permissions are not listed.

    The role stands among the permissions: SDKs find the user's role by that.
    """
    is_root = session.is_local_superuser
    permitted = () if is_root else (*load_datamodel().permissions_of(session.role), session.role)
    return {
        "uuid": session.uuid,
        "this_host": host_ref,
        "last_active": session.last_active,
        "is_local_superuser": is_root,
        "validation_time": session.login_time,
        "auth_user_sid": "" if is_root else session.uname,
        "auth_user_name": session.uname,
        "subject": NULL_REF if is_root else subject_ref(session.uname),
        "rbac_permissions": permitted,
        "originator": session.originator,
    }


def task_fields(task: Task, host_ref: str) -> Fields:
    """Say what is known of a task; xapi leaves ``type`` as it is, whatever the result."""
    return {
        "uuid": task.uuid,
        "name_label": task.name_label,
        "name_description": task.name_description,
        "allowed_operations": ("cancel",) if task.is_cancellable and not task.is_finished else (),
        "current_operations": task.current_operations,
        "created": task.created,
        "finished": task.finished,
        "status": task.status,
        "resident_on": host_ref,
        "progress": task.progress,
        "type": "<none/>",
        "result": task.result,
        "error_info": task.error_info,
        "other_config": task.other_config,
    }
