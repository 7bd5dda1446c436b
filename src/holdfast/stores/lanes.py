"""Which of the ready runs a claim takes: limits, priority, and a fair turn for each key.

Ready runs stand in *lanes*: one for each agent, queue, priority and key, those ready the longest
first. A claim looks at the heads of the lanes alone, so what it costs is a matter of how many lanes
there are, and not of how many runs wait in them. The next run is that of the highest priority; of
these, that of the key which holds the fewest leases in its queue, the runs just chosen included, so
a key with a thousand runs waiting does not hold up one with a single run; of these, that which has
been ready the longest.
Runs without a key take no turns: each counts as a key that holds nothing.

A queue's limits: how many of its runs are held at once, in all and per key; and how many begin in a
period, which is kept as one number, the time up to which the beginnings that were let through have
used up the rate (the generic cell rate algorithm of ATM networks: ITU-T I.371). A run that has been
claimed before does not begin again, and goes by a head that may not begin.

Everything here is pure; every store uses it.
"""

import heapq
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from holdfast.ports import QueueLimits

__all__ = ["LANES_MAX", "Lane", "Ready", "Room", "choose"]

LANES_MAX = 1_000
"""Lanes of one agent that one claim compares; which ones goes round."""


class Ready(NamedTuple):
    """A run that could be claimed; ``n`` is what the store knows it by."""

    since: int
    run: str
    begun: bool
    """Whether it was claimed before."""
    n: int


class Lane:
    """The ready runs of one agent, queue, priority and key.

    Args:
        queue, priority, key: What they have in common.
        fetch: Given the last run seen (None at first), returns the next ones, none at the end; with
            True only those that were claimed before.
    """

    def __init__(
        self,
        queue: str,
        priority: int,
        key: str,
        fetch: Callable[[Ready | None, bool], Sequence[Ready]],
    ) -> None:
        self.queue = queue
        self.priority = priority
        self.key = key
        self._fetch = fetch
        self._seen: dict[bool, list[Ready]] = {False: [], True: []}
        self._next = {False: 0, True: 0}
        self._taken: set[str] = set()

    def head(self, *, begun: bool) -> Ready | None:
        """Return the first that is not taken; with ``begun``, of those claimed before."""
        seen = self._seen[begun]
        while True:
            while self._next[begun] < len(seen):
                ready = seen[self._next[begun]]
                if ready.run not in self._taken:
                    return ready
                self._next[begun] += 1
            more = self._fetch(seen[-1] if seen else None, begun)
            if not more:
                return None
            seen += more

    def take(self, ready: Ready) -> None:
        """Leave a run out from now on."""
        self._taken.add(ready.run)


class Room:
    """What the limits of the queues still let through in one claim.

    Args:
        limits: Queue → its limits, of those that have any.
        held: Counts the leases in a queue, those of one key unless it is None.
        used: Queue → up to when its rate is used up, in µs.
        now: The time, in µs.
    """

    def __init__(
        self,
        limits: dict[str, QueueLimits],
        held: Callable[[str, str | None], int],
        used: dict[str, int],
        now: int,
    ) -> None:
        self._limits = limits
        self._count = held
        self._held: dict[tuple[str, str | None], int] = {}
        self._now = now
        self.used = used
        """As given, brought forward by ``take``."""

    def held(self, queue: str, key: str | None) -> int:
        """Return how many runs are held, those chosen included."""
        place = queue, key
        if place not in self._held:
            self._held[place] = self._count(queue, key)
        return self._held[place]

    def share(self, lane: Lane) -> int:
        """Return how much a lane's key has already, 0 without a key."""
        return self.held(lane.queue, lane.key) if lane.key else 0

    def is_full(self, queue: str, key: str) -> bool:
        """Tell whether no further run may be held."""
        limits = self._limits.get(queue)
        if limits is None:
            return False
        if 0 < limits.concurrency <= self.held(queue, None):
            return True
        return bool(key) and 0 < limits.per_key <= self.held(queue, key)

    def may_begin(self, queue: str) -> bool:
        """Tell whether the rate lets one more run begin."""
        limits = self._limits.get(queue)
        if limits is None or not limits.rate:
            return True
        used = max(self.used.get(queue, 0), self._now)
        return used + limits.period_us // limits.rate - self._now <= limits.period_us

    def take(self, queue: str, key: str, ready: Ready) -> None:
        """Count a run as chosen."""
        for place in ((queue, None), (queue, key)):
            if place in self._held:
                self._held[place] += 1
        limits = self._limits.get(queue)
        if limits is not None and limits.rate and not ready.begun:
            used = max(self.used.get(queue, 0), self._now)
            self.used[queue] = used + limits.period_us // limits.rate


def choose(lanes: Iterable[Lane], room: Room, limit: int) -> list[Ready]:
    """Return the runs that a claim takes, in order."""
    numbered = list(lanes)

    def place(i: int) -> tuple[int, int, int, str, int] | None:
        """Return where a lane stands now; it only ever moves back. None: it has dropped out."""
        lane = numbered[i]
        if room.is_full(lane.queue, lane.key):
            return None
        head = lane.head(begun=not room.may_begin(lane.queue))
        return head and (-lane.priority, room.share(lane), head.since, head.run, i)

    line = [at for i in range(len(numbered)) if (at := place(i))]
    heapq.heapify(line)
    chosen: list[Ready] = []
    while line and len(chosen) < limit:
        i = heapq.heappop(line)[-1]
        now_at = place(i)
        if now_at is None:
            continue
        lane = numbered[i]
        if not line or now_at < line[0]:
            head = lane.head(begun=not room.may_begin(lane.queue))
            assert head is not None
            lane.take(head)
            room.take(lane.queue, lane.key, head)
            chosen.append(head)
            now_at = place(i)
        if now_at is not None:
            heapq.heappush(line, now_at)
    return chosen
