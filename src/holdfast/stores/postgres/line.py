"""The line of ready runs, read from the tables: lanes, limits and pauses for ``stores/lanes.py``.

One round reads what ``choose`` needs, another leases what it chose. They are two transactions, so
what was read may have changed: a run that somebody else took is skipped, and from a queue with
limits nothing is leased if somebody else has claimed from it since.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from holdfast.ports import QueueInfo, QueueLimits
from holdfast.stores.lanes import LANES_MAX, Lane, Ready, Room, choose
from holdfast.stores.postgres import statements as sql
from holdfast.stores.postgres.flow import Flow, Round, Row, Statement
from holdfast.stores.postgres.values import Ints, Texts

__all__ = ["Line", "Tour", "lease", "queues", "reading"]

_KEYED_HEADS = 16
"""Runs of one lane with a key that one claim looks at."""


_NOWHERE = ("", sql.PRIORITY_NOWHERE, "")


class Tour:
    """From which lane on the next claim looks, where an agent has more than one compares."""

    def __init__(self) -> None:
        self._last: dict[str, tuple[str, int, str]] = {}
        """Agent → the last lane looked at: queue, priority, key."""

    def places(self, agents: Sequence[str]) -> tuple[Texts, Texts, Ints, Texts]:
        """Return the columns of what is asked: for each agent, behind which lane to begin."""
        begin = [self._last.get(agent, _NOWHERE) for agent in agents]
        queues, priorities, keys = zip(*begin, strict=True) if begin else ((), (), ())
        return Texts(agents), Texts(queues), Ints(priorities), Texts(keys)

    def note(self, agents: Sequence[str], lanes: set[Row]) -> None:
        """Go on behind the lanes of these agents that were compared, if these were not all."""
        for agent in agents:
            mine = sorted(tuple(place) for asked, *place in lanes if asked == agent)
            begin = self._last.pop(agent, _NOWHERE)
            if len(lanes) >= LANES_MAX:  # behind those from ``begin`` on came those up to it
                wrapped = [place for place in mine if place <= begin]
                self._last[agent] = (wrapped or mine or [begin])[-1]


@dataclass(slots=True)
class Line:
    """The line as one round has read it."""

    found: Sequence[list[Row]]
    now: int
    wanted: bool = False
    """Whether a run was chosen."""

    def lanes(self) -> set[Row]:
        """Return the lanes that were compared: agent, queue, priority, key."""
        _, _, heads, _ = self.found
        return {row[1:5] for row in heads}

    def choose(self, limit: int) -> tuple[list[int], dict[str, int]]:
        """Return the numbers of the best runs, and the claims of the queues that have limits."""
        limits, places, heads, busy = self.found
        rules = {name: QueueLimits(name, *rest[:4]) for name, *rest in limits}
        used = {name: rest[4] for name, *rest in limits}
        paused = {(kind, name) for kind, name in places}
        held: Counter[tuple[str, str | None]] = Counter()
        for queue, key, number in busy:
            held[queue, key] += number
            held[queue, None] += number
        waiting: dict[Row, list[Ready]] = {}
        resumed: dict[Row, list[Ready]] = {}
        for begun, agent, queue, priority, key, *ready in heads:
            if ready[1] is not None:  # else all that stands there is paused
                into = resumed if begun else waiting
                into.setdefault((agent, queue, priority, key), []).append(Ready(*ready))

        def count(queue: str, key: str | None) -> int:
            return held[queue, key]

        lanes = [
            Lane(queue, priority, key, _fetch(runs, resumed.get((agent, queue, priority, key), [])))
            for (agent, queue, priority, key), runs in waiting.items()
            if not paused & {("agent", agent), ("queue", queue)}
        ]
        chosen = choose(lanes, Room(rules, count, used, self.now), limit)
        self.wanted = bool(chosen)
        return [ready.n for ready in chosen], {name: rest[5] for name, *rest in limits}


def reading(agents: Sequence[str], tour: Tour, *, limit: int, family: str = "") -> Round:
    """Return the statements whose rows make a ``Line``."""
    heads: Statement
    if family:
        heads = (sql.FAMILY, (Texts(agents), family, family, family))
    else:
        at_most = (4 * limit + 64, _KEYED_HEADS, _KEYED_HEADS)
        heads = (sql.HEADS, (*tour.places(agents), LANES_MAX, LANES_MAX, *at_most))
    return [(sql.LIMITS, ()), (sql.PAUSED_PLACES, ()), heads, (sql.BUSY, ())]


def lease(worker: str, line: Line, limit: int) -> Flow[list[Row]]:
    """Lease the best runs of a line that are still there."""
    numbers, claims = line.choose(4 * limit + 64)
    if not numbers:
        return []
    names = sorted(claims)
    seen = Texts(names), Ints([claims[name] for name in names])
    values = (Ints(numbers), *seen, worker, Texts(names), limit, line.now)
    (leased,) = yield [(sql.LEASE, values)]
    return leased


def queues(now: int) -> Flow[list[QueueInfo]]:
    """Return the queues that have limits, or runs that are ready or held."""
    limits, held_rows, ready_rows = yield [
        (sql.LIMITS, ()),
        (sql.HELD_BY_QUEUE, ()),
        (sql.READY_BY_QUEUE, (now,)),
    ]
    rules = {name: QueueLimits(name, *rest[:4]) for name, *rest in limits}
    held: dict[str, int] = {row[0]: row[1] for row in held_rows}
    ready: dict[str, int] = {row[0]: row[1] for row in ready_rows}
    return [
        QueueInfo(rules.get(name) or QueueLimits(name), ready.get(name, 0), held.get(name, 0))
        for name in sorted(rules.keys() | held.keys() | ready.keys())
    ]


def _fetch(
    runs: list[Ready], resumed: list[Ready]
) -> Callable[[Ready | None, bool], Sequence[Ready]]:
    def fetch(after: Ready | None, begun: bool) -> Sequence[Ready]:  # noqa: FBT001 - what a lane calls
        if after is not None:
            return []
        return sorted({*resumed, *(ready for ready in runs if ready.begun)}) if begun else runs

    return fetch
