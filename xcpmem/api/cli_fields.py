"""The fields of the command line's records as data: VM, host, pool and task, in the order `xe` lists them.

A row says what a field is called, which XenAPI field (or message) gives its value, how the value is shown
and how it is set. The rows follow the record definitions of xapi's ``ocaml/xapi-cli-server/records.ml``.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

NOT_IN_DATABASE: Final = "<not in database>"
UNKNOWN_TIME: Final = "<unknown time>"
EXPENSIVE: Final = "<expensive field>"
INVALID_REFERENCE: Final = "<invalid reference>"


class Access(StrEnum):
    """What may be done with a field, as the label in a listing says it: S for sets, M for maps."""

    RO = " RO"
    RW = " RW"
    SRO = "SRO"
    SRW = "SRW"
    MRO = "MRO"
    MRW = "MRW"


class Form(StrEnum):
    """How a value is shown where its type alone does not tell."""

    PLAIN = "by its type"
    LOWER = "in small letters"
    DASHES = "with dashes for underscores"
    SENTENCE = "with a capital and blanks for underscores"
    LIVE = "0 while no domain stands behind the VM"
    QUOTED = "in quotes"
    TRISTATE = "yes and no as true and false"
    COMMAS = "members of a set behind commas"
    OPERATIONS = "the values of a map from tasks to operations"


class Input(StrEnum):
    """How the text for a field that can be set is read."""

    TEXT = "text"
    SIZE = "a size with or without suffix"
    INT = "an integer"
    FLOAT = "a float"
    BOOL = "true or false"
    WORD = "a word in letters of any size, with dashes or underscores"
    UUID = "the uuid of the object referred to, or nothing"


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a record.

    Args:
        name: as typed and shown.
        path: the XenAPI field, in the record that ``within`` refers to; for a called field the one that is
            filtered or set.
        access: the label, and whether it can be set.
        within: the reference field of the record that leads to the record with the value: ``metrics``,
            ``guest_metrics`` or nothing for the record itself.
        refers_to: the class of the references in it, empty if it holds none.
        form: how it is shown.
        reads: how a new value is read.
        call: the message that computes the value from the object's reference, instead of a field.
        absent: what is shown where there is no record to look into.
        is_expensive: a listing shows a placeholder.
        is_hidden: shown only if it is asked for by name.
        is_deprecated: the label says so.
    """

    name: str
    path: str
    access: Access = Access.RO
    within: str = ""
    refers_to: str = ""
    form: Form = Form.PLAIN
    reads: Input = Input.TEXT
    call: str = ""
    absent: str = NOT_IN_DATABASE
    is_expensive: bool = False
    is_hidden: bool = False
    is_deprecated: bool = False

    @property
    def label(self) -> str:
        """The name with its access, as the left column of a listing."""
        return f"{self.name} ({self.access})" + (" [DEPRECATED]" if self.is_deprecated else "")

    @property
    def is_set(self) -> bool:
        """Whether it is filtered by ``name:contains=``."""
        return self.access in {Access.SRO, Access.SRW}

    @property
    def is_map(self) -> bool:
        """Whether it is filtered, read and set by ``name:key``."""
        return self.access in {Access.MRO, Access.MRW}


@dataclass(frozen=True, slots=True)
class RecordClass:
    """A class of objects on the command line.

    Args:
        name: XenAPI's spelling.
        fields: in the order they are listed.
        columns: names of the fields that a listing shows by itself.
        filters: what a listing leaves out unless told otherwise.
    """

    name: str
    fields: tuple[Field, ...]
    columns: tuple[str, ...]
    filters: tuple[tuple[str, str], ...] = ()

    def find(self, name: str) -> Field | None:
        """Give the field of that name, hidden or not."""
        return next((field for field in self.fields if field.name == name), None)


def _plain(names: str, access: Access = Access.RO, within: str = "") -> tuple[Field, ...]:
    """Make fields whose XenAPI name differs by its underscores only."""
    return tuple(Field(name, name.replace("-", "_"), access, within) for name in names.split())


def _size(name: str) -> Field:
    return Field(name, name.replace("-", "_"), Access.RW, reads=Input.SIZE)


def _int(name: str) -> Field:
    return Field(name, name.replace("-", "_"), Access.RW, reads=Input.INT)


def _bool(name: str, *, is_deprecated: bool = False) -> Field:
    path = name.replace("-", "_")
    return Field(name, path, Access.RW, reads=Input.BOOL, is_deprecated=is_deprecated)


def _action(name: str) -> Field:
    return Field(name, name.replace("-", "_"), Access.RW, form=Form.SENTENCE, reads=Input.WORD)


def _ref(name: str, path: str, refers_to: str, access: Access = Access.RO) -> Field:
    return Field(name, path, access, refers_to=refers_to, reads=Input.UUID)


_VM_FIELDS: Final = (
    *_plain("uuid"),
    *_plain("name-label name-description", Access.RW),
    _int("user-version"),
    _bool("is-a-template"),
    _bool("is-default-template"),
    *_plain("is-a-snapshot"),
    _ref("snapshot-of", "snapshot_of", "VM"),
    _ref("snapshots", "snapshots", "VM"),
    *_plain("snapshot-time"),
    Field("transportable-snapshot-id", "transportable_snapshot_id", is_hidden=True),
    *_plain("snapshot-info"),
    _ref("parent", "parent", "VM"),
    _ref("children", "children", "VM"),
    *_plain("is-control-domain"),
    Field("power-state", "power_state", form=Form.LOWER),
    Field("memory-actual", "memory_actual", within="metrics"),
    Field("memory-target", "memory_target", form=Form.LIVE, is_expensive=True),
    *_plain("memory-overhead"),
    *map(_size, ("memory-static-max", "memory-dynamic-max", "memory-dynamic-min", "memory-static-min")),
    _ref("suspend-VDI-uuid", "suspend_VDI", "VDI", Access.RW),
    _ref("suspend-SR-uuid", "suspend_SR", "SR", Access.RW),
    *_plain("VCPUs-params", Access.MRW),
    *map(_int, ("VCPUs-max", "VCPUs-at-startup")),
    *map(
        _action,
        (
            "actions-after-shutdown",
            "actions-after-softreboot",
            "actions-after-reboot",
            "actions-after-crash",
        ),
    ),
    _ref("console-uuids", "consoles", "console", Access.SRO),
    Field("hvm", "hvm", within="metrics", absent="false"),
    Field("nomigrate", "nomigrate", within="metrics", absent="false", is_hidden=True),
    Field("nested-virt", "nested_virt", within="metrics", absent="false", is_hidden=True),
    *_plain("platform", Access.MRW),
    *_plain("numa-optimised numa-nodes", within="metrics"),
    *_plain("numa-node-memory", Access.MRO, "metrics"),
    *_plain("allowed-operations", Access.SRO),
    Field("current-operations", "current_operations", Access.SRO, form=Form.OPERATIONS),
    *_plain("blocked-operations", Access.MRW),
    Field(
        "allowed-VBD-devices", "", Access.SRO, call="VM.get_allowed_VBD_devices", absent="", is_expensive=True
    ),
    Field(
        "allowed-VIF-devices", "", Access.SRO, call="VM.get_allowed_VIF_devices", absent="", is_expensive=True
    ),
    Field("possible-hosts", "", refers_to="host", call="VM.get_possible_hosts", absent="", is_expensive=True),
    Field("domain-type", "domain_type", Access.RW, form=Form.DASHES, reads=Input.WORD),
    Field("current-domain-type", "current_domain_type", within="metrics", form=Form.DASHES),
    *_plain("HVM-boot-policy", Access.RW),
    *_plain("HVM-boot-params", Access.MRW),
    Field("HVM-shadow-multiplier", "HVM_shadow_multiplier", Access.RW, reads=Input.FLOAT),
    Field("NVRAM", "NVRAM", Access.MRW, is_hidden=True),
    *_plain(
        "PV-kernel PV-ramdisk PV-args PV-legacy-args PV-bootloader PV-bootloader-args",
        Access.RW,
    ),
    *_plain("last-boot-CPU-flags"),
    Field("last-boot-record", "last_booted_record", form=Form.QUOTED, is_expensive=True),
    _ref("resident-on", "resident_on", "host"),
    _ref("affinity", "affinity", "host", Access.RW),
    *_plain("other-config", Access.MRW),
    Field("dom-id", "domid"),
    *_plain("recommendations"),
    *_plain("xenstore-data", Access.MRW),
    _bool("ha-always-run", is_deprecated=True),
    *_plain("ha-restart-priority", Access.RW),
    *_plain("blobs"),
    Field("start-time", "start_time", within="metrics", absent=UNKNOWN_TIME),
    Field("install-time", "install_time", within="metrics", absent=UNKNOWN_TIME),
    *_plain("VCPUs-number", within="metrics"),
    Field("VCPUs-utilisation", "VCPUs_utilisation", Access.MRO, "metrics", absent="", is_expensive=True),
    *_plain("os-version netbios-name PV-drivers-version", Access.MRO, "guest_metrics"),
    Field("PV-drivers-up-to-date", "PV_drivers_up_to_date", within="guest_metrics", is_deprecated=True),
    *_plain("memory disks", Access.MRO, "guest_metrics"),
    _ref("VBDs", "VBDs", "VBD", Access.SRO),
    *_plain("networks services", Access.MRO, "guest_metrics"),
    *_plain("PV-drivers-detected", within="guest_metrics"),
    *_plain("other", Access.MRO, "guest_metrics"),
    *_plain("live", within="guest_metrics"),
    Field("guest-metrics-last-updated", "last_updated", within="guest_metrics"),
    Field("can-use-hotplug-vbd", "can_use_hotplug_vbd", within="guest_metrics", form=Form.TRISTATE),
    Field("can-use-hotplug-vif", "can_use_hotplug_vif", within="guest_metrics", form=Form.TRISTATE),
    Field("cooperative", "", call="VM.get_cooperative", absent="true", is_expensive=True, is_deprecated=True),
    Field("tags", "tags", Access.SRW, form=Form.COMMAS),
    _ref("appliance", "appliance", "VM_appliance", Access.RW),
    _ref("groups", "groups", "VM_group", Access.RW),
    _ref("snapshot-schedule", "snapshot_schedule", "VMSS", Access.RW),
    *_plain("is-vmss-snapshot"),
    *map(_int, ("start-delay", "shutdown-delay", "order")),
    *_plain("version generation-id hardware-platform-version"),
    _bool("has-vendor-device"),
    *_plain("requires-reboot reference-label"),
    *_plain("bios-strings", Access.MRO),
    *_plain("pending-guidances"),
    _ref("vtpms", "VTPMs", "VTPM"),
    *_plain("pending-guidances-recommended pending-guidances-full"),
)
_HOST_FIELDS: Final = (
    *_plain("uuid"),
    *_plain("name-label name-description", Access.RW),
    *_plain("allowed-operations", Access.SRO),
    Field("current-operations", "current_operations", Access.SRO, form=Form.OPERATIONS),
    *_plain("enabled display API-version-major API-version-minor API-version-vendor"),
    *_plain("API-version-vendor-implementation", Access.MRO),
    *_plain("logging", Access.MRW),
    _ref("suspend-image-sr-uuid", "suspend_image_sr", "SR", Access.RW),
    _ref("crash-dump-sr-uuid", "crash_dump_sr", "SR", Access.RW),
    *_plain("software-version", Access.MRO),
    *_plain("capabilities", Access.SRO),
    *_plain("other-config", Access.MRW),
    *_plain("cpu_info chipset-info", Access.MRO),
    *_plain("hostname address"),
    _bool("https-only"),
    *_plain("supported-bootloaders", Access.SRO),
    *_plain("blobs memory-overhead"),
    *_plain("memory-total memory-free", within="metrics"),
    Field("memory-free-computed", "", call="host.compute_free_memory", is_expensive=True),
    Field("host-metrics-live", "live", within="metrics"),
    Field("patches", "patches", Access.SRO, form=Form.COMMAS, refers_to="host_patch", is_deprecated=True),
    Field("updates", "updates", Access.SRO, form=Form.COMMAS, refers_to="pool_update"),
    *_plain("ha-statefiles ha-network-peers external-auth-type external-auth-service-name"),
    *_plain("external-auth-configuration", Access.MRO),
    *_plain("edition"),
    *_plain("license-server", Access.MRO),
    *_plain("power-on-mode"),
    *_plain("power-on-config", Access.MRO),
    _ref("local-cache-sr", "local_cache_sr", "SR"),
    Field("tags", "tags", Access.SRW, form=Form.COMMAS),
    _bool("ssl-legacy"),
    *_plain("guest_VCPUs_params", Access.MRW),
    *_plain("virtual-hardware-platform-versions", Access.SRO),
    _ref("control-domain-uuid", "control_domain", "VM"),
    _ref("resident-vms", "resident_VMs", "VM", Access.SRO),
    _ref("updates-requiring-reboot", "updates_requiring_reboot", "pool_update", Access.SRO),
    _ref("features", "features", "Feature", Access.SRO),
    *_plain("iscsi_iqn", Access.RW),
    _bool("multipathing"),
    Field("uefi-certificates", "uefi_certificates", Access.RW, is_hidden=True),
    *_plain("pending-guidances tls-verification-enabled last-software-update"),
)
_POOL_FIELDS: Final = (
    *_plain("uuid"),
    *_plain("name-label name-description", Access.RW),
    _ref("master", "master", "host"),
    _ref("default-SR", "default_SR", "SR", Access.RW),
    _ref("crash-dump-SR", "crash_dump_SR", "SR", Access.RW),
    _ref("suspend-image-SR", "suspend_image_SR", "SR", Access.RW),
    *_plain("other-config", Access.MRW),
    *_plain("allowed-operations", Access.SRO),
    Field("current-operations", "current_operations", Access.SRO, form=Form.OPERATIONS),
    *_plain("ha-enabled ha-configuration ha-statefiles"),
    _int("ha-host-failures-to-tolerate"),
    *_plain("ha-plan-exists-for"),
    _bool("ha-allow-overcommit"),
    *_plain("ha-overcommitted blobs wlb-url wlb-username"),
    *map(_bool, ("wlb-enabled", "wlb-verify-cert")),
    *_plain("gui-config", Access.MRW),
    *_plain("restrictions"),
    Field("tags", "tags", Access.SRW, form=Form.COMMAS),
    *_plain("ha-cluster-stack"),
    *_plain("guest-agent-config", Access.MRW),
    *_plain("cpu_info", Access.MRO),
    _bool("policy-no-vendor-device"),
    _bool("live-patching-disabled"),
)
_TASK_FIELDS: Final = (
    *_plain("uuid name-label name-description"),
    _ref("subtask_of", "subtask_of", "task"),
    _ref("subtasks", "subtasks", "task"),
    _ref("resident-on", "resident_on", "host"),
    *_plain("status progress type result created finished"),
    *_plain("error_info allowed_operations", Access.SRO),
)

RECORD_CLASSES: Final = {
    "vm": RecordClass(
        "VM",
        _VM_FIELDS,
        ("uuid", "name-label", "power-state"),
        (("is-a-template", "false"),),
    ),
    "host": RecordClass("host", _HOST_FIELDS, ("uuid", "name-label", "name-description")),
    "pool": RecordClass(
        "pool",
        _POOL_FIELDS,
        ("uuid", "name-label", "name-description", "master", "default-SR"),
    ),
    "template": RecordClass(
        "VM",
        _VM_FIELDS,
        ("uuid", "name-label", "name-description"),
        (("is-a-template", "true"),),
    ),
    "task": RecordClass(
        "task", _TASK_FIELDS, ("uuid", "name-label", "name-description", "status", "progress")
    ),
}
"""The classes by the word that their commands begin with."""
