"""Every xenstore key that xcpmem reads, writes or watches, as a function of the domid.

The only place that knows where keys are. Names and units of the domains' keys: squeezed and xenopsd
(``memory/*``), Xen's docs/misc/xenstore-paths.pandoc, XenServer's guest agents (``data/*``). Numbers are
decimal text, memory is KiB.
"""

from __future__ import annotations

import re
from typing import Final

from xcpmem.errors import InvalidValue

PATH_BYTES_MAX: Final = 3072
"""Longest absolute path; xen's public/io/xs_wire.h, XENSTORE_ABS_PATH_MAX."""
RELATIVE_PATH_BYTES_MAX: Final = 2048
"""Longest relative path; xen's public/io/xs_wire.h, XENSTORE_REL_PATH_MAX."""

DOMAINS: Final = "/local/domain"
"""Parent of all domains' directories; list the domains at the hypervisor instead."""
VMS: Final = "/vm"
"""Parent of the VMs' directories: never listed, its listing outgrows a message at about 110 VMs."""
OWN: Final = "/xcpmem"
"""Root of all that xcpmem keeps in xenstore for itself."""

INTRODUCE_DOMAIN: Final = "@introduceDomain"
"""Special watch: fires when a domain gets its xenstore connection."""
RELEASE_DOMAIN: Final = "@releaseDomain"
"""Special watch: fires when a domain shuts down, crashes or is destroyed."""

MEMORY_TARGET: Final = "memory/target"
MEMORY_STATIC_MAX: Final = "memory/static-max"
MEMORY_DYNAMIC_MIN: Final = "memory/dynamic-min"
MEMORY_DYNAMIC_MAX: Final = "memory/dynamic-max"
MEMORY_VIDEORAM: Final = "memory/videoram"
MEMORY_INITIAL_RESERVATION: Final = "memory/initial-reservation"
MEMORY_RESERVATION_ID: Final = "memory/reservation-id"
MEMORY_OFFSET: Final = "memory/memory-offset"
MEMORY_UNCOOPERATIVE: Final = "memory/uncooperative"
MEMORY_MEMINFO: Final = "memory/meminfo"
MEMORY_SWAPINFO: Final = "memory/swapinfo"
CONTROL_FEATURE_BALLOON: Final = "control/feature-balloon"
CONTROL_BALLOON_ACTIVE: Final = "control/balloon-active"
DATA_UPDATED: Final = "data/updated"
DATA_MEMINFO_FREE: Final = "data/meminfo_free"
DATA_MEMINFO_TOTAL: Final = "data/meminfo_total"
DATA_XCPMEM_REPORT: Final = "data/xcpmem/1"
PV_ADDONS_MAJOR_VERSION: Final = "attr/PVAddons/MajorVersion"
PV_ADDONS_MINOR_VERSION: Final = "attr/PVAddons/MinorVersion"

_DOMID_END: Final = 0x7FF0  # DOMID_FIRST_RESERVED of xen's public/xen.h
_SQUEEZED_STATE: Final = "/squeezed/state"
_RESERVATIONS: Final = f"{OWN}/reservations"
_IN_TRANSFER: Final = "in-transfer"

_NODE_NAME = re.compile(r"[A-Za-z0-9_@-]+")
_RELATIVE_PATH = re.compile(r"[A-Za-z0-9_@-]+(?:/[A-Za-z0-9_@-]+)*")
_SPECIAL = re.compile(r"@[A-Za-z0-9_@-]+(?:/[A-Za-z0-9_@-]+)*")
_DOMAIN_KEY = re.compile(rf"{DOMAINS}/(0|[1-9][0-9]{{0,4}})(?:/(.+))?", re.DOTALL)


def is_absolute_path(text: str) -> bool:
    """Tell whether xenstored takes the text for an absolute path (xen's docs/misc/xenstore.txt)."""
    if text == "/":
        return True
    return len(text) <= PATH_BYTES_MAX and text[:1] == "/" and _RELATIVE_PATH.fullmatch(text, 1) is not None


def is_relative_path(text: str) -> bool:
    """Tell whether xenstored takes the text for a path below the caller's own domain."""
    return (
        len(text) <= RELATIVE_PATH_BYTES_MAX
        and text[:1] != "@"
        and _RELATIVE_PATH.fullmatch(text) is not None
    )


def is_special_watch(text: str) -> bool:
    """Tell whether the text names a special watch, with or without a domid (``@releaseDomain/3``)."""
    return len(text) <= RELATIVE_PATH_BYTES_MAX and _SPECIAL.fullmatch(text) is not None


def parent(path: str) -> str:
    """Return the directory that holds an absolute path; the root's parent is the root."""
    return path.rpartition("/")[0] or "/"


def domain(domid: int) -> str:
    """Return a domain's directory; whether it exists says whether the domain does.

    Raises:
        InvalidValue: not the number of a real domain (0 to 32751).
    """
    if not 0 <= domid < _DOMID_END:
        raise InvalidValue("domid", domid)
    return f"{DOMAINS}/{domid}"


def domain_key(path: str) -> tuple[int, str] | None:
    """Split the path of a watch event.

    Args:
        path: any text, as the event brought it.

    Returns:
        The domid and the key below the domain's directory (empty for the directory itself), or None if
        the path lies outside all domains' directories.
    """
    match = _DOMAIN_KEY.fullmatch(path)
    if match is None or int(match[1]) >= _DOMID_END:
        return None
    return int(match[1]), match[2] or ""


def memory(domid: int) -> str:
    """Return the directory of a domain's memory keys, to watch them all at once."""
    return f"{domain(domid)}/memory"


def target(domid: int) -> str:
    """KiB the guest's balloon driver shall leave it with; written by squeezed, xenopsd, libxl, us."""
    return f"{domain(domid)}/{MEMORY_TARGET}"


def static_max(domid: int) -> str:
    """KiB the domain was booted for; written once by the toolstack, includes video RAM."""
    return f"{domain(domid)}/{MEMORY_STATIC_MAX}"


def dynamic_min(domid: int) -> str:
    """KiB below which the balancer must not go; xenopsd, or us on its behalf."""
    return f"{domain(domid)}/{MEMORY_DYNAMIC_MIN}"


def dynamic_max(domid: int) -> str:
    """KiB above which the balancer must not go; xenopsd, or us on its behalf."""
    return f"{domain(domid)}/{MEMORY_DYNAMIC_MAX}"


def videoram(domid: int) -> str:
    """KiB of video RAM inside static-max; libxl, HVM only."""
    return f"{domain(domid)}/{MEMORY_VIDEORAM}"


def initial_reservation(domid: int) -> str:
    """KiB promised to a domain under construction, overhead included; squeezed's key."""
    return f"{domain(domid)}/{MEMORY_INITIAL_RESERVATION}"


def reservation_id(domid: int) -> str:
    """Id of the reservation that was transferred to the domain; squeezed's key."""
    return f"{domain(domid)}/{MEMORY_RESERVATION_ID}"


def memory_offset(domid: int) -> str:
    """KiB by which the domain's pages exceed its target, may be negative; squeezed's key, measured once."""
    return f"{domain(domid)}/{MEMORY_OFFSET}"


def uncooperative(domid: int) -> str:
    """Present (and empty) while the guest fails its target; squeezed's key, read by xenopsd."""
    return f"{domain(domid)}/{MEMORY_UNCOOPERATIVE}"


def memory_meminfo(domid: int) -> str:
    """KiB in use, swap included, by Qubes' agent; several lines of text by xenballoond: hostile text."""
    return f"{domain(domid)}/{MEMORY_MEMINFO}"


def memory_swapinfo(domid: int) -> str:
    """KiB on swap, by Qubes' agent: hostile text."""
    return f"{domain(domid)}/{MEMORY_SWAPINFO}"


def control(domid: int) -> str:
    """Return the directory of what the toolstack and the guest's driver tell each other, to watch it."""
    return f"{domain(domid)}/control"


def feature_balloon(domid: int) -> str:
    """Whether the guest has a balloon driver: ``0`` means no; XenServer's guest agents."""
    return f"{domain(domid)}/{CONTROL_FEATURE_BALLOON}"


def balloon_active(domid: int) -> str:
    """Whether the balloon moves right now; the Windows driver."""
    return f"{domain(domid)}/{CONTROL_BALLOON_ACTIVE}"


def data(domid: int) -> str:
    """Return the directory where a guest may write what it likes, to watch it."""
    return f"{domain(domid)}/data"


def data_updated(domid: int) -> str:
    """Present once the guest agent has reported; its text means nothing."""
    return f"{domain(domid)}/{DATA_UPDATED}"


def meminfo_free(domid: int) -> str:
    """KiB the guest says it could give away; guest agents, hostile text."""
    return f"{domain(domid)}/{DATA_MEMINFO_FREE}"


def meminfo_total(domid: int) -> str:
    """KiB the guest's kernel manages; guest agents, hostile text."""
    return f"{domain(domid)}/{DATA_MEMINFO_TOTAL}"


def xcpmem_report(domid: int) -> str:
    """Return where xcpmem's own guest agent reports in the first version of its format; hostile text."""
    return f"{domain(domid)}/{DATA_XCPMEM_REPORT}"


def pv_addons_major_version(domid: int) -> str:
    """Return where the guest's agent says which version it is; hostile text."""
    return f"{domain(domid)}/{PV_ADDONS_MAJOR_VERSION}"


def pv_addons_minor_version(domid: int) -> str:
    """Return where the second part of that version stands; hostile text."""
    return f"{domain(domid)}/{PV_ADDONS_MINOR_VERSION}"


def vm(domid: int) -> str:
    """Path of the VM's directory, ``/vm/<uuid>``; toolstacks."""
    return f"{domain(domid)}/vm"


def name(domid: int) -> str:
    """Return the toolstack's name for the domain; any text."""
    return f"{domain(domid)}/name"


def domain_type(domid: int) -> str:
    """Kind of domain, ``hvm``, ``pv``, ``pv-in-pvh`` or ``pvh``; xenopsd, late in the build."""
    return f"{domain(domid)}/domain-type"


def reservations() -> str:
    """Return the directory of all reservations: a child for each owner."""
    return _RESERVATIONS


def reservations_of(owner: str) -> str:
    """Return the directory of one owner's reservations: a child for each reservation."""
    return f"{_RESERVATIONS}/{_node_name('owner', owner)}"


def reservation(owner: str, reservation_id: str) -> str:
    """Return where a reservation's KiB stand.

    Args:
        owner: whose it is; one node name: letters, digits, ``-``, ``_``, ``@``.
        reservation_id: its uuid.

    Raises:
        InvalidValue: an argument is no node name.
    """
    return f"{reservations_of(owner)}/{_node_name('reservation', reservation_id)}"


def in_transfer(owner: str, reservation_id: str) -> str:
    """Return where the domid stands while a reservation passes to its domain; child of `reservation`."""
    return f"{reservation(owner, reservation_id)}/{_IN_TRANSFER}"


def reservation_vm(owner: str, reservation_id: str) -> str:
    """Return where the uuid stands of the VM that is started with a reservation; child of `reservation`."""
    return f"{reservation(owner, reservation_id)}/vm"


def squeezed_reservations() -> str:
    """Return squeezed's directory of all reservations: a child for each client service."""
    return _SQUEEZED_STATE


def squeezed_reservations_of(service: str) -> str:
    """Return squeezed's directory of one service's reservations."""
    return f"{_SQUEEZED_STATE}/{_node_name('service', service)}"


def squeezed_reservation(service: str, reservation_id: str) -> str:
    """Return where squeezed keeps a reservation's KiB; arguments as in `reservation`."""
    return f"{squeezed_reservations_of(service)}/{_node_name('reservation', reservation_id)}"


def squeezed_in_transfer(service: str, reservation_id: str) -> str:
    """Return where squeezed keeps the domid of a reservation in transfer."""
    return f"{squeezed_reservation(service, reservation_id)}/{_IN_TRANSFER}"


def _node_name(field: str, text: str) -> str:
    if _NODE_NAME.fullmatch(text) is None:
        raise InvalidValue(field, text)
    return text
