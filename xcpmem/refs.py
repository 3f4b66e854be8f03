"""XenAPI references: opaque to clients, stable over restarts."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Final
from uuid import UUID, uuid5

NULL_REF: Final = "OpaqueRef:NULL"

CURRENT_TASK: Final[ContextVar[str]] = ContextVar("task", default=NULL_REF)
"""The task on whose behalf the code runs; null in calls that somebody waits for."""

_NAMESPACE: Final = UUID("5f6c8d0e-30c5-4b5f-9d52-6a1f0c7a2b11")


def opaque_ref(class_name: str, uuid: str) -> str:
    """Make the reference of an object from its class and uuid: the same one after every restart.

    Args:
        class_name: XenAPI's spelling, ``VM``, ``host_metrics``.
        uuid: the object's uuid.

    Returns:
        ``OpaqueRef:`` and a uuid; Xen Orchestra requires the prefix.
    """
    return f"OpaqueRef:{uuid5(_NAMESPACE, f'{class_name}/{uuid}')}"
