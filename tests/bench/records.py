"""Section ``records``: all VMs' records at once, beside as many static bytes and the stdlib's ``dumps``.

Over HTTP the time is that of a client which reads the whole answer, and the CPU time that of the server. In
process there is no HTTP: the CPU time of making the bytes, beside that of the standard library for the same.
"""

from __future__ import annotations

import gc
import itertools
import json
import time
import xmlrpc.client
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from tests.apistack import a_halted_vm
from tests.bench.figures import Curve, Figure, Goal, ratios
from tests.bench.load import Load, ask, cpu, make_request, took
from tests.bench.peers import start_peer
from tests.bench.rig import FLEETS, beside, wait_for_rest
from tests.builders import uuid_of
from tests.e2e.clients import logged_in
from tests.e2e.programs import workshop
from xcpmem.api import codec, fields, jsonrpc
from xcpmem.api.values import RecordMap
from xcpmem.refs import NULL_REF

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.bench.rig import Rig
    from tests.e2e.clients import XenApi
    from tests.e2e.programs import Daemon, Workshop
    from xcpmem.api.values import Record
    from xcpmem.vm import Vm

CALLS: Final = 6
FLEET: Final = 1000
CHANGED_PART: Final = 100
"""One VM in so many changes."""
OURS: Final = "xcpmem"
CHANGED: Final = "1 % changed"
STATIC: Final = "static bytes"
STATIC_THEN: Final = "static bytes after the same changes"
"""A pause makes every server slower, hence this beside what was measured with one."""
DUMPS: Final = "the stdlib's dumps"
SAME: Final = "dumps"
"""Of what was made in process."""
AS_DUMPS: Final = Goal(least=10)
METHOD: Final = "VM.get_all_records"
MIB: Final = 1 << 20


def figures(rig: Rig) -> Iterator[Figure | Curve]:
    """Measure over HTTP and in process, and how the former grows."""
    lines: dict[str, dict[int, tuple[float, ...]]] = {OURS: {}, STATIC: {}}
    for size in FLEETS:
        with workshop() as shop, rig.daemon(shop, f"records-{size}", scenario=f"fleet:{size}") as daemon:
            xml = _Answers(rig, shop, daemon, "XML", changes=size == FLEET)
            for name, line in lines.items():
                line[size] = xml.times[name]
            if size == FLEET:
                yield from xml.figures()
                yield from _Answers(rig, shop, daemon, "JSON", changes=True).figures()
    yield Curve(
        "VM.get_all_records over HTTP, XML",
        "ms",
        "VMs",
        lines,
        "Bounded by the bytes: 6.9 KB for each VM have to be copied to the kernel and read by the client.",
    )


class _Answers:
    """The answers of a daemon on one wire, beside the same bytes from elsewhere.

    Args:
        rig: measures.
        shop: where the peer runs.
        daemon: ours.
        wire: ``XML`` or ``JSON``.
        changes: whether to measure with changes as well.
    """

    def __init__(self, rig: Rig, shop: Workshop, daemon: Daemon, wire: str, *, changes: bool) -> None:
        with logged_in(daemon) as api:
            request = _request(wire, api.session)
            self.content = ask(daemon.port, request)
            peer = start_peer(shop, "static", self.content)

            def load(port: int, pid: int, prepare: Callable[[], None] | None = None) -> Load:
                return Load(port=port, pid=pid, request=request, calls=CALLS, prepare=prepare)

            pid = daemon.process.pid
            loads = {OURS: load(daemon.port, pid), STATIC: load(peer.port, peer.pid)}
            if changes:
                change = _Changes(api, pid).make
                loads[CHANGED] = load(daemon.port, pid, change)
                loads[STATIC_THEN] = load(peer.port, peer.pid, change)
            costs = rig.in_turns({name: each.measure for name, each in loads.items()})
        self.times, self._spent = took(costs), cpu(costs)
        self._rig, self._wire = rig, wire

    def figures(self) -> Iterator[Figure]:
        """Give the figures of a wire: a client's time, the server's CPU, and the CPU in process."""
        what = f"{FLEET} records, {len(self.content) / MIB:.1f} MiB of {self._wire}"
        times, spent = self.times, self._spent
        encoding = _Encoding(self._wire)
        alone = self._rig.in_turns(
            {
                DUMPS: _time_dumps(self._wire, self.content),
                SAME: _time_dumps(self._wire, encoding.encode()),
                OURS: encoding.time_ms,
                CHANGED: encoding.time_changed_ms,
            }
        )
        unchanged, changed = ratios(times[OURS], times[STATIC]), ratios(times[CHANGED], times[STATIC_THEN])
        yield Figure(what, "ms", times[OURS], None, beside(times, "ms", CHANGED, STATIC, STATIC_THEN))
        yield Figure(f"{what}: beside static bytes", "", unchanged, Goal(most=1.5))
        yield Figure(f"{what}, {CHANGED}: beside static bytes", "", changed, Goal(most=2))
        yield Figure(f"{what}: CPU", "ms", spent[OURS], None, beside(spent, "ms", CHANGED, STATIC))
        whole, of_server = ratios(alone[DUMPS], times[OURS]), ratios(alone[DUMPS], spent[OURS])
        yield Figure(f"{what}: {DUMPS} beside the whole call", "", whole, AS_DUMPS)
        yield Figure(f"{what}: {DUMPS} beside the server's CPU", "", of_server, AS_DUMPS)
        yield Figure(f"{what}, in process", "ms", alone[OURS], None, beside(alone, "ms", CHANGED, SAME))
        yield Figure(f"{what}, in process: {SAME} beside it", "", ratios(alone[SAME], alone[OURS]), AS_DUMPS)
        in_process = ratios(alone[SAME], alone[CHANGED])
        yield Figure(f"{what}, {CHANGED}, in process: {SAME} beside it", "", in_process, AS_DUMPS)


class _Changes:
    """Changes one VM in a hundred, so that nobody's memory has to move.

    Args:
        api: a session on the fleet's daemon.
        pid: of that daemon.
    """

    def __init__(self, api: XenApi, pid: int) -> None:
        self._api = api
        self._pid = pid
        self._refs = [
            api.ref(f"guest-{number}") for number in range(1, len(api.call("VM.get_all")), CHANGED_PART)
        ]
        self._least_mib = itertools.cycle((65, 64))

    def make(self) -> None:
        """Give them another dynamic-min, and wait until the daemon is at rest again."""
        least = next(self._least_mib) * MIB
        for ref in self._refs:
            self._api.call("VM.set_memory_dynamic_min", ref, least)
        self._api.call("Memory.balance_memory")
        wait_for_rest(self._pid)


class _Encoding:
    """Answers made in process, of records that nobody serves.

    Args:
        wire: ``XML`` or ``JSON``.
    """

    def __init__(self, wire: str) -> None:
        self._wire = wire
        vms = (replace(a_halted_vm(f"guest-{number}"), uuid=uuid_of(number)) for number in range(FLEET))
        self._records = {vm.uuid: self._record(vm) for vm in vms}
        self._map = RecordMap(self._records)
        self._number = itertools.count()

    @staticmethod
    def _record(vm: Vm) -> Record:
        return fields.complete("VM", fields.vm_fields(vm, NULL_REF))

    def encode(self) -> bytes:
        """Make the answer."""
        if self._wire == "XML":
            return codec.encode_success(self._map)
        return jsonrpc.encode_success(jsonrpc.Request(METHOD, (), 1, is_version_2=True), self._map)

    def time_ms(self) -> float:
        """CPU time where nothing has changed."""
        return _cpu_time_ms(self.encode)

    def time_changed_ms(self) -> float:
        """CPU time where new records of some VMs were made."""
        label = f"guest-{next(self._number)}"
        for number in range(0, FLEET, CHANGED_PART):
            vm = replace(a_halted_vm(label), uuid=uuid_of(number))
            self._records[vm.uuid] = self._record(vm)
        return _cpu_time_ms(self._encode_changed)

    def _encode_changed(self) -> bytes:
        self._map = RecordMap(dict(self._records), self._map)
        return self.encode()


def _time_dumps(wire: str, content: bytes) -> Callable[[], float]:
    """Make a measurement: CPU time of the standard library for the same answer."""
    if wire == "XML":
        value = xmlrpc.client.loads(content)[0]
        return lambda: _cpu_time_ms(lambda: xmlrpc.client.dumps(value, methodresponse=True))
    answer = json.loads(content)
    return lambda: _cpu_time_ms(lambda: json.dumps(answer))


def _request(wire: str, session: str) -> bytes:
    if wire == "XML":
        return make_request("/", xmlrpc.client.dumps((session,), METHOD).encode())
    call = {"jsonrpc": "2.0", "id": 1, "method": METHOD, "params": [session]}
    return make_request("/jsonrpc", json.dumps(call).encode())


def _cpu_time_ms(work: Callable[[], object]) -> float:
    gc.collect()
    started_s = time.process_time()
    work()
    return (time.process_time() - started_s) * 1000
