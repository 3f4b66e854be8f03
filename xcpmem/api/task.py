"""A task as it is at a moment, and how much clients may write on it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from xcpmem.api.typenames import EPOCH
from xcpmem.refs import opaque_ref
from xcpmem.units import kib_to_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from datetime import datetime

TEXT_MOST_BYTES: Final = kib_to_bytes(16)
"""So much may clients write on a task, all fields together."""

LONGEST_PARAM: Final = 1024
"""So many characters are kept of each parameter of an error; clients' own values may be as long as a call."""

PENDING: Final = "pending"
SUCCESS: Final = "success"
FAILURE: Final = "failure"
CANCELLED: Final = "cancelled"
FINAL: Final = frozenset({SUCCESS, FAILURE, CANCELLED})


@dataclass(frozen=True, slots=True)
class Task:
    """A task as it is at a moment.

    Args:
        uuid: its own.
        name_label: the call as the client spelled it, ``Async.VM.set_memory``, or what a client calls it.
        name_description: for people.
        uname: the user who made it; others need a role for more than to read it.
        created: when that was.
        is_cancellable: whether its work can be given up.
        current_operations: what it has been asked: ``cancel`` or ``destroy``, by the asking task.
        status: one of the datamodel's words.
        progress: from 0.0 to 1.0.
        result: of its work, the fragment of XML-RPC that a synchronous call would have answered with.
        error_info: code and parameters of what went wrong.
        finished: when it became final; the epoch before.
        other_config: notes of clients.
        from_clients: the fields that clients have set; what stands in others the work said.
    """

    uuid: str
    name_label: str
    name_description: str
    uname: str
    created: datetime
    is_cancellable: bool = False
    current_operations: Mapping[str, str] = field(default_factory=dict)
    status: str = PENDING
    progress: float = 0.0
    result: str = ""
    error_info: tuple[str, ...] = ()
    finished: datetime = EPOCH
    other_config: Mapping[str, str] = field(default_factory=dict)
    from_clients: frozenset[str] = frozenset()

    @property
    def ref(self) -> str:
        """XenAPI's reference."""
        return opaque_ref("task", self.uuid)

    @property
    def is_finished(self) -> bool:
        """Whether its status is final."""
        return self.status in FINAL

    @property
    def text_bytes(self) -> int:
        """How much clients have written on it, UTF-8."""
        return sum(len(text.encode(errors="replace")) for text in self._texts())

    def _texts(self) -> Iterator[str]:
        yield from (self.name_label, self.name_description)
        if "result" in self.from_clients:
            yield self.result
        if "error_info" in self.from_clients:
            yield from self.error_info
        for key, note in self.other_config.items():
            yield from (key, note)


def cut(param: str) -> str:
    """Give what is kept of an error's parameter."""
    return param if len(param) <= LONGEST_PARAM else f"{param[:LONGEST_PARAM]}…"
