"""What every write does to the tables, inside a transaction that the caller holds.

Each checks before it writes: who gets an error of ours has changed nothing. The one statement that
matters is ``ADVANCE``: it fences the epoch, checks the length and the head, and moves the run's
row, all by matching a row or not; when it matches none, ``_check`` finds out why.

Invariant: after every change ``run.ready_at`` is what schema.sql says it is. While a worker holds
the run that is NULL, so advancing it touches no index; whoever lets go of a run computes it anew.
"""

import json
from collections.abc import Callable, Sequence
from typing import Any

import apsw

from holdfast.core.events import GENESIS, Event
from holdfast.core.state import RunRow
from holdfast.errors import Conflict
from holdfast.ports import (
    INCOMING,
    Append,
    Claim,
    Message,
    NewRun,
    Part,
    Pause,
    QueueLimits,
    Transaction,
)
from holdfast.retention import Swept
from holdfast.stores.fencing import check_place
from holdfast.stores.payloads import GONE, PLAIN
from holdfast.stores.sqlite import statements as sql
from holdfast.stores.sqlite.line import Line
from holdfast.stores.sqlite.payloads import ChunkWriter
from holdfast.stores.sqlite.presence import Presence
from holdfast.stores.sqlite.retention import Sweep, collect
from holdfast.stores.sqlite.sealing import Sealing
from holdfast.stores.sqlite.subjects import Subjects
from holdfast.stores.sqlite.transaction import user_transaction
from holdfast.subjects import Erasure

__all__ = ["Changes", "lost_workers"]

_NUMBERS_MAX = 100_000
_WOKEN_MAX = 1_000
"""Runs of one agent whose time has come that one claim takes note of, the earliest first."""


class Changes:
    """The writes of a store, on the connection of its writer."""

    def __init__(self, connection: apsw.Connection, presence: Presence, sealing: Sealing) -> None:
        self._connection = connection
        self._sealing = sealing
        self._presence = presence
        self._execute = connection.execute
        self._chunks = ChunkWriter(connection)
        self.subjects = Subjects(connection)
        self._line = Line(self._all)
        self._numbers: dict[str, int] = {}
        """Run → its number, of runs seen lately."""
        self._rows: list[tuple[Any, ...]] = []
        """Events of this transaction: all are inserted at its end, by one call."""

    def finish(self) -> None:
        """Write what was left to the end of the transaction, and have it signed.

        To be called right before each commit.
        """
        if self._rows:
            self._connection.executemany(sql.NEW_EVENT, self._rows)
            self._rows = []
        self._sealing.seal()

    def forget(self) -> None:
        """Forget what the transaction that was undone has told."""
        self._numbers.clear()
        self._chunks.forget()
        self._sealing.forget()
        self.subjects.forget()
        self._rows = []

    def append(self, change: Append) -> None:
        """Apply one change, or raise Fenced or Conflict and write nothing."""
        row = change.row
        if fault := _fault(change):
            self._check(change.run, change.epoch, change.expected_seq)
            raise AssertionError(fault)
        number = self._number(change.run)
        moved = (
            row.status,
            row.seq,
            row.head,
            row.turn,
            row.turn_seq,
            row.state_seq,
            row.updated_at,
        )
        head = change.events[0].prev if change.events else row.head
        match = (number, change.epoch, change.expected_seq, head)
        settle = False
        if change.release or row.wake_at or not self._matches(sql.ADVANCE, moved + match):
            if not self._matches(sql.MOVE, (*moved, row.wake_at, *match)):
                self._check(change.run, change.epoch, change.expected_seq)
                raise Conflict(
                    f"run {change.run!r}: its event {change.expected_seq} has not the leaf hash"
                    f" {head} that an append expected. Was another copy of the store put in its"
                    " place?",
                    run=change.run,
                    seq=change.expected_seq,
                )
            settle = True
        self._add_events(number, change.events)
        for n in change.consume:
            taken = self._matches(sql.TAKE, (row.seq, n, change.run))
            assert taken, f"run {change.run!r} has no unread message {n}"
        for new in change.create:
            self._create(new)
        for message in change.deliver:
            self._deliver(message)
        if change.release:
            self._execute(sql.LET_GO, (change.seen, number))
        if settle:
            self._execute(sql.SETTLE, (number,))

    def transact(
        self, run: str, epoch: int, expected_seq: int, body: Callable[[Transaction], Append]
    ) -> None:
        """Run a body on the user's tables and apply the change that it returns."""
        self._check(run, epoch, expected_seq)
        with user_transaction(self._connection) as transaction:
            change = body(transaction)
        assert (change.run, change.epoch, change.expected_seq) == (run, epoch, expected_seq)
        self.append(change)

    def create(self, new: NewRun, deliver: Sequence[Message]) -> bool:
        """Create a run unless its id is taken, and deliver messages."""
        self.subjects.check_open(new.events)
        created = self._create(new)
        self.deliver(deliver)
        return created

    def erase(self, subject: str, told: NewRun) -> Erasure:
        """Destroy a subject's key and payloads and create the run that tells so."""
        erasure = self.subjects.erase(subject)
        self.forget()
        assert self._create(told), f"{told.row.run} is taken"
        self.subjects.erased(subject, told.row.run)
        return erasure

    def collect(self, runs: Sequence[str], told: str) -> None:
        """Remove the payloads of runs that have ended."""
        collect(self._all, runs, told)

    def sweep(self, sweep: Sweep) -> Swept | None:
        """Remove some chunks that nobody has; None when all were seen."""
        swept = sweep.remove(self._all)
        self._chunks.forget()
        return swept

    def deliver(self, messages: Sequence[Message]) -> list[bool]:
        """Put messages into inboxes; False for each that had arrived before."""
        return [self._deliver(message) for message in messages]

    def receive(self, part: Part) -> None:
        """Take in a part of a run of another store, or raise Conflict and write nothing."""
        row = part.row
        found = self._all(sql.PLACE_OF_RUN, (part.run,))
        ((number, seq, head, worker),) = found or [(0, 0, GENESIS, None)]
        first = part.events[0].prev if part.events else row.head
        if worker not in (None, INCOMING) or (seq, head) != (part.expected_seq, first):
            raise Conflict(
                f"run {part.run!r} has {seq} events, held by {worker or 'nobody'}: a part of"
                f" another store's behind event {part.expected_seq} does not follow.",
                run=part.run,
            )
        if not found:
            self._execute(sql.NEW_RUN, row)
            number = self._connection.last_insert_rowid()
        moved = (row.status, row.seq, row.head, row.turn, row.turn_seq, row.state_seq)
        holder = None if part.last else INCOMING
        values = (*moved, row.updated_at, row.wake_at, part.epoch, holder, number)
        self._execute(sql.RECEIVE, values)
        self._add_events(number, self.subjects.without_erased(part))
        for letter in part.inbox:
            self._deliver(letter.message)
            if letter.taken:
                self._execute(sql.TAKE_KNOWN, (letter.taken, part.run, letter.message.id))
        self._execute(sql.SETTLE, (number,))

    def claim(
        self,
        worker: str,
        *,
        now: int,
        lease_us: int,
        agents: Sequence[str],
        limit: int,
        run: str,
        family: str,
    ) -> list[Claim]:
        """Free what was lost, renew this worker's lease and lease ready runs."""
        for lost in lost_workers(self._all(sql.WORKERS, ()), now, self._presence):
            self.release(lost)
        self._lease(worker, now, lease_us)
        used: dict[str, int] = {}
        if run:
            numbers = self._line.may_be_named(run, agents)
        else:
            for agent in set(agents):
                self._execute(sql.WAKE_UP, (agent, now, _WOKEN_MAX))
            numbers, used = self._line.choose(agents, now=now, limit=limit, family=family)
        for queue, at in used.items():
            self._execute(sql.USE, (at, queue))
        claims = []
        for number in numbers[:limit]:
            ((epoch, *row),) = self._all(sql.LEASE, (worker, number))
            claims.append(Claim(RunRow(*row), epoch))
        return claims

    def register(self, worker: str, about: str, now: int, lease_us: int) -> None:
        """Note what a worker says of itself, and renew its lease."""
        self._lease(worker, now, lease_us)
        self._execute(sql.REGISTER, (about, worker))

    def _lease(self, worker: str, now: int, lease_us: int) -> None:
        locked = self._presence.hold(worker)
        self._execute(sql.HEARTBEAT, (worker, now + lease_us, locked, now))

    def renew(self, worker: str, now: int, lease_us: int) -> bool:
        """Extend a worker's lease; one that has run out is gone, and its runs are free."""
        if self._matches(sql.RENEW, (now + lease_us, worker, now)):
            return True
        self.release(worker)
        return False

    def release(self, worker: str) -> None:
        """Free the runs of a worker and forget it."""
        self._execute(sql.FREE, (worker,))
        self._execute(sql.FORGET, (worker,))
        self._presence.drop(worker)

    def _all(self, statement: str, values: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        return self._execute(statement, values).fetchall()

    def _matches(self, statement: str, values: tuple[Any, ...]) -> bool:
        self._execute(statement, values)
        return self._connection.changes() > 0

    def _number(self, run: str) -> int:
        """Return a run's number, 0 when there is no such run."""
        number = self._numbers.get(run)
        if number is None:
            found = self._all(sql.NUMBER, (run,))
            if not found:
                return 0
            if len(self._numbers) >= _NUMBERS_MAX:
                self._numbers.clear()
            number = self._numbers[run] = int(found[0][0])
        return number

    def _check(self, run: str, epoch: int, expected_seq: int) -> None:
        """Refuse a change of a run that has moved on."""
        found = self._all(sql.PLACE, (run,))
        check_place(run, epoch, expected_seq, found[0] if found else None)

    def _add_events(self, number: int, events: Sequence[Event]) -> None:
        for event in events:
            form, stored = (GONE if event.committed else PLAIN), None
            if event.payload is not None:
                form, stored = self._chunks.store(event.payload)
            self._rows.append((number, event.seq, event.leaf, event.salt, form, stored))
        self._sealing.add([event.hash for event in events])
        self.subjects.note(number, events)

    def _create(self, new: NewRun) -> bool:
        if not self._matches(sql.NEW_RUN, new.row):
            return False
        number = self._connection.last_insert_rowid()
        self._add_events(number, new.events)
        self._execute(sql.SETTLE, (number,))
        return True

    def _deliver(self, message: Message) -> bool:
        if self._all(sql.KNOWN, (message.to, message.id)):
            return False  # before its payload makes chunks that nothing refers to
        form, stored = self._chunks.store(message.payload)
        cause = json.dumps(message.cause, separators=(",", ":"))
        values = (message.to, message.id, message.topic, message.at, message.sender, cause)
        self._execute(sql.NEW_MESSAGE, (*values, form, stored))
        self._execute(sql.WAKE, (message.at, message.to))
        return True

    def rest(self, provider: str, now: int, rest_us: int) -> None:
        """Leave a provider alone for a while, or no more."""
        if rest_us:
            self._execute(sql.REST, (provider, now + rest_us))
        else:
            self._execute(sql.REST_ENDS, (provider,))

    def probe(self, provider: str, now: int, rest_us: int) -> bool:
        """Tell whether a rest is over and nobody else tries; for others it goes on."""
        return self._matches(sql.PROBE, (now + rest_us, provider, now))

    def pause(self, pause: Pause) -> bool:
        """Keep something from being claimed; False when it is paused already."""
        return self._matches(sql.PAUSE, (pause.kind, pause.name, pause.by, pause.at))

    def resume(self, kind: str, name: str) -> bool:
        """Take a pause back; False when there is none."""
        return self._matches(sql.RESUME, (kind, name))

    def limit(self, limits: QueueLimits) -> None:
        """Set the limits of a queue."""
        facts = (limits.concurrency, limits.per_key, limits.rate, limits.period_us)
        self._execute(sql.LIMIT, (limits.queue, *facts))


def lost_workers(
    workers: Sequence[tuple[str, int, int]], now: int, presence: Presence
) -> list[str]:
    """Return who has lost its leases: they have run out, or its process has died."""
    return [
        worker
        for worker, expires_at, locked in workers
        if expires_at <= now or (locked and presence.is_gone(worker))
    ]


def _fault(change: Append) -> str:
    """Return why a change makes no sense in itself, empty when it does."""
    seq, row = change.expected_seq, change.row
    head = change.events[0].prev if change.events else row.head
    for event in change.events:
        seq += 1
        if event.seq != seq or event.prev != head or event.epoch != change.epoch:
            return f"{event} cannot follow event {seq - 1} with the leaf hash {head}"
        head = event.hash
    if row.seq != seq or row.head != head or row.run != change.run:
        return f"{row} is not what the run is after event {seq} with the leaf hash {head}"
    return ""
