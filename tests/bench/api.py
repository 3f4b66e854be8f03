"""Section ``api``: the daemon as a process, beside an aiohttp that sends constants and the stdlib's server.

All serve the same answers to the same client in turns, round by round, so that what else the machine does
hits them alike. Ratios are what counts; times say which machine it was.
"""

from __future__ import annotations

import gc
import itertools
import json
import time
import xmlrpc.client
from statistics import median
from typing import TYPE_CHECKING, Final, TypeAlias

from tests.bench.figures import Figure, Goal, in_unit
from tests.bench.load import Load, ask, make_request
from tests.e2e.clients import logged_in
from tests.e2e.programs import workshop

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from tests.e2e.clients import XenApi
    from tests.e2e.programs import Workshop

CONNECTIONS: Final = 8
SMALL_CALLS: Final = 1600
LARGE_CALLS: Final = 10
FLEET: Final = 1000
CHANGED_VMS: Final = 10
CHANGED: Final = "1 % changed"
DUMPS: Final = "the stdlib's dumps"

MIB: Final = 1 << 20

Times: TypeAlias = "Mapping[str, tuple[float, ...]]"
"""Milliseconds for a call, round by round, by name."""


def figures(rounds: int) -> Iterator[Figure]:
    """Start daemons and peers, measure, and give the figures."""
    yield from _small_calls(rounds)
    yield from _all_records(rounds)


def measure(rounds: int, loads: Mapping[str, Load]) -> Times:
    """Let all run in turns; the first round only warms up."""
    times: dict[str, list[float]] = {name: [] for name in loads}
    for number in range(rounds + 1):
        for name, load in loads.items():
            took_ms = load.time_ms()
            if number:
                times[name].append(took_ms)
    return {name: tuple(each) for name, each in times.items()}


def ratios(above: Sequence[float], below: Sequence[float]) -> tuple[float, ...]:
    """Divide round by round."""
    return tuple(a / b for a, b in zip(above, below, strict=True))


def _small_calls(rounds: int) -> Iterator[Figure]:
    with workshop() as shop:
        daemon = shop.daemon()
        with logged_in(daemon) as api:
            body = xmlrpc.client.dumps((api.session, api.ref("guest-1")), "VM.get_name_label")
        request = make_request("/", body.encode())
        content = ask(daemon.port, request)
        ports = {
            "xcpmem": daemon.port,
            "aiohttp": _start_peer(shop, "static", content),
            "stdlib": _start_peer(shop, "stdlib", content),
        }
        took = measure(
            rounds,
            {
                name: Load(port=port, request=request, calls=SMALL_CALLS, connections=CONNECTIONS)
                for name, port in ports.items()
            },
        )
    what = f"small call, {CONNECTIONS} connections"
    yield Figure(what, "ms", took["xcpmem"], None, _peers(took))
    rate = f"{what}: rate beside"
    yield Figure(f"{rate} aiohttp's", "", ratios(took["aiohttp"], took["xcpmem"]), Goal(least=0.6))
    yield Figure(f"{rate} the stdlib's", "", ratios(took["stdlib"], took["xcpmem"]))


def _all_records(rounds: int) -> Iterator[Figure]:
    with workshop() as shop:
        daemon = shop.daemon(scenario=f"fleet:{FLEET}")
        with logged_in(daemon) as api:
            method, params = "VM.get_all_records", [api.session]
            call = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
            requests = {
                "XML": make_request("/", xmlrpc.client.dumps((*params,), method).encode()),
                "JSON": make_request("/jsonrpc", json.dumps(call).encode()),
            }
            for wire, request in requests.items():
                content = ask(daemon.port, request)
                peer = _start_peer(shop, "static", content)
                loads = {
                    "xcpmem": Load(port=daemon.port, request=request, calls=LARGE_CALLS),
                    CHANGED: Load(
                        port=daemon.port, request=request, calls=LARGE_CALLS, prepare=_Changes(api).make
                    ),
                    "static bytes": Load(port=peer, request=request, calls=LARGE_CALLS),
                }
                took = {
                    **measure(rounds, loads),
                    DUMPS: tuple(_time_dumps_ms(wire, content) for _ in range(rounds)),
                }
                yield from _record_figures(f"{FLEET} records, {len(content) / MIB:.1f} MiB of {wire}", took)


class _Changes:
    """Changes one VM in a hundred, so that nobody's memory has to move.

    Args:
        api: a session on the fleet's daemon.
    """

    def __init__(self, api: XenApi) -> None:
        self._api = api
        self._refs = api.call("VM.get_all")[:: FLEET // CHANGED_VMS][:CHANGED_VMS]
        self._least_mib = itertools.cycle((65, 64))

    def make(self) -> None:
        """Give them another dynamic-min, and wait until the ring is at rest again."""
        least = next(self._least_mib) * MIB
        for ref in self._refs:
            self._api.call("VM.set_memory_dynamic_min", ref, least)
        self._api.call("Memory.balance_memory")


def _time_dumps_ms(wire: str, content: bytes) -> float:
    """CPU time of the standard library for writing the same answer, without any server."""
    value = xmlrpc.client.loads(content)[0] if wire == "XML" else json.loads(content)
    gc.collect()
    started_s = time.process_time()
    if isinstance(value, tuple):
        xmlrpc.client.dumps(value, methodresponse=True)
    else:
        json.dumps(value)
    return (time.process_time() - started_s) * 1000


def _record_figures(what: str, took: Times) -> Iterator[Figure]:
    ours, static = took["xcpmem"], took["static bytes"]
    yield Figure(what, "ms", ours, None, _peers(took))
    yield Figure(f"{what}: beside static bytes", "", ratios(ours, static), Goal(most=1.5))
    yield Figure(f"{what}, {CHANGED}: beside static bytes", "", ratios(took[CHANGED], static), Goal(most=2))
    yield Figure(f"{what}: {DUMPS} beside it", "", ratios(took[DUMPS], ours), Goal(least=10))


def _peers(took: Times) -> tuple[tuple[str, str], ...]:
    return tuple((name, in_unit(median(times), "ms")) for name, times in took.items() if name != "xcpmem")


def _start_peer(shop: Workshop, kind: str, content: bytes) -> int:
    path = shop.write(f"{kind}-{len(content)}", content.decode())
    return int(shop.start("-m", "tests.bench.peers", kind, path).read_line())
