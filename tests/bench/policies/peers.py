"""Peers: re-implementations of their published rules, with their own inputs, cadences and slack.

None of them is the program itself; each stands for the rule that its source or paper states (the study's
sections 1 to 4). All run on the same rig, which orders movements and sets dead balloons aside for them.
Sizes KiB, times seconds.
"""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Final

from xcpmem.engine.policy import Claim
from xcpmem.engine.proportional import share
from xcpmem.units import mib_to_kib

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tests.bench.policies.rig import Seat


class Peer:
    """One that takes every start."""

    name = ""

    def admits(self, size_kib: int, seats: Sequence[Seat], free_kib: int) -> bool:
        """Take it."""
        return True


class _Ticking(Peer):
    """One that decides every so often, and at once when the budget or the guests change."""

    period_s = 10.0

    def __init__(self) -> None:
        self._next_s = 0.0
        self._seen: tuple[int, tuple[int, ...]] = (0, ())

    def is_due(self, now_s: float, seats: Sequence[Seat], budget_kib: int, *, by_event: bool = True) -> bool:
        """Tell whether to decide now."""
        seen = (budget_kib, tuple(seat.number for seat in seats))
        due = now_s >= self._next_s or (by_event and seen != self._seen)
        if due:
            self._seen = seen
            self._next_s = now_s + self.period_s
        return due


class Squeezed(_Ticking):
    """XCP's rule (3.1 of squeezed's study): one proportion for all, every 10 s and for each request."""

    name = "squeezed"

    def decide(self, now_s: float, seats: Sequence[Seat], budget_kib: int) -> Mapping[int, int] | None:
        """Divide what there is, whatever guests need."""
        if not self.is_due(now_s, seats, budget_kib):
            return None
        claims = [Claim(seat.min_kib, seat.max_kib, seat.min_kib, seat.max_kib) for seat in seats]
        return named(seats, share(budget_kib, claims))


class Qmemman(Peer):
    """Qubes' rule (1.2, 1.3): 1.3 times what is used, and the rest in proportion to that.

    Input: used memory with swap, ten times a second, written when it moved by more than 30,000 KiB, or by
    15,000 KiB upwards once the margin is gone. 50 MiB stay free. Guests without an agent take no part.
    """

    name = "qmemman"

    FACTOR_TENTHS: Final = 13
    LEAST_KIB: Final = mib_to_kib(200)
    LEFT_KIB: Final = mib_to_kib(50)
    THRESHOLD_KIB: Final = 30_000
    TRANSFER_KIB: Final = mib_to_kib(150)
    GAIN_KIB: Final = mib_to_kib(15)
    DONOR_KIB: Final = mib_to_kib(10)

    def __init__(self) -> None:
        self._said: dict[int, int] = {}
        self._budget_kib = 0

    def decide(self, now_s: float, seats: Sequence[Seat], budget_kib: int) -> Mapping[int, int] | None:
        """Balance when somebody said something new, or a start wants room."""
        news = [self._hear(seat) for seat in seats if seat.agent is not None]
        has_news = any(news) or budget_kib != self._budget_kib
        shrinks = budget_kib < self._budget_kib
        self._budget_kib = budget_kib
        if not has_news:
            return None
        mute_kib = sum(seat.size_kib for seat in seats if seat.agent is None)
        heard = [seat for seat in seats if seat.number in self._said]
        targets = self._balance(heard, budget_kib - mute_kib - self.LEFT_KIB)
        return targets if shrinks or self._is_worth_it(heard, targets) else None

    def admits(self, size_kib: int, seats: Sequence[Seat], free_kib: int) -> bool:
        """Refuse at once what the donors' surplus does not cover."""
        surplus_kib = sum(
            max(0, seat.size_kib - self.pref_kib(seat)) for seat in seats if seat.number in self._said
        )
        return free_kib - self.LEFT_KIB + surplus_kib >= size_kib

    def pref_kib(self, seat: Seat) -> int:
        """What a guest should have, KiB."""
        used_kib = self._said[seat.number]
        return min(max(used_kib * self.FACTOR_TENTHS // 10, self.LEAST_KIB, seat.min_kib), seat.max_kib)

    def _hear(self, seat: Seat) -> bool:
        used_kib, said_kib = seat.anon_kib, self._said.get(seat.number)
        if said_kib is not None:
            margin_gone = used_kib * self.FACTOR_TENTHS > seat.size_kib * 10
            up = margin_gone and used_kib - said_kib > self.THRESHOLD_KIB // 2
            if not up and abs(used_kib - said_kib) <= self.THRESHOLD_KIB:
                return False
        self._said[seat.number] = used_kib
        return True

    def _balance(self, seats: Sequence[Seat], budget_kib: int) -> dict[int, int]:
        prefs_kib = {seat.number: self.pref_kib(seat) for seat in seats}
        available_kib = budget_kib - sum(prefs_kib.values())
        if available_kib > 0:
            return self._enough(seats, prefs_kib, available_kib)
        return self._low(seats, prefs_kib, budget_kib)

    def _enough(
        self, seats: Sequence[Seat], prefs_kib: Mapping[int, int], available_kib: int
    ) -> dict[int, int]:
        whole_kib = sum(prefs_kib.values())
        targets = {
            seat.number: prefs_kib[seat.number] + available_kib * prefs_kib[seat.number] // whole_kib
            for seat in seats
        }
        targets = {number: size_kib * 999 // 1000 for number, size_kib in targets.items()}
        excess_kib, open_seats = 0, list(seats)
        while True:
            capped = [seat for seat in open_seats if targets[seat.number] > seat.max_kib]
            for seat in capped:
                excess_kib += targets[seat.number] - seat.max_kib
                targets[seat.number] = seat.max_kib
                open_seats.remove(seat)
            if not excess_kib or not open_seats:
                break
            each_kib = excess_kib // len(open_seats)
            for seat in open_seats:
                targets[seat.number] += each_kib
            excess_kib = 0
        return {seat.number: max(targets[seat.number], seat.min_kib) for seat in seats}

    def _low(self, seats: Sequence[Seat], prefs_kib: Mapping[int, int], budget_kib: int) -> dict[int, int]:
        """Take from those above their preference down to it, and give to the others by preference."""
        targets = {seat.number: seat.size_kib for seat in seats}
        free_kib = budget_kib - sum(seat.size_kib for seat in seats)
        acceptors = []
        for seat in seats:
            surplus_kib = seat.size_kib - prefs_kib[seat.number]
            if surplus_kib >= 0 or seat.size_kib >= seat.max_kib:
                if surplus_kib >= self.DONOR_KIB:
                    targets[seat.number] = prefs_kib[seat.number]
                    free_kib += surplus_kib
            else:
                acceptors.append(seat)
        whole_kib = sum(prefs_kib[seat.number] for seat in acceptors)
        for seat in acceptors:
            if free_kib > 0:
                more_kib = free_kib * prefs_kib[seat.number] // whole_kib
                targets[seat.number] = min(seat.size_kib + more_kib, seat.max_kib)
        return targets

    def _is_worth_it(self, seats: Sequence[Seat], targets: Mapping[int, int]) -> bool:
        changes_kib = [targets[seat.number] - seat.size_kib for seat in seats]
        if sum(abs(change_kib) for change_kib in changes_kib) > self.TRANSFER_KIB:
            return True
        return any(
            seat.size_kib < self.pref_kib(seat) and change_kib > self.GAIN_KIB
            for seat, change_kib in zip(seats, changes_kib, strict=True)
        )


class Proxmox(_Ticking):
    """Proxmox VE's rule (3.2): shares of what is above the minimum, pressed guests first, 100 MiB at most.

    Input: free memory of each guest, every 10 s. Its host keeps 20 % free; it was given a host so much
    larger that this costs its guests nothing.
    """

    name = "Proxmox"

    MOST_KIB: Final = mib_to_kib(100)
    DEAD_BAND_KIB: Final = mib_to_kib(10)

    def decide(self, now_s: float, seats: Sequence[Seat], budget_kib: int) -> Mapping[int, int] | None:
        """Move everybody a step towards its share."""
        if not self.is_due(now_s, seats, budget_kib, by_event=False):
            return None
        rest_kib = budget_kib - sum(seat.goal_kib for seat in seats)
        if abs(rest_kib) <= self.DEAD_BAND_KIB:
            return None
        enough = [
            seat
            for seat in seats
            if seat.agent is not None and seat.avail_kib * 4 > seat.min_kib and seat.size_kib >= seat.min_kib
        ]
        pressed = [seat for seat in seats if seat not in enough]
        first = pressed if rest_kib >= 0 else enough
        sizes_kib = {seat.number: seat.goal_kib for seat in seats}
        moved_kib = dict.fromkeys(sizes_kib, 0)
        left_kib = self._level(first, rest_kib, sizes_kib, moved_kib)
        if left_kib == rest_kib:
            self._level(seats, left_kib, sizes_kib, moved_kib)
        return sizes_kib

    def _level(
        self, seats: Sequence[Seat], rest_kib: int, sizes_kib: dict[int, int], moved_kib: dict[int, int]
    ) -> int:
        """Move a list of guests, and tell what is left of the rest."""
        whole = sum(seat.guest.weight for seat in seats)
        changed = bool(seats)
        while changed and rest_kib:
            pool_kib = sum(sizes_kib[seat.number] - seat.min_kib for seat in seats) + rest_kib
            changed = False
            for seat in seats:
                desired_kib = seat.min_kib + pool_kib * seat.guest.weight // whole
                desired_kib = min(max(desired_kib, seat.min_kib), seat.max_kib)
                change_kib = desired_kib - sizes_kib[seat.number]
                room_kib = self.MOST_KIB - abs(moved_kib[seat.number])
                change_kib = max(-room_kib, min(room_kib, change_kib, max(0, rest_kib)))
                sizes_kib[seat.number] += change_kib
                moved_kib[seat.number] += change_kib
                rest_kib -= change_kib
                changed |= change_kib != 0
        return rest_kib


class Esx(_Ticking):
    """ESX's rule (4.1): shares, and a tax on idle memory as 100 random pages say every 30 s.

    The estimate of what is active is the greatest of a slow mean, a fast mean, and the last sample; 6 % of
    memory stay free.

    Args:
        seed: of the sampling.
        tax: the idle memory tax, 0 to less than 1; ESX's own is 0.75.
    """

    name = "ESX"
    period_s = 30.0

    PAGES: Final = 100
    FREE: Final = 0.06
    FAST: Final = 0.5
    SLOW: Final = 0.1

    def __init__(self, seed: int = 0, tax: float = 0.75) -> None:
        super().__init__()
        self._price = 1 / (1 - tax)
        self._random = Random(f"esx/{seed}")  # noqa: S311  (sampling noise, no secret)
        self._means: dict[int, tuple[float, float]] = {}
        self._active: dict[int, float] = {}
        self._sample_s = 0.0

    def decide(self, now_s: float, seats: Sequence[Seat], budget_kib: int) -> Mapping[int, int] | None:
        """Sample each half minute, and divide by shares that idle memory costs more of."""
        if now_s >= self._sample_s:
            self._sample_s = now_s + self.period_s
            for seat in seats:
                self._sample(seat)
        if not self.is_due(now_s, seats, budget_kib):
            return None
        for seat in seats:
            if seat.number not in self._active:
                self._sample(seat)
        whole_kib = budget_kib - int(self.FREE * budget_kib)
        return named(seats, self.divide(whole_kib, seats, self._active))

    def divide(self, budget_kib: int, seats: Sequence[Seat], active: Mapping[int, float]) -> list[int]:
        """Find sizes at which every guest pays the same shares a page, idle pages at the taxed price."""

        def size_at(level: float, seat: Seat) -> float:
            pays = level * seat.guest.weight
            used = active[seat.number] * seat.size_kib
            size = pays if pays <= used else used + (pays - used) / self._price
            return min(max(size, seat.min_kib), seat.max_kib)

        low, high = 0.0, 16.0 * max(budget_kib, 1)
        for _ in range(60):
            middle = (low + high) / 2
            if sum(size_at(middle, seat) for seat in seats) <= budget_kib:
                low = middle
            else:
                high = middle
        return [int(size_at(low, seat)) for seat in seats]

    def _sample(self, seat: Seat) -> None:
        hot_kib = seat.need.hot_kib + seat.need.cache_kib
        share_touched = min(1.0, hot_kib / seat.size_kib)
        touched = sum(self._random.random() < share_touched for _ in range(self.PAGES)) / self.PAGES
        fast, slow = self._means.get(seat.number, (touched, touched))
        fast += self.FAST * (touched - fast)
        slow += self.SLOW * (touched - slow)
        self._means[seat.number] = (fast, slow)
        self._active[seat.number] = max(fast, slow, touched)


class Mom(Peer):
    """MOM's stock balloon rules (2.4), every 10 s, on means over ten samples of five seconds.

    Input: what guests call unused. It runs on a host that has 5 % more than its guests may have together.

    Args:
        host_kib: the whole host; 0: as above.
        sample_s: how often it collects.
    """

    name = "MOM"

    PRESSURE: Final = 0.20
    LEAST: Final = 0.0025

    def __init__(self, host_kib: int = 0, sample_s: float = 5.0) -> None:
        self._host_kib = host_kib
        self._period_s = sample_s
        self._samples: list[tuple[int, dict[int, int]]] = []
        self._sample_s = 0.0
        self._next_s = 10.0

    def decide(self, now_s: float, seats: Sequence[Seat], budget_kib: int) -> Mapping[int, int] | None:
        """Shrink when the host is short of free memory, grow when it is not."""
        held_kib = sum(seat.size_kib for seat in seats)
        host_kib = self._host_kib or budget_kib * 105 // 100
        if now_s >= self._sample_s:
            self._sample_s = now_s + self._period_s
            used = {seat.number: seat.used_kib for seat in seats}
            self._samples = [*self._samples[-9:], (host_kib - held_kib, used)]
        if now_s < self._next_s:
            return None
        self._next_s = now_s + 10.0
        free = sum(free_kib for free_kib, _ in self._samples) / len(self._samples) / host_kib
        targets = {}
        for seat in seats:
            new_kib = self._new_kib(seat, free)
            if abs(new_kib - seat.size_kib) > self.LEAST * seat.size_kib:
                targets[seat.number] = min(max(new_kib, seat.min_kib), seat.max_kib)
        return self._fitting(seats, targets, budget_kib)

    def _new_kib(self, seat: Seat, free: float) -> int:
        said = [used[seat.number] for _, used in self._samples if seat.number in used]
        mean_kib = sum(said) / len(said)
        size_kib = seat.size_kib
        if free < self.PRESSURE:
            part = free - 0.05 if free <= 0.05 else free
            wanted = max(seat.min_kib, mean_kib + part * size_kib)
            return int(max(0.95 * size_kib, wanted))
        wanted = max(seat.min_kib, mean_kib + self.PRESSURE * size_kib)
        return int(min(seat.max_kib, max(1.05 * size_kib, wanted)))

    @staticmethod
    def _fitting(seats: Sequence[Seat], targets: dict[int, int], budget_kib: int) -> dict[int, int]:
        """Grant growth only as far as it fits: a Xen host cannot give more than it has."""
        goals_kib = {seat.number: targets.get(seat.number, seat.goal_kib) for seat in seats}
        excess_kib = sum(goals_kib.values()) - budget_kib
        growth_kib = sum(max(0, goals_kib[seat.number] - seat.size_kib) for seat in seats)
        if excess_kib <= 0:
            return targets
        for seat in seats:
            more_kib = goals_kib[seat.number] - seat.size_kib
            if more_kib > 0:
                targets[seat.number] = (
                    seat.size_kib + max(0, growth_kib - excess_kib) * more_kib // growth_kib
                )
        return targets


def named(seats: Sequence[Seat], sizes_kib: Sequence[int]) -> dict[int, int]:
    """Say which seat is to have which size."""
    return {seat.number: size_kib for seat, size_kib in zip(seats, sizes_kib, strict=True)}
