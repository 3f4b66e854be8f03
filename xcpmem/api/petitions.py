"""Notes who asks for what, in a few words, so that decisions can be told on whose wish they were made."""

from __future__ import annotations

from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Final

from xcpmem.api.typenames import Ref, Simple
from xcpmem.errors import ApiError
from xcpmem.units import format_bytes, format_kib

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from xcpmem.api.datamodel import Message, Parameter
    from xcpmem.api.dispatch import Caller, Handler
    from xcpmem.vm import Vm
    from xcpmem.wishbook import Wishbook

_READ_ONLY: Final = "read-only"
_OF_VMS: Final = (
    *("set_memory", "set_HVM_shadow", "set_shadow", "set_VCPUs_max", "start", "clean_", "hard_", "shutdown"),
    *("pause", "unpause"),
)
"""How the names of those messages of class VM begin that may move memory."""

_COUNTS: Final = frozenset({"domid", "vcpus", "nvcpu"})
"""Numbers that are no sizes."""


class Petitions:
    """Watches calls go by.

    Args:
        wishbook: where they are noted.
        vms: all VMs by uuid, to name them.
    """

    def __init__(self, wishbook: Wishbook, vms: Callable[[], Mapping[str, Vm]]) -> None:
        self._wishbook = wishbook
        self._vms = vms

    def surround(self, message: Message, handler: Handler) -> Handler:
        """Have the calls of a message noted if they may move memory; else give back its handler as it is."""
        return partial(self._carry_out, message, handler) if may_move_memory(message) else handler

    async def _carry_out(
        self, message: Message, handler: Handler, caller: Caller, *arguments: object
    ) -> object:
        """Note a call while it is carried out; one that was the caller's mistake is struck out again."""
        with self._noted(caller.owner.uname or "somebody", self._put(message, arguments)):
            return await handler(caller, *arguments)

    @contextmanager
    def _noted(self, who: str, what: str) -> Iterator[None]:
        wish = self._wishbook.note(who, what)
        try:
            yield
        except ApiError:
            self._wishbook.forget(wish)
            raise

    def _put(self, message: Message, arguments: Sequence[object]) -> str:
        subject, figures = "", []
        for parameter, value in zip(message.params, arguments, strict=False):
            if isinstance(parameter.type, Ref):
                subject = f" of {self._name(str(value))}"
            elif not isinstance(value, bool):
                figures.append(_figure(message, parameter, value))
        return f"{message.wire_name}{subject}" + (f": {', '.join(figures)}" if figures else "")

    def _name(self, ref: str) -> str:
        return next((vm.name_label for vm in self._vms().values() if vm.ref == ref), ref)


def may_move_memory(message: Message) -> bool:
    """Tell whether somebody's memory may change because of a call."""
    if message.class_name == "Memory":
        return message.role != _READ_ONLY
    return message.class_name == "VM" and message.name.startswith(_OF_VMS)


def _figure(message: Message, parameter: Parameter, value: object) -> str:
    is_size = parameter.type == Simple("int") and parameter.name.lower() not in _COUNTS
    if not isinstance(value, int) or not is_size:
        return str(value)
    return format_kib(value) if message.class_name == "Memory" else format_bytes(value)
