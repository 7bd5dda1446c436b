"""What every write does to the tables, as plain functions inside a transaction that the caller holds.

Each checks before it writes: who gets an error of ours has changed nothing. The one statement that
matters is ``_ADVANCE``: it fences the epoch, checks the length and the head, and moves the run's row, all
by matching a row or not; when it matches none, ``_check`` finds out why.

Invariant: after every change ``run.ready_at`` is what schema.sql says it is. While a worker holds the run
that is NULL, so advancing it touches no index; whoever lets go of a run computes it anew.
"""

import json
from collections.abc import Callable, Sequence
from typing import Any

import apsw

from holdfast.core.events import Event
from holdfast.core.state import ENDED, RunRow
from holdfast.errors import Conflict, Fenced
from holdfast.ports import Append, Claim, Message, NewRun, Transaction
from holdfast.stores.sqlite.payloads import PLAIN, ChunkWriter
from holdfast.stores.sqlite.transaction import user_transaction

__all__ = ["COLUMNS", "Changes"]

COLUMNS = "id, agent, status, seq, head, turn, turn_seq, state_seq, wake_at, created_at, updated_at, seed, flags, parent, parent_key"
"""Those of table run that make a RunRow, in its order."""

_GOING = "status IN ('pending', 'running')"
_OVER = f"status IN ({', '.join(repr(status) for status in sorted(ENDED))})"

_ADVANCE = """
UPDATE run SET status = ?, seq = ?, head = ?, turn = ?, turn_seq = ?, state_seq = ?, updated_at = ?
WHERE n = ? AND epoch = ? AND seq = ? AND head = ? AND worker IS NOT NULL AND wake_at = 0"""
_MOVE = """
UPDATE run SET status = ?, seq = ?, head = ?, turn = ?, turn_seq = ?, state_seq = ?, updated_at = ?,
  wake_at = ?
WHERE n = ? AND epoch = ? AND seq = ? AND head = ?"""
_READY_AT = f"""CASE WHEN {_GOING} THEN updated_at WHEN {_OVER} THEN NULL ELSE (
  SELECT min(at) FROM inbox
  WHERE inbox.run = run.id AND inbox.n > run.seen AND inbox.taken IS NULL) END"""  # noqa: S608 - constants
_LET_GO = "UPDATE run SET worker = NULL, seen = ? WHERE n = ?"
_SETTLE = f"UPDATE run SET ready_at = {_READY_AT} WHERE n = ? AND worker IS NULL"  # noqa: S608 - constants
_FREE = f"UPDATE run SET worker = NULL, ready_at = {_READY_AT} WHERE worker = ?"  # noqa: S608 - constants
_WAKE = f"""
UPDATE run SET ready_at = min(coalesce(ready_at, ?1), ?1)
WHERE id = ?2 AND worker IS NULL AND NOT {_GOING} AND NOT {_OVER}"""  # noqa: S608 - constants
_NEW_RUN = f"""
INSERT INTO run ({COLUMNS}) VALUES (?{", ?" * (len(RunRow._fields) - 1)}) ON CONFLICT (id) DO NOTHING"""  # noqa: S608 - constants
_NEW_EVENT = "INSERT INTO event (run, seq, leaf, salt, form, payload) VALUES (?, ?, ?, ?, ?, ?)"
_NEW_MESSAGE = """
INSERT INTO inbox (run, id, topic, at, sender, cause, form, payload) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"""
_TAKE = (
    "UPDATE inbox SET taken = ?, form = 0, payload = NULL WHERE n = ? AND run = ? AND taken IS NULL"
)

# Two ways to be ready, each with its index: since `ready_at`, or since `wake_at` when that is due.
_READY = """
SELECT ready_at, id, n FROM run WHERE agent = ?1 AND ready_at IS NOT NULL ORDER BY ready_at, id LIMIT ?2"""
_DUE = f"""
SELECT wake_at, id, n FROM run
WHERE agent = ?1 AND wake_at > 0 AND wake_at <= ?3 AND worker IS NULL AND NOT {_GOING} AND NOT {_OVER}
ORDER BY wake_at, id LIMIT ?2"""  # noqa: S608 - constants
_UNHELD = f"SELECT agent, n FROM run WHERE id = ? AND worker IS NULL AND NOT {_OVER}"  # noqa: S608 - constants
_LEASE = f"""
UPDATE run SET worker = ?, epoch = epoch + 1, ready_at = NULL WHERE n = ? RETURNING epoch, {COLUMNS}"""  # noqa: S608 - constants
_HEARTBEAT = """
INSERT INTO worker (id, expires_at) VALUES (?1, ?2) ON CONFLICT (id) DO UPDATE SET expires_at = ?2"""

_NUMBERS_MAX = 100_000


class Changes:
    """The writes of a store, on the connection of its writer."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection
        self._execute = connection.execute
        self._chunks = ChunkWriter(connection)
        self._numbers: dict[str, int] = {}
        """Run → its number, of runs seen lately."""

    def forget(self) -> None:
        """Forget what the transaction that was undone has told."""
        self._numbers.clear()
        self._chunks.forget()

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
        if change.release or row.wake_at or not self._matches(_ADVANCE, moved + match):
            if not self._matches(_MOVE, (*moved, row.wake_at, *match)):
                self._check(change.run, change.epoch, change.expected_seq)
                raise AssertionError(f"run {change.run!r}: no event has the leaf hash {head}")
            settle = True
        self._add_events(number, change.events)
        for n in change.consume:
            taken = self._matches(_TAKE, (row.seq, n, change.run))
            assert taken, f"run {change.run!r} has no unread message {n}"
        for new in change.create:
            self._create(new)
        for message in change.deliver:
            self._deliver(message)
        if change.release:
            self._execute(_LET_GO, (change.seen, number))
        if settle:
            self._execute(_SETTLE, (number,))

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
        created = self._create(new)
        self.deliver(deliver)
        return created

    def deliver(self, messages: Sequence[Message]) -> list[bool]:
        """Put messages into inboxes; False for each that had arrived before."""
        return [self._deliver(message) for message in messages]

    def claim(
        self, worker: str, now: int, lease_us: int, agents: Sequence[str], limit: int, run: str
    ) -> list[Claim]:
        """Free what was lost, renew this worker's lease and lease ready runs."""
        lost = self._execute("SELECT id FROM worker WHERE expires_at <= ?", (now,)).fetchall()
        for (name,) in lost:
            self.release(str(name))
        self._execute(_HEARTBEAT, (worker, now + lease_us))
        numbers = self._named(run, agents) if run else self._ready(now, agents, limit)
        claims = []
        for number in numbers[:limit]:
            for epoch, *row in self._execute(_LEASE, (worker, number)).fetchall():
                claims.append(Claim(RunRow(*row), epoch))  # noqa: PERF401 - it is one row
        return claims

    def renew(self, worker: str, now: int, lease_us: int) -> bool:
        """Extend a worker's lease; one that has run out is gone, and its runs are free."""
        extend = "UPDATE worker SET expires_at = ? WHERE id = ? AND expires_at > ?"
        if self._matches(extend, (now + lease_us, worker, now)):
            return True
        self.release(worker)
        return False

    def release(self, worker: str) -> None:
        """Free the runs of a worker and forget it."""
        self._execute(_FREE, (worker,))
        self._execute("DELETE FROM worker WHERE id = ?", (worker,))

    def _matches(self, statement: str, values: tuple[Any, ...]) -> bool:
        self._execute(statement, values)
        return self._connection.changes() > 0

    def _number(self, run: str) -> int:
        """Return a run's number, 0 when there is no such run."""
        number = self._numbers.get(run)
        if number is None:
            found = self._execute("SELECT n FROM run WHERE id = ?", (run,)).fetchall()
            if not found:
                return 0
            if len(self._numbers) >= _NUMBERS_MAX:
                self._numbers.clear()
            number = self._numbers[run] = int(found[0][0])
        return number

    def _check(self, run: str, epoch: int, expected_seq: int) -> None:
        """Refuse a change of a run that has moved on."""
        found = self._execute("SELECT epoch, seq FROM run WHERE id = ?", (run,)).fetchall()
        if not found:
            raise Conflict(
                f"run {run!r} does not exist; an append expected it to have {expected_seq} events.",
                run=run,
            )
        ((held, seq),) = found
        if held > epoch:
            raise Fenced(
                f"run {run!r} is at epoch {held}, a worker sent epoch {epoch}: another worker has"
                " claimed the run since.",
                run=run,
                epoch=held,
            )
        assert held == epoch, f"run {run!r}: nobody was given epoch {epoch}, it is {held}"
        if seq != expected_seq:
            raise Conflict(
                f"run {run!r} has {seq} events, an append expected {expected_seq}.",
                run=run,
                seq=seq,
            )

    def _add_events(self, number: int, events: Sequence[Event]) -> None:
        rows = []
        for event in events:
            if event.payload is None:
                form, stored = PLAIN, None
            else:
                form, stored = self._chunks.store(event.payload)
            rows.append((number, event.seq, event.leaf, event.salt, form, stored))
        self._connection.executemany(_NEW_EVENT, rows)

    def _create(self, new: NewRun) -> bool:
        if not self._matches(_NEW_RUN, new.row):
            return False
        number = self._connection.last_insert_rowid()
        self._add_events(number, new.events)
        self._execute(_SETTLE, (number,))
        return True

    def _deliver(self, message: Message) -> bool:
        known = "SELECT 1 FROM inbox WHERE run = ? AND id = ?"
        if self._execute(known, (message.to, message.id)).fetchall():
            return False  # before its payload makes chunks that nothing refers to
        form, stored = self._chunks.store(message.payload)
        cause = json.dumps(message.cause, separators=(",", ":"))
        values = (message.to, message.id, message.topic, message.at, message.sender, cause)
        self._execute(_NEW_MESSAGE, (*values, form, stored))
        self._execute(_WAKE, (message.at, message.to))
        return True

    def _named(self, run: str, agents: Sequence[str]) -> list[int]:
        found = self._execute(_UNHELD, (run,)).fetchall()
        return [int(number) for agent, number in found if agent in agents]

    def _ready(self, now: int, agents: Sequence[str], limit: int) -> list[int]:
        """Return the numbers of ready runs, those ready the longest first."""
        since: dict[int, tuple[int, str]] = {}
        for agent in set(agents):
            rows = self._execute(_READY, (agent, limit)).fetchall()
            rows += self._execute(_DUE, (agent, limit, now)).fetchall()
            for at, run, number in rows:
                since[number] = min((at, run), since.get(number, (at, run)))
        return sorted(since, key=lambda number: since[number])


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
