"""A fast host for policies: the guest model, balloons and agents of the package, in steps of half a second.

It moves memory by the planner's rules: whoever is to shrink is told at once, growth and starts wait for
memory that is free, a balloon that has not moved for five seconds is taken for dead and its memory leaves
the budget until it moves. It does not write xenstore and plans no order of actions, which is why a run takes
a second; `ring.py` runs the same cases by the real planner on the package's simulated host, to show that the
figures are the same. Whoever decides is a `Controller`: a policy of ours, or a peer's published rule.

Sizes KiB, times seconds unless the name says otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from random import Random
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from tests.bench.policies.cases import Voice
from xcpmem.specs import MICROSECONDS_PER_SECOND, AgentKind, AgentSpec
from xcpmem.units import mib_to_kib
from xcpmem.xen.simagent import SimAgent
from xcpmem.xen.workload import Comfort, Need, Slowness, comfort_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tests.bench.policies.cases import Case, CaseGuest
    from tests.bench.policies.record import Record
    from xcpmem.engine.sample import Sample

STEP_S: Final = 0.5
STEP_US: Final = int(STEP_S * MICROSECONDS_PER_SECOND)
PATIENCE_S: Final = 5.0
WAIT_S: Final = 60.0
FAR_US: Final = 2**62

LIED_KIB: Final = mib_to_kib(8192)
"""What a liar says that it has on swap."""

STOCK_PERIODS_S: Final = {"linux": 60.0, "windows": 120.0, "old": 120.0}
"""How often stock agents report: the Rust agent and xenplus each minute, the others every two (7.2)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Circumstances:
    """What is the same for all who are compared, and is swept.

    Args:
        slowness: how guests take a lack.
        agents: of kind events or meminfo, for guests whose voice is as asked.
        period_s: of agents of kind meminfo; 0: each family's own.
        rate: balloons are so many times as fast as in the case.
        noise: reports err by up to this share of what is used, either way.
        loss: this share of reports never arrives.
    """

    slowness: Slowness = field(default_factory=Slowness)
    agents: AgentKind = AgentKind.EVENTS
    period_s: float = 0.0
    rate: float = 1.0
    noise: float = 0.0
    loss: float = 0.0


class Bias(NamedTuple):
    """How the agents of one family see their guest.

    Args:
        used_percent: of the guest's size that looks used though it could be dropped.
        stall_percent: of the time lost that the agent knows of.
    """

    used_percent: int = 0
    stall_percent: int = 100


BIASES: Final = {"windows": Bias(used_percent=3, stall_percent=70)}
"""Windows does not count its system cache's working set as available, and stalls are guessed from pages read
in (7.4, 7.5); relative to Linux."""


class Seat:
    """A guest as it stands."""

    def __init__(self, number: int, guest: CaseGuest, size_kib: int, rate: float) -> None:
        self.number = number
        self.guest = guest
        self.size_kib = size_kib
        self.goal_kib = size_kib
        self.need = Need(0)
        self.comfort = Comfort(0, 0)
        self.lost = 0
        self.lost_before_ppm = 0
        self.sample: Sample | None = None
        self.agent: SimAgent | None = None
        self.is_pinned = False
        self.shrinks_kib = int(guest.shrinks_kib_s * rate * STEP_S)
        self.grows_kib = int(guest.grows_kib_s * rate * STEP_S)
        self.turn = 0
        self.still_s = 0.0

    @property
    def stall_us(self) -> int:
        """What it has lost, microseconds."""
        return self.lost // MICROSECONDS_PER_SECOND

    @property
    def min_kib(self) -> int:
        """The low end of its range."""
        return self.guest.dynamic_min_kib

    @property
    def max_kib(self) -> int:
        """The high end of its range."""
        return self.guest.dynamic_max_kib

    @property
    def anon_kib(self) -> int:
        """What it has in use, on swap or not, as Qubes' agent and ours report it."""
        return self.need.anon_kib

    @property
    def used_kib(self) -> int:
        """What it holds and cannot drop."""
        return min(self.need.anon_kib - self.comfort.swapped_kib, self.size_kib)

    @property
    def avail_kib(self) -> int:
        """What it calls available: free, or cache that it could drop."""
        return self.size_kib - self.used_kib


class Controller(Protocol):
    """Who decides: a policy of ours, or a re-implementation of a peer's published rule."""

    @property
    def name(self) -> str:
        """What the tables call it."""

    def decide(self, now_s: float, seats: Sequence[Seat], budget_kib: int) -> Mapping[int, int] | None:
        """Say who should have how much.

        Args:
            now_s: since the start.
            seats: the guests whose balloons work; of what they know, a peer looks at its own inputs only.
            budget_kib: what they may have together.

        Returns:
            Targets by the seats' numbers, or None to leave all as it is.
        """

    def admits(self, size_kib: int, seats: Sequence[Seat], free_kib: int) -> bool:
        """Say whether a start is tried at all."""


class Rig:
    """One run.

    Args:
        case: the workload.
        controller: who decides.
        circumstances: what else matters.
        record: where everything is written down.
        seed: of noise and loss.
    """

    def __init__(
        self, case: Case, controller: Controller, circumstances: Circumstances, record: Record, seed: int = 0
    ) -> None:
        self.case = case
        self.now_us = 0
        self.seats: list[Seat] = []
        self._controller = controller
        self._circumstances = circumstances
        self._record = record
        self._random = Random(seed)  # noqa: S311  (repeatable noise, no secret)
        self._to_start = sorted(
            (number for number, guest in enumerate(case.guests) if guest.start_kib),
            key=lambda number: case.guests[number].starts_s,
        )
        self._waiting: list[tuple[int, float]] = []
        self._begin()

    @property
    def now_s(self) -> float:
        """Virtual time."""
        return self.now_us / MICROSECONDS_PER_SECOND

    @property
    def free_kib(self) -> int:
        """What nobody holds."""
        return self.case.budget_kib - sum(seat.size_kib for seat in self.seats)

    def run(self) -> None:
        """Let the whole case happen."""
        record = self._record
        for _ in range(round(self.case.duration_s / STEP_S)):
            self._change_needs()
            self._admit()
            self._hear()
            self._decide()
            for seat in self.seats:
                seat.lost_before_ppm = seat.comfort.lost_ppm
            self._move()
            record.note_step(self.now_s, self.seats, self.case)
            self.now_us += STEP_US

    def _begin(self) -> None:
        numbers = [number for number, guest in enumerate(self.case.guests) if not guest.start_kib]
        sizes_kib = weighted_share(self.case.budget_kib, [self.case.guests[number] for number in numbers])
        for number, size_kib in zip(numbers, sizes_kib, strict=True):
            self._seat(number, size_kib)

    def _seat(self, number: int, size_kib: int) -> None:
        guest = self.case.guests[number]
        seat = Seat(number, guest, size_kib, self._circumstances.rate)
        is_stock = guest.voice in {Voice.OLD, Voice.STOCK}
        kind = AgentKind.MEMINFO if is_stock else self._circumstances.agents
        if guest.voice is not Voice.SILENT:
            period_s = self._circumstances.period_s or STOCK_PERIODS_S[guest.family]
            seat.agent = SimAgent(AgentSpec(kind=kind, period_s=period_s), self.now_us)
        self.seats.append(seat)
        self.seats.sort(key=lambda each: each.number)

    def _change_needs(self) -> None:
        for seat in self.seats:
            turns = seat.guest.turns
            while seat.turn < len(turns) and turns[seat.turn].at_s <= self.now_s:
                self._record.note_need(self.now_s, seat, turns[seat.turn].need)
                seat.need = turns[seat.turn].need
                seat.turn += 1
                self._feel(seat)

    def _feel(self, seat: Seat) -> None:
        seat.comfort = comfort_of(seat.need, seat.size_kib, self._circumstances.slowness)

    def _admit(self) -> None:
        """End guests whose time is over, take requests to start, and start those for whom there is room."""
        self.seats = [seat for seat in self.seats if not seat.guest.ends_s or seat.guest.ends_s > self.now_s]
        while self._to_start and self.case.guests[self._to_start[0]].starts_s <= self.now_s:
            number = self._to_start.pop(0)
            size_kib = self.case.guests[number].start_kib
            if self._controller.admits(size_kib, self._movable(), self.free_kib):
                self._waiting.append((number, self.now_s))
            else:
                self._record.note_start(number, None)
        waiting, self._waiting = self._waiting, []
        for number, since_s in waiting:
            guest = self.case.guests[number]
            if guest.start_kib <= self.free_kib:
                self._record.note_start(number, self.now_s - since_s)
                self._seat(number, guest.start_kib)
            elif self.now_s - since_s >= WAIT_S:
                self._record.note_start(number, None)
            else:
                self._waiting.append((number, since_s))

    def _hear(self) -> None:
        """Let agents look at their guests, and take what they say."""
        for seat in self.seats:
            agent = seat.agent
            if agent is None or agent.looks_next_us is None or agent.looks_next_us > self.now_us:
                continue
            bias = BIASES.get(seat.guest.family, Bias())
            anon_kib = seat.anon_kib + seat.size_kib * bias.used_percent // 100
            if seat.guest.voice is Voice.OLD:
                anon_kib = max(anon_kib, seat.size_kib * 97 // 100)
            at_rest = seat.goal_kib == seat.size_kib or seat.is_pinned
            if agent.look(
                self.now_us,
                size_kib=seat.size_kib,
                anon_kib=anon_kib,
                comfort=seat.comfort,
                stall_us=seat.stall_us * bias.stall_percent // 100,
                rest_us=self._next_turn_us(seat) if at_rest else self.now_us,
            ):
                self._receive(seat, agent)

    def _next_turn_us(self, seat: Seat) -> int:
        turns = seat.guest.turns
        return int(turns[seat.turn].at_s * MICROSECONDS_PER_SECOND) if seat.turn < len(turns) else FAR_US

    def _receive(self, seat: Seat, agent: SimAgent) -> None:
        noise, loss = self._circumstances.noise, self._circumstances.loss
        said = agent.sample
        if said is None or (loss and self._random.random() < loss):
            return
        if seat.guest.voice is Voice.LIAR:
            used_kib, swapped_kib, stall_us = seat.size_kib, LIED_KIB, self.now_us
            said = replace(said, used_kib=used_kib, swapped_kib=swapped_kib, stall_us=stall_us)
        if noise:
            error = 1 + self._random.uniform(-noise, noise)
            used_kib = min(int(said.used_kib * error), seat.size_kib)
            said = replace(said, used_kib=used_kib)
        seat.sample = said

    def _movable(self) -> list[Seat]:
        return [seat for seat in self.seats if not seat.is_pinned]

    def _budget_kib(self) -> int:
        """What the guests whose balloons work may have together."""
        pinned_kib = sum(seat.size_kib for seat in self.seats if seat.is_pinned)
        waiting_kib = sum(self.case.guests[number].start_kib for number, _ in self._waiting)
        return self.case.budget_kib - pinned_kib - waiting_kib

    def _decide(self) -> None:
        seats, budget_kib = self._movable(), self._budget_kib()
        targets = self._controller.decide(self.now_s, seats, budget_kib)
        if targets is None:
            return
        self._record.note_plan(self.now_s, seats, targets, budget_kib)
        for seat in seats:
            if seat.number in targets:
                seat.goal_kib = targets[seat.number]

    def _move(self) -> None:
        free_kib = self.free_kib
        growers = []
        for seat in self.seats:
            gap_kib = seat.goal_kib - seat.size_kib
            if not gap_kib or seat.is_pinned:
                continue
            if gap_kib > 0:
                growers.append(seat)
                continue
            step_kib = min(-gap_kib, seat.shrinks_kib)
            free_kib += step_kib
            self._resize(seat, -step_kib)
            self._watch(seat, moved=step_kib > 0)
        spare_kib = free_kib - sum(self.case.guests[number].start_kib for number, _ in self._waiting)
        wants_kib = [min(seat.goal_kib - seat.size_kib, seat.grows_kib) for seat in growers]
        whole_kib = sum(wants_kib)
        for seat, want_kib in zip(growers, wants_kib, strict=True):
            step_kib = want_kib if whole_kib <= spare_kib else max(0, spare_kib) * want_kib // whole_kib
            self._resize(seat, step_kib)
            self._watch(seat, moved=step_kib > 0 or seat.grows_kib > 0)

    def _resize(self, seat: Seat, by_kib: int) -> None:
        if by_kib:
            self._record.note_move(self.now_s, seat, by_kib)
            seat.size_kib += by_kib
            if seat.agent is not None:
                seat.agent.wake(self.now_us)
            self._feel(seat)

    def _watch(self, seat: Seat, *, moved: bool) -> None:
        """Take a balloon for dead that was asked and did not move."""
        seat.still_s = 0.0 if moved else seat.still_s + STEP_S
        if seat.still_s >= PATIENCE_S:
            seat.is_pinned, seat.goal_kib = True, seat.size_kib


def weighted_share(budget_kib: int, guests: Sequence[CaseGuest]) -> list[int]:
    """Divide a budget by XCP's rule, each range counted as often as the guest's weight.

    Guests that the common proportion would push past their dynamic-max stop there, and it is solved again
    for the others. This is what a guest is entitled to.
    """
    shares_kib = [guest.dynamic_max_kib for guest in guests]
    open_numbers = list(range(len(guests)))
    while open_numbers:
        left_kib = budget_kib - sum(
            shares_kib[number] for number in range(len(guests)) if number not in open_numbers
        )
        spare_kib = max(0, left_kib - sum(guests[number].dynamic_min_kib for number in open_numbers))
        whole = sum(_pull(guests[number]) for number in open_numbers)
        capped = [number for number in open_numbers if spare_kib * guests[number].weight >= whole > 0]
        if not capped:
            for number in open_numbers:
                more_kib = spare_kib * _pull(guests[number]) // whole if whole else 0
                shares_kib[number] = guests[number].dynamic_min_kib + more_kib
            break
        open_numbers = [number for number in open_numbers if number not in capped]
    return shares_kib


def _pull(guest: CaseGuest) -> int:
    return guest.weight * (guest.dynamic_max_kib - guest.dynamic_min_kib)
