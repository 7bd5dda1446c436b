"""What the store reads, as plain functions on a connection that only reads.

Each finishes its statement before it returns, for a statement left open would hold on to an old
state of the file and keep the write-ahead log from being reused.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import apsw

from holdfast.core.events import Event, open_leaf
from holdfast.core.state import RunRow
from holdfast.errors import StoreRefused
from holdfast.ports import (
    Claim,
    InboxMessage,
    Letter,
    Message,
    Pause,
    QueueInfo,
    QueueLimits,
    Rest,
    WorkerInfo,
)
from holdfast.stores.payloads import CHUNKED, PLAIN, inflate, load
from holdfast.stores.sqlite import statements as sql
from holdfast.stores.sqlite.changes import lost_workers
from holdfast.stores.sqlite.file import meaning
from holdfast.stores.sqlite.line import Line
from holdfast.stores.sqlite.presence import Presence
from holdfast.stores.sqlite.subjects import KNOWN, LISTED, subject_of
from holdfast.subjects import Subject

__all__ = ["FEW_MAX", "Queries", "next_prefix", "rows_statement"]

_ALL = 2**62
_STUCK = frozenset({"diverged", "in_doubt"})
FEW_MAX = 64
"""So many events that lie in their rows, payloads of at most 2 KiB included, are read at once."""


class Queries:
    """The reads of a store, on a connection that one thread at a time may use."""

    def __init__(self, connection: apsw.Connection, path: Path, presence: Presence) -> None:
        self._connection = connection
        self._presence = presence
        self._path = path
        self._line = Line(self.all)

    def version(self) -> int:
        """Return a number that is another one whenever another connection has committed."""
        return int(self.all("PRAGMA data_version", ())[0][0])

    def row(self, run: str) -> RunRow | None:
        for row in self.all(sql.ROW, (run,)):
            return RunRow(*row)
        return None

    def rows(self, **facts: Any) -> list[RunRow]:
        return [RunRow(*row) for row in self.all(*rows_statement(**facts))]

    def ready(self, agents: Sequence[str], now: int) -> bool:
        if self.lost(now) or self._line.is_due(agents, now):
            return True
        numbers, _ = self._line.choose(agents, now=now, limit=1)
        return bool(numbers)

    def pauses(self) -> list[Pause]:
        return [Pause(*fields) for fields in self.all(sql.PAUSES, ())]

    def rests(self, now: int) -> list[Rest]:
        return [Rest(*fields) for fields in self.all(sql.RESTS, (now,))]

    def queues(self, now: int) -> list[QueueInfo]:
        """Return the queues that have limits, or runs that are ready or held."""
        limits = {f[0]: QueueLimits(*f[:-1]) for f in self.all(sql.LIMITS, ())}
        held = dict(self.all(sql.HELD_BY_QUEUE, ()))
        ready = dict(self.all(sql.READY_BY_QUEUE, (now,)))
        return [
            QueueInfo(limits.get(name) or QueueLimits(name), ready.get(name, 0), held.get(name, 0))
            for name in sorted(limits.keys() | held.keys() | ready.keys())
        ]

    def latest(self) -> int:
        """Return the largest inbox number, 0 for none."""
        return int(self.all(sql.LATEST, ())[0][0])

    def held(self, worker: str) -> list[Claim]:
        return [Claim(RunRow(*row), epoch) for epoch, *row in self.all(sql.HELD, (worker,))]

    def mail(self, worker: str, after: int) -> tuple[int, list[InboxMessage]]:
        latest = self.latest()
        messages = self._messages(self.all(sql.MAIL, (after, worker)))
        return max([latest, *(message.n for message in messages[-1:])]), messages

    def next_wake(self, agents: Sequence[str], after: int) -> int:
        wakes = [at for agent in set(agents) for (at,) in self.all(sql.WAKES, (agent, after))]
        return min(wakes, default=0)

    def read(self, run: str, after: int, until: int, limit: int) -> list[Event]:
        found = self.all(sql.EVENTS, (run, after, until or _ALL, limit or _ALL))
        chunks: dict[int, bytes] = {}
        return [self._event(chunks, *fields) for fields in found]

    def read_few(self, run: str, after: int, until: int, limit: int) -> list[Event] | None:
        """Return what ``read`` does if it takes no time worth mentioning, None if it would."""
        limit = min(limit or _ALL, FEW_MAX + 1)
        found = self.all(sql.EVENTS, (run, after, until or _ALL, limit))
        if len(found) > FEW_MAX or any(form == CHUNKED for _, _, form, _ in found):
            return None
        return [self._event({}, *fields) for fields in found]

    def read_log(self, after: int, limit: int) -> list[tuple[int, Event]]:
        found = self.all(sql.LOG, (after, limit))
        chunks: dict[int, bytes] = {}
        return [(pos, self._event(chunks, *fields)) for *fields, pos in found]

    def has_unread(self, run: str, after: int) -> bool:
        return bool(self.all(sql.HAS_UNREAD, (run, after)))

    def unread(self, run: str, after: int, limit: int) -> list[InboxMessage]:
        return self._messages(
            [(*fields, run) for fields in self.all(sql.UNREAD, (run, after, limit))]
        )

    def inbox(self, run: str, after: int, limit: int) -> list[Letter]:
        """Return the messages that have ever arrived for a run, with ``n > after``."""
        found = self.all(sql.INBOX, (run, after, limit))
        messages = self._messages([(*fields, run) for _, *fields in found])
        pairs = zip(found, messages, strict=True)
        return [Letter(m.n, m.message, taken or 0) for (taken, *_), m in pairs]

    def workers(self, now: int) -> list[WorkerInfo]:
        """Return the workers whose leases hold."""
        lost = self.lost(now)
        known = (WorkerInfo(*fields) for fields in self.all(sql.WORKERS_KNOWN, ()))
        return [worker for worker in known if worker.worker not in lost]

    def subject(self, id_: str) -> Subject | None:
        return next((subject_of(*row) for row in self.all(KNOWN, (id_,))), None)

    def subjects(self, after: str, limit: int) -> list[Subject]:
        return [subject_of(*row) for row in self.all(LISTED, (after, limit))]

    def lost(self, now: int) -> set[str]:
        """Return who has a row and holds nothing any more."""
        return set(lost_workers(self.all(sql.WORKERS, ()), now, self._presence))

    def hold(self) -> None:
        """Go on seeing the file as it is now, until the connection is closed."""
        self._connection.execute("BEGIN")
        self.latest()

    def _messages(self, found: list[tuple[Any, ...]]) -> list[InboxMessage]:
        chunks: dict[int, bytes] = {}
        messages = []
        for n, name, topic, form, stored, at, sender, cause, run in found:
            payload = b"" if stored is None else self._payload(chunks, form, stored)
            links = tuple(c if isinstance(c, int) else (c[0], c[1]) for c in json.loads(cause))
            messages.append(InboxMessage(n, Message(run, name, topic, payload, at, sender, links)))
        return messages

    def close(self) -> None:
        self._connection.close()

    def _event(
        self,
        chunks: dict[int, bytes],
        leaf: bytes,
        salt: bytes | None,
        form: int,
        stored: bytes | None,
    ) -> Event:
        if stored is not None and form != PLAIN:
            stored = self._payload(chunks, form, stored)
        return open_leaf(leaf, payload=stored, salt=salt)

    def _payload(self, chunks: dict[int, bytes], form: int, stored: bytes) -> bytes:
        """Return a payload; ``chunks`` keeps what was fetched, for the next shares most of it."""
        if form != CHUNKED:
            return inflate(form, stored)

        def fetch(number: int) -> bytes:
            if number not in chunks:
                chunks[number] = self._chunk(number)
            return chunks[number]

        return load(form, stored, fetch)

    def _chunk(self, number: int) -> bytes:
        for form, data in self.all(sql.CHUNK, (number,)):
            return inflate(form, data)
        raise StoreRefused(
            f"{self._path}: chunk {number} is missing. Hint: holdfast fsck {self._path}"
        )

    def all(self, statement: str, values: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        """Return all rows that a statement finds."""
        try:
            return self._connection.execute(statement, values).fetchall()
        except apsw.Error as error:
            raise meaning(error, self._path) from error


def rows_statement(
    *,
    prefix: str,
    status: Sequence[str],
    agents: Sequence[str],
    after: tuple[int, str] | None,
    limit: int,
) -> tuple[str, tuple[Any, ...]]:
    """Return the statement that ``Store.rows`` comes down to, and its values."""
    conditions, values = ["TRUE"], list[Any]()
    if prefix:
        # The range lets SQLite use the index; the comparison is what counts.
        conditions.append("id >= ? AND substr(id, 1, ?) = ?")
        values += [prefix, len(prefix), prefix]
        if before := next_prefix(prefix):
            conditions.append("id < ?")
            values.append(before)
    for column, wanted in (("status", status), ("agent", agents)):
        if wanted:
            conditions.append(f"{column} IN ({', '.join('?' * len(wanted))})")
            values += wanted
    if status and _STUCK.issuperset(status):
        conditions.append(sql.STUCK)  # in letters: SQLite uses a partial index for nothing else
    if after:
        conditions.append("(created_at, id) < (?, ?)")
        values += after
    return sql.ROWS.replace("@CONDITIONS", " AND ".join(conditions)), (*values, limit)


def next_prefix(prefix: str) -> str:
    """Return the smallest string that is larger than all with this prefix, empty for none."""
    if prefix[-1] == chr(sys.maxunicode):
        return ""
    last = chr(ord(prefix[-1]) + 1)
    return prefix[:-1] + ("\ue000" if "\ud800" <= last <= "\udfff" else last)  # no surrogate
