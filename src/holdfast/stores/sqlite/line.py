"""The line of ready runs, read from the tables: lanes, limits and pauses for ``stores/lanes.py``.

A claim reads it on the writer's connection, and ``ready`` on one that only reads.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from holdfast.ports import QueueLimits
from holdfast.stores.lanes import LANES_MAX, Lane, Ready, Room, choose
from holdfast.stores.sqlite import statements as sql

__all__ = ["Line"]

_HEADS, _MORE = 8, 64
"""How many runs of a lane are read first, and then."""
_FIRST = (-1, "")
_NOWHERE = ("", -(2**62), "")

Find = Callable[[str, tuple[Any, ...]], list[tuple[Any, ...]]]
"""Returns the rows that a statement finds."""


class Line:
    """Reads the line through a connection.

    Args:
        find: Runs a statement there.
    """

    def __init__(self, find: Find) -> None:
        self._find = find
        self._rounds: dict[str, tuple[str, int, str]] = {}
        """Agent → the last lane looked at, of agents with more lanes than one claim compares."""

    def choose(
        self, agents: Sequence[str], *, now: int, limit: int, family: str = ""
    ) -> tuple[list[int], dict[str, int]]:
        """Return the numbers of the runs to claim, in order, and the rates of queues as used up."""
        limits, used = self._limits()
        paused = set(self._find(sql.PAUSED_PLACES, ()))
        lanes = [
            lane
            for agent in sorted(set(agents))
            if ("agent", agent) not in paused
            for lane in (self._family(agent, family) if family else self._lanes(agent))
            if ("queue", lane.queue) not in paused
        ]
        room = Room(limits, self._held, used, now)
        before = dict(used)
        chosen = choose(lanes, room, limit)
        changed = {queue: at for queue, at in room.used.items() if at != before[queue]}
        return [ready.n for ready in chosen], changed

    def is_due(self, agents: Sequence[str], now: int) -> bool:
        """Tell whether the time of a run has come that no claim has noticed yet."""
        return any(self._find(sql.IS_DUE, (agent, now)) for agent in set(agents))

    def may_be_named(self, run: str, agents: Sequence[str]) -> list[int]:
        """Return the number of a run that may be claimed by its name, if it may."""
        paused = set(self._find(sql.PAUSED_PLACES, ()))
        return [
            int(n)
            for agent, queue, n in self._find(sql.NAMED, (run,))
            if agent in agents and not paused & {("agent", agent), ("queue", queue)}
        ]

    def _limits(self) -> tuple[dict[str, QueueLimits], dict[str, int]]:
        found = self._find(sql.LIMITS, ())
        return {f[0]: QueueLimits(*f[:-1]) for f in found}, {f[0]: f[-1] for f in found}

    def _held(self, queue: str, key: str | None) -> int:
        statement, values = (sql.BUSY, (queue,)) if key is None else (sql.BUSY_KEY, (queue, key))
        return int(self._find(statement, values)[0][0])

    def _lanes(self, agent: str) -> Iterator[Lane]:
        """Yield an agent's lanes, going round from where the last claim stopped."""
        begin = last = self._rounds.pop(agent, _NOWHERE)
        wrapped = begin == _NOWHERE
        for _ in range(LANES_MAX):
            found = self._find(sql.LANE, (agent, *last))
            if not found and not wrapped:
                wrapped, last = True, _NOWHERE
                found = self._find(sql.LANE, (agent, *last))
            if not found or (wrapped and begin != _NOWHERE and found[0] > begin):
                return
            last = queue, priority, key = found[0]
            yield Lane(queue, priority, key, self._fetcher(agent, queue, priority, key))
        self._rounds[agent] = last

    def _fetcher(
        self, agent: str, queue: str, priority: int, key: str
    ) -> Callable[[Ready | None, bool], Sequence[Ready]]:
        def fetch(after: Ready | None, begun: bool) -> Sequence[Ready]:  # noqa: FBT001 - what a lane calls
            statement = sql.HEADS_BEGUN if begun else sql.HEADS
            place = (after.since, after.run) if after else _FIRST
            values = (agent, queue, priority, key, *place, _MORE if after else _HEADS)
            return [_ready(*fields) for fields in self._find(statement, values)]

        return fetch

    def _family(self, agent: str, family: str) -> Iterator[Lane]:
        places: dict[tuple[str, int, str], list[Ready]] = {}
        for queue, priority, key, *fields in self._find(sql.FAMILY, (agent, family)):
            places.setdefault((queue, priority, key), []).append(_ready(*fields))
        for place, runs in places.items():
            yield Lane(*place, _fetch_of(runs))


def _ready(since: int, run: str, begun: int, n: int) -> Ready:
    return Ready(since, run, bool(begun), n)


def _fetch_of(runs: list[Ready]) -> Callable[[Ready | None, bool], Sequence[Ready]]:
    def fetch(after: Ready | None, begun: bool) -> Sequence[Ready]:  # noqa: FBT001 - what a lane calls
        return [] if after else [ready for ready in runs if ready.begun or not begun]

    return fetch
