"""What an administrator's script for a XenServer host looks like: the XenAPI package and nothing of ours.

Usage: xenapi_script.py URL PASSWORD NAME MIN_BYTES MAX_BYTES

Lists all VMs, gives one of them another dynamic range, and follows events until it holds no more than that.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import XenAPI

DEADLINE_S = 60
CLOSE = 1 << 20


def main() -> None:
    """Do as the words say; the output is one line for each VM and one for each event that counts."""
    url, password, name, least, most = sys.argv[1:]
    session: Any = XenAPI.Session(url)
    session.xenapi.login_with_password("root", password, "1.0", "xenapi_script.py")
    try:
        for record in session.xenapi.VM.get_all_records().values():
            if not record["is_a_template"]:
                print("VM", record["name_label"], record["power_state"], record["memory_dynamic_max"])  # noqa: T201 - its output
        (vm,) = session.xenapi.VM.get_by_name_label(name)
        metrics = session.xenapi.VM.get_metrics(vm)
        token = session.xenapi.event_from([f"VM/{vm}", f"VM_metrics/{metrics}"], "", 0.0)["token"]
        session.xenapi.VM.set_memory_dynamic_range(vm, least, most)
        deadline_s = time.monotonic() + DEADLINE_S
        while True:
            if time.monotonic() > deadline_s:
                sys.exit(f"{name} did not follow within {DEADLINE_S} s")
            batch = session.xenapi.event_from([f"VM/{vm}", f"VM_metrics/{metrics}"], token, 5.0)
            token = batch["token"]
            for event in batch["events"]:
                print("EVENT", event["class"], event["operation"])  # noqa: T201 - its output
            actual = int(session.xenapi.VM_metrics.get_memory_actual(metrics))
            if abs(actual - int(most)) <= CLOSE:
                break
        print("HOLDS", actual)  # noqa: T201 - its output
    finally:
        session.xenapi.session.logout()


if __name__ == "__main__":
    main()
