"""A recorded stretch thought through again under another policy, and how that differs.

Each recorded look is planned for twice, with the policy that ruled then and with the other one, each with
what it remembers of the looks before. What was seen is what guests held under the recorded policy: another
one would have seen other things in the end, so this compares what the two want, look by look, and not what
would have become of a whole day.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

from xcpmem.engine.belief import Beliefs
from xcpmem.engine.model import Granted, Refused
from xcpmem.engine.planner import plan
from xcpmem.errors import ConfigError, InvalidValue
from xcpmem.plugins import find_installed
from xcpmem.snapshot import host_of, wishes_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from xcpmem.engine.model import HostState, Verdict, Wishes
    from xcpmem.engine.policy import ChosenPolicy

GAP_MOST_S: Final = 600.0
"""A look speaks for so many seconds at most: what lies beyond was not recorded."""

_KINDS: Final[Mapping[str, tuple[type, ...]]] = {
    "time_s": (int, float),
    "monotonic_s": (int, float),
    "policy": (str,),
    "parameters": (dict,),
    "names": (dict,),
}


@dataclass(frozen=True, slots=True)
class Moment:
    """One recorded look.

    Args:
        time_s: Unix time, seconds.
        monotonic_s: the same on the clock of the looks; it begins anew with each daemon.
        policy: by which memory was divided then.
        host: what was seen.
        wishes: what was thought of.
        names: of the VMs, by uuid.
    """

    time_s: float
    monotonic_s: float
    policy: ChosenPolicy
    host: HostState
    wishes: Wishes
    names: Mapping[str, str]


@dataclass(slots=True)
class Share:
    """What one policy wanted for one VM over the stretch; KiB.

    Args:
        sum_kib_s: goal times seconds.
        seconds: during which it was there.
        moved_kib: sum of all changes of the goal.
        last_kib: the latest goal.
    """

    sum_kib_s: float = 0.0
    seconds: float = 0.0
    moved_kib: int = 0
    last_kib: int | None = None

    @property
    def mean_kib(self) -> int:
        """The goal on the average of time, or the last one of a stretch without length."""
        return round(self.sum_kib_s / self.seconds) if self.seconds else self.last_kib or 0

    def take(self, goal_kib: int, seconds: float) -> None:
        """Note what was wanted for so long."""
        self.sum_kib_s += goal_kib * seconds
        self.seconds += seconds
        self.moved_kib += 0 if self.last_kib is None else abs(goal_kib - self.last_kib)
        self.last_kib = goal_kib


@dataclass(slots=True)
class Thoughts:
    """What one policy wanted.

    Args:
        shares: by VM uuid.
        verdicts: on requests, by id.
    """

    shares: dict[str, Share] = field(default_factory=dict)
    verdicts: dict[str, Verdict] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two ways to think of the same stretch.

    Args:
        moments: how many looks.
        since_s: Unix time of the first, seconds.
        until_s: of the last.
        recorded: by the policies that ruled.
        other: by the other one.
        names: of the VMs, by uuid.
    """

    moments: int
    since_s: float
    until_s: float
    recorded: Thoughts
    other: Thoughts
    names: Mapping[str, str]

    def verdicts(self) -> list[tuple[str, str, str]]:
        """List the requests that came out differently: id, then, and with the other policy."""
        ids = self.recorded.verdicts.keys() | self.other.verdicts.keys()
        told = [
            (each, _put(self.recorded.verdicts.get(each)), _put(self.other.verdicts.get(each)))
            for each in sorted(ids)
        ]
        return [row for row in told if row[1] != row[2]]


def rethink(
    moments: Sequence[Moment], policy: ChosenPolicy, tell: Callable[[float], None] = lambda _: None
) -> Comparison:
    """Compare a policy with those that ruled.

    Args:
        moments: by time, at least one.
        policy: the other one.
        tell: told now and then how far it is, from 0 to 1.
    """
    names: dict[str, str] = {}
    for moment in moments:
        names |= moment.names
    return Comparison(
        len(moments),
        moments[0].time_s,
        moments[-1].time_s,
        _think(moments, None, lambda part: tell(part / 2)),
        _think(moments, policy, lambda part: tell((1 + part) / 2)),
        names,
    )


def _think(moments: Sequence[Moment], policy: ChosenPolicy | None, tell: Callable[[float], None]) -> Thoughts:
    """Plan for each look in turn, by one policy or by that which ruled (None)."""
    thoughts, beliefs = Thoughts(), Beliefs()
    lengths_s = [min(max(0.0, after.time_s - now.time_s), GAP_MOST_S) for now, after in pairwise(moments)]
    before_s = float("-inf")
    for done, (moment, length_s) in enumerate(zip(moments, [*lengths_s, 0.0], strict=True)):
        if moment.monotonic_s < before_s:
            beliefs = Beliefs()  # another daemon, which knew nothing yet
        before_s = moment.monotonic_s
        tell(done / len(moments))
        thought = plan(moment.host, moment.wishes, beliefs, moment.monotonic_s, policy or moment.policy)
        beliefs = thought.beliefs
        for domain in moment.host.domains:
            if domain.domid in thought.reasons:
                share = thoughts.shares.setdefault(domain.uuid, Share())
                share.take(thought.reasons[domain.domid].goal_kib, length_s)
        thoughts.verdicts |= {verdict.request_id: verdict for verdict in thought.verdicts}
    return thoughts


def _put(verdict: Verdict | None) -> str:
    match verdict:
        case Granted(_, size_kib):
            return f"{size_kib} KiB"
        case Refused(_, error):
            return error.code
        case _:
            return "waits"


def read_moments(lines: Iterable[str], where: str) -> list[Moment]:
    """Read what ``xcpmem journal-export`` wrote.

    Args:
        lines: one entry each; empty ones are skipped.
        where: they come from, for complaints.

    Raises:
        ConfigError: names the line, the field and what is wrong.
    """
    moments = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                moments.append(_moment(json.loads(line)))
            except InvalidValue as error:
                name, value = error.params
                raise ConfigError(f"{where}:{number}", name, f"cannot be {_short(value)}") from error
            except ValueError as error:
                raise ConfigError(f"{where}:{number}", "", f"is not JSON: {error}") from error
    return moments


def _moment(entry: Any) -> Moment:
    if not isinstance(entry, dict):
        raise InvalidValue("entry", entry)
    for name, kinds in _KINDS.items():
        if type(entry.get(name)) not in kinds:
            raise InvalidValue(name, entry.get(name))
    names = entry["names"]
    if not all(isinstance(name, str) for name in names.values()):
        raise InvalidValue("names", names)
    return Moment(
        time_s=float(entry["time_s"]),
        monotonic_s=float(entry["monotonic_s"]),
        policy=find_installed(entry["policy"], entry["parameters"]),
        host=host_of(entry.get("host")),
        wishes=wishes_of(entry.get("wishes")),
        names=names,
    )


def _short(value: str) -> str:
    limit = 60
    return repr(value) if len(value) <= limit else f"{value[:limit]!r}..."
