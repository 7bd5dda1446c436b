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
from holdfast.stores.postgres.flow import Flow, Round, Row
from holdfast.stores.postgres.values import Ints, Texts

__all__ = ["Line", "lease", "queues", "reading"]

_KEYED_HEADS = 16
"""Runs of one lane with a key that one claim looks at."""


@dataclass(slots=True)
class Line:
    """The line as one round has read it."""

    found: Sequence[list[Row]]
    now: int
    wanted: bool = False
    """Whether a run was chosen."""

    def choose(self, limit: int) -> tuple[list[int], dict[str, int]]:
        """Return the numbers of the best runs, and the claims of the queues that have limits."""
        limits, places, heads, keyed, begun, busy = self.found
        rules = {name: QueueLimits(name, *rest[:4]) for name, *rest in limits}
        used = {name: rest[4] for name, *rest in limits}
        held = Counter({(queue, key): count for queue, key, count in busy})
        paused = {(kind, name) for kind, name in places}
        waiting: dict[Row, list[Ready]] = {}
        resumed: dict[Row, list[Ready]] = {}
        for into, rows in ((waiting, heads), (waiting, keyed), (resumed, begun)):
            for *place, since, run, was_claimed, n in rows:
                into.setdefault(tuple(place), []).append(Ready(since, run, was_claimed, n))

        def count(queue: str, key: str | None) -> int:
            return sum(n for (q, k), n in held.items() if q == queue and key in (None, k))

        lanes = [
            Lane(queue, priority, key, _fetch(runs, resumed.get((agent, queue, priority, key), [])))
            for (agent, queue, priority, key), runs in waiting.items()
            if not paused & {("agent", agent), ("queue", queue)}
        ]
        chosen = choose(lanes, Room(rules, count, used, self.now), limit)
        self.wanted = bool(chosen)
        return [ready.n for ready in chosen], {name: rest[5] for name, *rest in limits}


def reading(asked: Texts, *, limit: int, family: str = "") -> Round:
    """Return the statements whose rows make a ``Line``."""
    if family:
        nothing = ("SELECT 1 WHERE false", ())
        heads: Round = [(sql.FAMILY, (asked, family, family, family)), nothing, nothing]
    else:
        heads = [
            (sql.HEADS, (asked, LANES_MAX, 4 * limit + 64)),
            (sql.HEADS_KEYED, (asked, LANES_MAX, _KEYED_HEADS)),
            (sql.HEADS_BEGUN, (asked, LANES_MAX, _KEYED_HEADS)),
        ]
    return [(sql.LIMITS, ()), (sql.PAUSED_PLACES, ()), *heads, (sql.BUSY, ())]


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
