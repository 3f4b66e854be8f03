"""``xcpmem simhost``: run a simulated host alone, so that it outlives the daemons that attach to it."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from typing import TYPE_CHECKING

from xcpmem.errors import ConfigError
from xcpmem.scenario import load_scenario
from xcpmem.xen.simulated import HYPERVISOR_SUFFIX, SimulatedHost

if TYPE_CHECKING:
    from collections.abc import Sequence

    from xcpmem.scenario import Scenario


def simhost_main(argv: Sequence[str]) -> int:
    """Run the command until SIGTERM or SIGINT.

    Prints one line on standard output when the host can be attached to.

    Args:
        argv: the words after ``simhost``.

    Returns:
        0 after a signal, 2 for a bad scenario or a socket that cannot be made.
    """
    options = _parser().parse_args(argv)
    try:
        scenario = load_scenario(options.scenario)
        asyncio.run(_serve(scenario, options.socket))
    except ConfigError as error:
        sys.stderr.write(f"xcpmem simhost: {error}\n")
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="xcpmem simhost",
        description="Run a simulated host alone; attach with xcpmemd --driver simulated --host PATH.",
    )
    parser.add_argument(
        "--scenario", default="default", metavar="NAME|FILE", help="default, quiet, fleet:N or a file"
    )
    parser.add_argument(
        "--socket",
        required=True,
        metavar="PATH",
        help=f"Unix socket of its xenstored; its hypervisor listens on PATH{HYPERVISOR_SUFFIX}",
    )
    return parser


async def _serve(scenario: Scenario, path: str) -> None:
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    host = SimulatedHost(scenario)
    try:
        await host.start(path)
        sys.stdout.write(f"xcpmem simhost ready socket={path} hypervisor={path}{HYPERVISOR_SUFFIX}\n")
        sys.stdout.flush()
        await ended.wait()
    except OSError as error:
        raise ConfigError(path, "socket", error.strerror or str(error)) from error
    finally:
        await host.close()
