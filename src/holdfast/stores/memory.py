"""The reference store: the shortest program that keeps the contract of ``holdfast.ports.Store``.

Everything lives in a few dictionaries. No method waits, so a call is a transaction: it first
checks, then writes, and what writes cannot fail. Only the user's own tables live in SQLite, in
memory; what a ``transactional`` body did there is committed right before the change is written.

Invariants: a position is an index of the log plus one; a run's row tells of the last of its events;
an inbox holds exactly what was delivered and not consumed, in the order of arrival.
"""

import asyncio
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from itertools import islice

from holdfast.core.events import GENESIS, Event
from holdfast.core.state import ENDED, RunRow, fold
from holdfast.errors import Conflict, StoreError
from holdfast.ports import (
    INCOMING,
    Append,
    Claim,
    InboxMessage,
    Letter,
    Message,
    NewRun,
    Part,
    Pause,
    QueueInfo,
    QueueLimits,
    Standing,
    Transaction,
    WorkerInfo,
)
from holdfast.stores.fencing import check_place
from holdfast.stores.lanes import Lane, Ready, Room, choose
from holdfast.stores.memory_rests import RestsInMemory
from holdfast.stores.memory_retention import RetentionInMemory
from holdfast.stores.memory_subjects import SubjectsInMemory
from holdfast.stores.memory_tables import UserTables
from holdfast.stores.subjects import check_open, without
from holdfast.stores.unsigned import UnsignedLog
from holdfast.subjects import Subject

__all__ = ["MemoryStore"]


@dataclass(slots=True)
class _Run:
    """One stream and its lease; ``worker`` is empty while nobody holds it."""

    row: RunRow
    events: list[Event]
    epoch: int = 0
    worker: str = ""
    seen: int = 0


class MemoryStore(SubjectsInMemory, RestsInMemory, RetentionInMemory):
    """A store that lasts as long as the object: for tests, and the measure of other stores.

    It is for one thread. Closing it forgets nothing, so another app may carry on with it.
    """

    url = "memory:"

    def __init__(self) -> None:
        self.signed = UnsignedLog(self.url)
        self._runs: dict[str, _Run] = {}
        self._log: list[Event] = []
        self._inboxes: defaultdict[str, dict[int, Message]] = defaultdict(dict)
        self._known: dict[tuple[str, str], int] = {}
        """(run, message id) → its number, of every message that ever arrived."""
        self._taken: defaultdict[str, dict[int, Letter]] = defaultdict(dict)
        self._leases: dict[str, int] = {}
        """Worker → when its lease runs out."""
        self._about: dict[str, tuple[int, str]] = {}
        """Worker → since when it is known, and what it says of itself."""
        self._subjects: dict[str, Subject] = {}
        self._pauses: dict[tuple[str, str], Pause] = {}
        self._limits: dict[str, QueueLimits] = {}
        self._used: dict[str, int] = {}
        """Queue → up to when its rate is used up."""
        self._rests: dict[str, int] = {}
        self._tables = UserTables()
        self._news = [False, False]
        """Whether anything happened, and whether anything that may have made a run ready."""
        self._waiting: tuple[set[asyncio.Event], set[asyncio.Event]] = (set(), set())

    async def create(self, new: NewRun, deliver: Sequence[Message] = ()) -> bool:
        _check_new(new)
        for sub in {event.sub for event in new.events}:
            check_open(self._subjects.get(sub))
        created = self._create(new)
        for message in deliver:
            self._deliver(message)
        self._tell()
        return created

    def append(self, change: Append) -> "asyncio.Future[None]":
        answer = asyncio.get_running_loop().create_future()
        try:
            self._check(change.run, change.epoch, change.expected_seq)
            self._verify(change)
            self._write(change)
        except StoreError as error:
            answer.set_exception(error)
            answer.exception()  # nobody has to await it
        else:
            answer.set_result(None)
        return answer

    async def transact(
        self, run: str, epoch: int, expected_seq: int, body: Callable[[Transaction], Append]
    ) -> None:
        self._check(run, epoch, expected_seq)
        with self._tables.transaction() as transaction:
            change = body(transaction)
            assert (change.run, change.epoch, change.expected_seq) == (run, epoch, expected_seq)
            self._verify(change)
        self._write(change)

    async def deliver(self, messages: Sequence[Message]) -> list[bool]:
        arrived = [self._deliver(message) for message in messages]
        self._tell()
        return arrived

    async def claim(
        self,
        worker: str,
        *,
        now: int,
        lease_us: int,
        agents: Sequence[str],
        limit: int,
        run: str = "",
        family: str = "",
    ) -> list[Claim]:
        for lost in [name for name, until in self._leases.items() if until <= now]:
            self._free(lost)
        self._lease(worker, now, lease_us)
        if run:
            chosen = [run] if self._may_be_named(run, agents) else []
        else:
            lanes = self._lanes(agents, now, family)
            chosen = [ready.run for ready in choose(lanes, self._room(now), limit)]
        claims = []
        for name in chosen:
            held = self._runs[name]
            held.worker = worker
            held.epoch += 1
            claims.append(Claim(held.row, held.epoch))
        return claims

    def _room(self, now: int) -> Room:
        def held(queue: str, key: str | None) -> int:
            rows = [held.row for held in self._runs.values() if held.worker]
            return sum(row.queue == queue and key in (None, row.key) for row in rows)

        return Room(self._limits, held, self._used, now)

    def _lanes(self, agents: Sequence[str], now: int, family: str = "") -> list[Lane]:
        found: defaultdict[tuple[str, int, str], list[Ready]] = defaultdict(list)
        for name, held in self._runs.items():
            since = self._ready_since(held, now)
            row = held.row
            if since is None or held.worker or row.agent not in agents or self._is_paused(row):
                continue
            if not family or f"{name}/".startswith(f"{family}/"):
                ready = Ready(since, name, held.epoch > 0, 0)
                found[row.queue, row.priority, row.key].append(ready)
        return [Lane(*place, _fetch(sorted(runs))) for place, runs in found.items()]

    def _may_be_named(self, run: str, agents: Sequence[str]) -> bool:
        held = self._runs.get(run)
        return bool(
            held
            and not held.worker
            and held.row.status not in ENDED
            and held.row.agent in agents
            and not self._is_paused(held.row)
        )

    def _is_paused(self, row: RunRow) -> bool:
        places = (("run", row.run), ("queue", row.queue), ("agent", row.agent))
        return any(place in self._pauses for place in places)

    async def pause(self, pause: Pause) -> bool:
        known = self._pauses.setdefault((pause.kind, pause.name), pause)
        self._tell()
        return known is pause

    async def resume(self, kind: str, name: str) -> bool:
        taken = self._pauses.pop((kind, name), None)
        self._tell()
        return taken is not None

    async def pauses(self) -> list[Pause]:
        return [pause for _, pause in sorted(self._pauses.items())]

    async def limit(self, limits: QueueLimits) -> None:
        self._limits[limits.queue] = limits
        self._tell()

    async def queues(self, *, now: int) -> list[QueueInfo]:
        held = Counter(run.row.queue for run in self._runs.values() if run.worker)
        free = [run for run in self._runs.values() if not run.worker]
        ready = Counter(run.row.queue for run in free if self._ready_since(run, now) is not None)
        names = sorted(self._limits.keys() | held.keys() | ready.keys())
        limits = [self._limits.get(name, QueueLimits(name)) for name in names]
        return [QueueInfo(limit, ready[limit.queue], held[limit.queue]) for limit in limits]

    async def register(self, worker: str, *, about: str, now: int, lease_us: int) -> None:
        self._lease(worker, now, lease_us)
        self._about[worker] = self._about[worker][0], about

    async def workers(self, *, now: int) -> list[WorkerInfo]:
        holders = [held.worker for held in self._runs.values()]
        return [
            WorkerInfo(name, since, self._leases[name], holders.count(name), about)
            for name, (since, about) in sorted(self._about.items())
            if self._leases[name] > now
        ]

    async def renew(self, worker: str, *, now: int, lease_us: int) -> bool:
        if self._leases.get(worker, 0) <= now:
            self._free(worker)
            return False
        self._leases[worker] = now + lease_us
        return True

    async def release(self, worker: str) -> None:
        self._free(worker)

    async def read(
        self, run: str, *, after: int = 0, until: int = 0, limit: int = 0
    ) -> list[Event]:
        events = self._runs[run].events if run in self._runs else []
        return events[after : until or None][: limit or None]

    async def read_log(self, after: int, *, limit: int) -> list[tuple[int, Event]]:
        return list(enumerate(self._log[after : after + limit], after + 1))

    async def unread(self, run: str, *, after: int = 0) -> list[InboxMessage]:
        inbox = self._inboxes.get(run, {})
        return [InboxMessage(n, message) for n, message in inbox.items() if n > after]

    async def row(self, run: str) -> RunRow | None:
        return self._runs[run].row if run in self._runs else None

    async def rows(
        self,
        *,
        prefix: str = "",
        status: Sequence[str] = (),
        agents: Sequence[str] = (),
        after: tuple[int, str] | None = None,
        limit: int = 100,
    ) -> list[RunRow]:
        newest = sorted(
            (held.row for held in self._runs.values()),
            key=lambda row: (row.created_at, row.run),
            reverse=True,
        )
        wanted = (
            row
            for row in newest
            if row.run.startswith(prefix)
            and (not status or row.status in status)
            and (not agents or row.agent in agents)
            and (after is None or (row.created_at, row.run) < after)
        )
        return list(islice(wanted, limit))

    async def ready(self, agents: Sequence[str], *, now: int) -> bool:
        lost = any(until <= now for until in self._leases.values())
        return lost or bool(choose(self._lanes(agents, now), self._room(now), 1))

    async def held(self, worker: str) -> list[Claim]:
        runs = self._runs.values()
        return [Claim(held.row, held.epoch) for held in runs if held.worker == worker]

    async def mail(self, worker: str, *, after: int) -> tuple[int, list[InboxMessage]]:
        arrived = [
            InboxMessage(n, message)
            for run, held in self._runs.items()
            if held.worker == worker
            for n, message in self._inboxes.get(run, {}).items()
            if n > after
        ]
        return len(self._known), sorted(arrived, key=lambda message: message.n)

    async def next_wake(self, agents: Sequence[str], *, after: int = 0) -> int:
        parked = (
            held.row.wake_at
            for held in self._runs.values()
            if not held.worker
            and held.row.agent in agents
            and not self._is_ready_before(held, held.row.wake_at)
        )
        return min((at for at in parked if at > after), default=0)

    async def changed(self, timeout_s: float, *, ready: bool = False) -> None:
        if not self._news[ready]:
            told = asyncio.Event()  # one per call, so that the store outlives any loop
            self._waiting[ready].add(told)
            try:
                with suppress(TimeoutError):
                    async with asyncio.timeout(timeout_s):
                        await told.wait()
            finally:
                self._waiting[ready].discard(told)
        self._news[ready] = False

    @asynccontextmanager
    async def snapshot(self, *, now: int) -> AsyncIterator["_Snapshot"]:
        runs = {
            name: (Standing(held.row, held.epoch, self._holder(held, now)), held.events[:])
            for name, held in sorted(self._runs.items())
        }
        inboxes = {name: self._letters(name) for name in sorted({to for to, _ in self._known})}
        yield _Snapshot(runs, inboxes)

    async def receive(self, part: Part) -> None:
        held = self._runs.get(part.run, _Run(part.row, []))
        head = held.events[-1].hash if held.events else GENESIS
        first = part.events[0].prev if part.events else part.row.head
        follows = (len(held.events), head) == (part.expected_seq, first)
        if held.worker not in ("", INCOMING) or not follows:
            raise Conflict(
                f"run {part.run!r} has {len(held.events)} events, held by"
                f" {held.worker or 'nobody'}: a part of another store's behind event"
                f" {part.expected_seq} does not follow.",
                run=part.run,
            )
        held.worker, self._runs[part.run] = INCOMING, held
        gone = {subject.id for subject in self._subjects.values() if not subject.key}
        events = without(gone, part.events)
        held.events.extend(events)
        self._log.extend(events)
        held.row, held.epoch = part.row, max(held.epoch, part.epoch)
        for letter in part.inbox:
            self._deliver(letter.message)
            n = self._known[part.run, letter.message.id]
            if letter.taken and (message := self._inboxes[part.run].pop(n, None)):
                self._take(n, message, letter.taken)
        if part.last:
            held.worker = ""
        self._tell(ready=part.last)

    async def close(self) -> None:
        pass

    def _check(self, run: str, epoch: int, expected_seq: int) -> None:
        """Refuse a change of a run that has moved on."""
        held = self._runs.get(run)
        check_place(run, epoch, expected_seq, (held.epoch, held.row.seq) if held else None)

    def _verify(self, change: Append) -> None:
        """Assert that a change which ``_check`` let through makes sense."""
        held, row, inbox = self._runs[change.run], change.row, self._inboxes[change.run]
        head = held.row.head
        for seq, event in enumerate(change.events, change.expected_seq + 1):
            follows = (event.run, event.seq, event.prev, event.epoch)
            assert follows == (change.run, seq, head, change.epoch), f"{follows} after {held.row}"
            head = event.hash
        end = (change.run, change.expected_seq + len(change.events), head)
        assert (row.run, row.seq, row.head) == end, f"{row} is not a row of {end}"
        assert inbox.keys() >= set(change.consume), f"{change.consume} are not all in {[*inbox]}"
        for new in change.create:
            _check_new(new)

    def _write(self, change: Append) -> None:
        held, inbox = self._runs[change.run], self._inboxes[change.run]
        held.events.extend(change.events)
        held.row = change.row
        self._log.extend(change.events)
        for n in change.consume:
            self._take(n, inbox.pop(n), change.row.seq)
        for new in change.create:
            self._create(new)
        for message in change.deliver:
            self._deliver(message)
        if change.release:
            held.worker, held.seen = "", change.seen
        self._tell(ready=bool(change.release or change.create or change.deliver))

    def _create(self, new: NewRun) -> bool:
        if new.row.run in self._runs:
            return False
        self._runs[new.row.run] = _Run(new.row, list(new.events))
        self._log.extend(new.events)
        return True

    def _deliver(self, message: Message) -> bool:
        if (message.to, message.id) in self._known:
            return False
        self._known[message.to, message.id] = len(self._known) + 1
        self._inboxes[message.to][len(self._known)] = message
        return True

    def _take(self, n: int, message: Message, seq: int) -> None:
        self._taken[message.to][n] = Letter(n, replace(message, payload=b""), seq)

    def _holder(self, held: _Run, now: int) -> str:
        holds = held.worker == INCOMING or self._leases.get(held.worker, 0) > now
        return held.worker if holds else ""

    def _letters(self, run: str) -> list[Letter]:
        unread = [Letter(n, message, 0) for n, message in self._inboxes[run].items()]
        return sorted([*self._taken[run].values(), *unread], key=lambda letter: letter.n)

    def _is_ready_before(self, held: _Run, wake_at: int) -> bool:
        since = self._ready_since(held, 0)
        return since is not None and since <= wake_at

    def _ready_since(self, held: _Run, now: int) -> int | None:
        """Return since when a run could go on, None when it cannot."""
        row = held.row
        if row.status in ENDED:
            return None
        if row.status in ("pending", "running"):
            return row.updated_at
        inbox = self._inboxes.get(row.run, {})
        since = [message.at for n, message in inbox.items() if n > held.seen]
        if 0 < row.wake_at <= now:
            since.append(row.wake_at)
        return min(since, default=None)

    def _lease(self, worker: str, now: int, lease_us: int) -> None:
        self._leases[worker] = now + lease_us
        self._about.setdefault(worker, (now, ""))

    def _free(self, worker: str) -> None:
        self._leases.pop(worker, None)
        self._about.pop(worker, None)
        freed = [held for held in self._runs.values() if held.worker == worker]
        for held in freed:
            held.worker = ""
        if freed:
            self._tell()

    def _tell(self, *, ready: bool = True) -> None:
        for kind in (False, True)[: 1 + ready]:
            self._news[kind] = True
            for told in self._waiting[kind]:
                told.set()


@dataclass(slots=True)
class _Snapshot:
    """Keeps the contract of ``holdfast.ports.Snapshot``; both are in the order of their ids."""

    _runs: dict[str, tuple[Standing, list[Event]]]
    _inboxes: dict[str, list[Letter]]

    async def runs(self, *, prefix: str = "", after: str = "", limit: int) -> list[Standing]:
        found = (
            standing
            for name, (standing, _) in self._runs.items()
            if name.startswith(prefix) and name > after
        )
        return list(islice(found, limit))

    async def events(self, run: str, *, after: int, limit: int) -> list[Event]:
        return self._runs[run][1][after : after + limit]

    async def inbox(self, run: str, *, after: int, limit: int) -> list[Letter]:
        found = (letter for letter in self._inboxes.get(run, ()) if letter.n > after)
        return list(islice(found, limit))

    async def strays(self, *, after: str, limit: int) -> list[str]:
        found = (name for name in self._inboxes if name not in self._runs and name > after)
        return list(islice(found, limit))


def _check_new(new: NewRun) -> None:
    folded = fold(new.events).row()
    assert new.row == folded, f"{new.row} is not the fold of its events, {folded}"


def _fetch(runs: list[Ready]) -> Callable[[Ready | None, bool], Sequence[Ready]]:
    def fetch(after: Ready | None, begun: bool) -> Sequence[Ready]:  # noqa: FBT001 - what a lane calls
        return [] if after else [ready for ready in runs if ready.begun or not begun]

    return fetch
