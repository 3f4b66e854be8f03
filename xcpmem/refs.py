"""What things go by: XenAPI references, opaque and stable over restarts, and owners of reservations."""

from __future__ import annotations

import hashlib
import re
from contextvars import ContextVar
from functools import lru_cache
from typing import Final
from uuid import NAMESPACE_OID, UUID, uuid5

NULL_REF: Final = "OpaqueRef:NULL"

CURRENT_TASK: Final[ContextVar[str]] = ContextVar("task", default=NULL_REF)
"""The task on whose behalf the code runs; null in calls that somebody waits for."""

_NAMESPACE: Final = UUID("5f6c8d0e-30c5-4b5f-9d52-6a1f0c7a2b11")

_REFS_KEPT: Final = 8192


@lru_cache(_REFS_KEPT)
def opaque_ref(class_name: str, uuid: str) -> str:
    """Make the reference of an object from its class and uuid: the same one after every restart.

    Args:
        class_name: XenAPI's spelling, ``VM``, ``host_metrics``.
        uuid: the object's uuid.

    Returns:
        ``OpaqueRef:`` and a uuid; Xen Orchestra requires the prefix.
    """
    return f"OpaqueRef:{uuid5(_NAMESPACE, f'{class_name}/{uuid}')}"


def named_uuid(class_name: str, name: str) -> str:
    """Give the uuid of an object that is kept nowhere: the same for ever, by its class and a name."""
    return str(uuid5(NAMESPACE_OID, f"{class_name}/{name}"))


_SERVICE: Final = "service_"
_OWNER_NAME: Final = re.compile(r"[A-Za-z0-9@_-]{1,64}")


def service_owner(service: str) -> str:
    """Name the owner of what a service of the host, such as xenopsd, reserves; one node name of xenstore.

    Args:
        service: any text; one that xenstore would not take for a name goes by its digest.
    """
    if _OWNER_NAME.fullmatch(service) is None:
        service = hashlib.sha256(service.encode("utf-8", "surrogateescape")).hexdigest()[:32]
    return f"{_SERVICE}{service}"


def service_of(owner: str) -> str | None:
    """Tell the service that an owner is, or None when it is none; a service never goes away."""
    return owner.removeprefix(_SERVICE) if owner.startswith(_SERVICE) else None
