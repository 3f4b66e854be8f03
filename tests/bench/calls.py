"""Section ``calls``: small XenAPI calls, beside aiohttp that sends a constant and the stdlib's server.

All serve the same answer to the same client in turns. Ratios are what counts; times say which machine it was.
"""

from __future__ import annotations

import xmlrpc.client
from typing import TYPE_CHECKING, Final

from tests.bench.figures import Figure, Goal, ratios
from tests.bench.load import Load, ask, cpu, make_request, took
from tests.bench.peers import Peer, start_peer
from tests.bench.rig import beside
from tests.e2e.clients import logged_in
from tests.e2e.programs import workshop

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.bench.rig import Rig

CONNECTIONS: Final = 8
CALLS: Final = 1600


def figures(rig: Rig) -> Iterator[Figure]:
    """Ask for a VM's name again and again."""
    with workshop() as shop, rig.daemon(shop, "calls") as daemon:
        with logged_in(daemon) as api:
            body = xmlrpc.client.dumps((api.session, api.ref("guest-1")), "VM.get_name_label")
        request = make_request("/", body.encode())
        content = ask(daemon.port, request)
        servers = {
            "xcpmem": Peer(daemon.port, daemon.process.pid),
            "aiohttp": start_peer(shop, "static", content),
            "stdlib": start_peer(shop, "stdlib", content),
        }
        costs = rig.in_turns(
            {
                name: Load(port=port, pid=pid, request=request, calls=CALLS, connections=CONNECTIONS).measure
                for name, (port, pid) in servers.items()
            }
        )
    times = took(costs)
    what = f"small call, {CONNECTIONS} connections"
    yield Figure(what, "ms", times["xcpmem"], None, beside(times, "ms", "aiohttp", "stdlib"))
    rate = f"{what}: rate beside"
    yield Figure(f"{rate} aiohttp's", "", ratios(times["aiohttp"], times["xcpmem"]), Goal(least=0.6))
    yield Figure(f"{rate} the stdlib's", "", ratios(times["stdlib"], times["xcpmem"]))
    spent = cpu(costs)
    peers = beside(spent, "ms", "aiohttp", "stdlib")
    yield Figure(f"{what}: the server's CPU", "ms", spent["xcpmem"], None, peers)
    yield Figure(f"{what}: CPU beside aiohttp's", "", ratios(spent["xcpmem"], spent["aiohttp"]))
