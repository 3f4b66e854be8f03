"""What the keys of commands mean that `xe` does not have: for the client's help and the man page.

Only the standard library is imported, as in all that the client may need.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

_VM: Final = "name-label or uuid"
_WHEN: Final = "90s, 15m, 2h or 3d ago, a time (2026-11-24T13:00), or a time of today (13:00)"
_ROLE: Final = "one of pool-admin, pool-operator, vm-power-admin, vm-admin, vm-operator, read-only"

MEANINGS: Final[Mapping[str, Mapping[str, str]]] = {
    "plan": {
        "vm": f"the VM whose dynamic range is to be another, {_VM}",
        "dynamic-min": "the least that it would keep, such as 1GiB; as it is unless given",
        "dynamic-max": "the most that it would get, such as 2GiB; as it is unless given",
        "start": f"a halted VM that is to be started, {_VM}; not together with reserve-min",
        "reserve-min": "the least that is to be reserved, such as 2GiB",
        "reserve-max": "the most that would be of use; as reserve-min unless given",
        "policy": (
            "the policy that is to divide the memory (policy-list names them); further key=value are its "
            "parameters, such as idle_tax_percent=60 of policy=shares"
        ),
    },
    "history": {
        "vm": f"only what concerns this VM, {_VM}",
        "since": f"the earliest: {_WHEN}",
        "until": "the latest, written alike",
        "limit": "so many entries at most, 1 to 10000; 100 unless given",
    },
    "journal-export": {
        "since": f"the earliest: {_WHEN}",
        "until": "the latest, written alike",
    },
    "vm-create": {
        "memory-static-min": "the least that it can be booted with, such as 512MiB",
        "memory-dynamic-min": "the least that the balancer may leave it",
        "memory-dynamic-max": "the most that the balancer may give it; as memory-static-max unless given",
        "memory-static-max": "the most that it can ever have; 256MiB unless another limit is larger",
        "VCPUs-max": "virtual CPUs; 1 unless given",
        "domain-type": "hvm, pv, pvh or pv-in-pvh",
    },
    "user-add": {
        "role": _ROLE,
        "new": "the password; asked for unless given",
        "pam": "as --pam: PAM knows the password",
    },
    "user-role-set": {"role": _ROLE},
}
"""By command and key."""
