"""What `make run` starts: the daemon on the simulated host, and first a few words on where to look.

Everything lives below ``.run`` in the working directory, so that removing it starts over.
"""

from __future__ import annotations

import os
import socket
import sys
from contextlib import closing
from pathlib import Path
from shlex import quote
from typing import Final

from xcpmem.config import DEFAULT_LISTEN
from xcpmem.daemon import main as daemon_main
from xcpmem.readers import Address

_STATE_PATH_MOST: Final = 80  # bytes; leaves room for the names of Unix sockets below it


def main() -> int:
    """Print where to look and run the daemon until Ctrl-C; return its exit status."""
    state_dir = choose_state_dir(Path.cwd(), Path.home())
    address = choose_address(DEFAULT_LISTEN)
    sys.stdout.write(
        greeting(address, state_dir, taken=None if address == DEFAULT_LISTEN else DEFAULT_LISTEN)
    )
    sys.stdout.flush()
    return daemon_main(["--scenario", "default", "--listen", str(address), "--state-dir", str(state_dir)])


def choose_state_dir(working_dir: Path, home: Path) -> Path:
    """Choose ``.run`` below the working directory, or below the home where that path would be too long."""
    here = working_dir / ".run"
    return here if len(os.fsencode(here)) <= _STATE_PATH_MOST else home / ".xcpmem-run"


def choose_address(wanted: Address) -> Address:
    """Choose the wanted address, or a free port beside it when another program has it."""
    for port in (wanted.port, 0):
        with closing(socket.socket(socket.AF_INET, socket.SOCK_STREAM)) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((wanted.host, port))
            except OSError:
                continue
            return Address(wanted.host, probe.getsockname()[1])
    return wanted


def greeting(address: Address, state_dir: Path, *, taken: Address | None = None) -> str:
    """Write what a newcomer needs to know.

    Args:
        address: where the daemon will serve.
        state_dir: where it keeps its state.
        taken: the usual address, if another program has it.
    """
    note = f"\n{taken} is taken by another program, so this one serves on {address}.\n" if taken else ""
    return _GREETING.format(
        note=note,
        url=f"http://{address}",
        socket=quote(str(state_dir / "xcpmem.sock")),
        password=_relative(state_dir / "root.password"),
        python=quote(_relative(Path(sys.executable))),
        client=quote(_relative(Path(sys.executable).with_name("xcpmem"))),
    )


def _relative(path: Path) -> str:
    """Shorten a path below the working directory, as one would type it."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


_GREETING: Final = """\
xcpmem on a simulated host with six guests whose load moves
{note}
  where     {url}  (the dashboard; metrics below /metrics)
  user      root, password in {password}; none is needed on the Unix socket

In another terminal:

  {client} -s {socket} vm-list

  curl -s {url}/metrics | grep '^xcpmem_domain_memory_target'

  {python} - <<'END'
  import XenAPI
  session = XenAPI.Session("{url}")
  session.login_with_password("root", open("{password}").read().strip())
  for vm in session.xenapi.VM.get_all_records().values():
      print(vm["name_label"], vm["memory_target"])
  END

Ctrl-C ends it.

"""


if __name__ == "__main__":
    sys.exit(main())
