"""The weight of each VM, which its administrator writes into ``other_config``.

Only ratios matter: a VM of weight 2000 counts twice as much as one of 1000, which is what a VM without the
key has. What cannot be read is as good as absent, and said to whoever asks.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from xcpmem.engine.policy import DEFAULT_WEIGHT, WEIGHTS

if TYPE_CHECKING:
    from collections.abc import Callable

    from xcpmem.ledger import Ledger, Touched
    from xcpmem.ring import Ring
    from xcpmem.vm import Vm

_log = logging.getLogger(__name__)

WEIGHT_KEY: Final = "xcpmem-weight"
"""The key in a VM's ``other_config``."""


class VmWeights:
    """Reads the weights and hands them to the ring.

    Args:
        ledger: of the VMs.
        ring: divides memory by the weights.
    """

    def __init__(self, ledger: Ledger, ring: Ring) -> None:
        self._ledger = ledger
        self._ring = ring
        self._unread: dict[str, str] = {}

    def start(self) -> Callable[[], None]:
        """Read all, and follow changes from now on.

        Returns:
            A function that ends this.
        """
        for vm in self._ledger.vms.values():
            self._read(vm)
        return self._ledger.subscribe(self._note)

    def diagnose(self) -> list[str]:
        """Name the VMs whose weight cannot be read, a sentence each."""
        least, most = WEIGHTS
        return [
            f"VM {uuid}: other_config:{WEIGHT_KEY} {text!r} is no whole number from {least} to {most}; "
            f"it counts as {DEFAULT_WEIGHT}"
            for uuid, text in self._unread.items()
        ]

    def _note(self, touched: Touched) -> None:
        for kind, uuid in touched:
            if kind == "VM":
                vm = self._ledger.vms.get(uuid)
                if vm is None:
                    self._unread.pop(uuid, None)
                    self._ring.set_weight(uuid, DEFAULT_WEIGHT)
                else:
                    self._read(vm)

    def _read(self, vm: Vm) -> None:
        text = vm.other_config.get(WEIGHT_KEY)
        weight = DEFAULT_WEIGHT if text is None else read_weight(text)
        if text is None or weight is not None:
            self._unread.pop(vm.uuid, None)
        elif self._unread.get(vm.uuid) != text:
            self._unread[vm.uuid] = text
            _log.warning("%s", self.diagnose()[-1])
        self._ring.set_weight(vm.uuid, DEFAULT_WEIGHT if weight is None else weight)


def read_weight(text: str) -> int | None:
    """Read a weight; None: it is none."""
    least, most = WEIGHTS
    if not (text.isascii() and text.isdecimal()) or len(text) > len(str(most)):
        return None
    return int(text) if least <= int(text) <= most else None
