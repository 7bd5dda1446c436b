"""Check a database, read-only and without the store: what must hold is looked up and recomputed.

All of it is read in one transaction that sees one state, so a fleet at work may be checked; rows
come through cursors, a few thousand at a time, and one run is in memory at a time. What must hold
of a run is said in ``checking.py``; here is what PostgreSQL has besides: positions without gaps,
each event at one position or noted to get one, and nothing that hangs on our tables.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import Any

import psycopg

from holdfast.core.state import RunRow
from holdfast.retention import COLLECTED_RUNS
from holdfast.stores.checking import Checker, Problem
from holdfast.stores.postgres.schema import VERSION

__all__ = ["check_database"]

_FETCHED = 2_000
_NOWHERE = 2**62
"""Behind all positions: where what has none yet will stand."""
_FIELDS = ", ".join(("id", *RunRow._fields[1:]))

_HANGS = """
SELECT relname, relkind::text <> 'r', relrowsecurity, relhasrules,
  EXISTS (SELECT FROM pg_trigger WHERE tgrelid = pg_class.oid),
  EXISTS (SELECT FROM pg_index WHERE indrelid = pg_class.oid AND NOT indisvalid)
FROM pg_class
WHERE relnamespace = 'holdfast'::regnamespace AND relkind IN ('r', 'v', 'm', 'f', 'p')
ORDER BY relname"""
_SUBJECTS = """
SELECT subject.id, subject.key, erased, run.id
FROM holdfast.subject LEFT JOIN holdfast.run ON run.id = erased ORDER BY subject.id"""
_COLLECTIONS = """
SELECT leaf FROM holdfast.run JOIN holdfast.event ON event.run = n AND event.seq = 2
WHERE starts_with(id, %s)"""
_RUNS = f"SELECT n, epoch, worker, seen, ready_at, {_FIELDS} FROM holdfast.run ORDER BY n"  # noqa: S608 - constants
_EVENTS = """
SELECT run, seq, leaf, salt, form, payload FROM holdfast.event ORDER BY run, seq"""
_NOTES = """
SELECT run, seq, count, pos FROM holdfast.placed
UNION ALL SELECT run, seq, count, NULL FROM holdfast.unplaced ORDER BY run, seq"""
_LETTERS = """
SELECT n, inbox.run, form, payload, taken, EXISTS (SELECT FROM holdfast.run WHERE id = inbox.run)
FROM holdfast.inbox ORDER BY n"""


def check_database(url: str) -> list[Problem]:
    """Return everything that is wrong with a store in a database; nothing is changed."""
    try:
        with psycopg.connect(url, connect_timeout=10) as connection:
            connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            connection.read_only = True
            return _Checker(connection).check()
    except psycopg.Error as error:
        said = " ".join(str(error).split())
        return [Problem("", 0, "database", "a store that can be read", said[:500])]


class _Checker(Checker):
    """One pass over a database."""

    def __init__(self, connection: psycopg.Connection) -> None:
        super().__init__()
        self.connection = connection
        self._cursors = 0

    def check(self) -> list[Problem]:
        self.all("SET LOCAL statement_timeout = 0")
        if not self.all("SELECT 1 FROM pg_namespace WHERE nspname = 'holdfast'"):
            return [Problem("", 0, "schema", "one called 'holdfast'", "none")]
        steps = [
            self.check_schema,
            self.check_subjects,
            self.read_collections,
            self.check_chunks,
            self.check_positions,
            self.check_runs,
            self.check_strays,
        ]
        for step in steps:
            self.guard("", 0, self._apart, step)
        return self.problems

    def _apart(self, step: Callable[[], None]) -> None:
        """Take a step so that its failure does not fail those behind it."""
        with self.connection.transaction():
            step()

    def letters(self, run: str) -> Sequence[tuple[Any, ...]]:
        statement = "SELECT id, topic, taken FROM holdfast.inbox WHERE run = %s ORDER BY n"
        return self.all(statement, run)

    def oldest_unread(self, run: str, seen: int) -> Any:
        new = "SELECT min(at) FROM holdfast.inbox WHERE run = %s AND n > %s AND taken IS NULL"
        return self.all(new, run, seen)[0][0]

    def knows_worker(self, worker: str) -> bool:
        return bool(self.all("SELECT 1 FROM holdfast.worker WHERE id = %s", worker))

    def chunk(self, number: int) -> Sequence[tuple[Any, ...]]:
        return self.all("SELECT form, data FROM holdfast.chunk WHERE n = %s", number)

    def check_schema(self) -> None:
        for program, version in self.all("SELECT program, version FROM holdfast.meta"):
            if (program, version) != ("holdfast", VERSION):
                found = f"version {version} of {program}"
                self.problem("", 0, "schema", f"version {VERSION} of holdfast", found)
        for name, foreign, secured, ruled, triggered, invalid in self.all(_HANGS):
            hangs = {
                "not a table": foreign,
                "a policy": secured,
                "a rule": ruled,
                "a trigger": triggered,
                "an index that is not valid": invalid,
            }
            for what in (what for what, is_so in hangs.items() if is_so):
                self.problem("", 0, f"holdfast.{name}", "a table of ours, and no more", what)

    def check_subjects(self) -> None:
        for row in self.all(_SUBJECTS):
            self.check_subject(*row)

    def read_collections(self) -> None:
        for row in self.all(_COLLECTIONS, COLLECTED_RUNS):
            self.note_collection(*row)

    def check_chunks(self) -> None:
        for row in self.stream("SELECT n, hash, form, data FROM holdfast.chunk"):
            self.guard("", 0, self.check_chunk, *row)

    def check_positions(self) -> None:
        expected = 1
        for pos, count in self.stream("SELECT pos, count FROM holdfast.placed ORDER BY pos"):
            if pos != expected or count < 1:
                self.problem("", 0, "position", expected, f"{count} events from {pos} on")
            expected = pos + max(count, 1)

    def check_runs(self) -> None:
        """Check each run that has a row, an event or a note."""
        events = _Groups(self.stream(_EVENTS))
        notes = _Groups(self.stream(_NOTES))
        for number, *facts in self.stream(_RUNS):
            self.check_without_row(number, events, notes)
            kept = {seq: stored for seq, *stored in events.take(number)}
            self.guard(facts[4], 0, self.read_run, facts, kept, notes.take(number))
        self.check_without_row(_NOWHERE, events, notes)

    def check_without_row(self, before: int, *streams: "_Groups") -> None:
        for number in sorted({n for stream in streams for n in stream.skip_to(before)}):
            self.problem(f"#{number}", 0, "row", "a row", "none")

    def read_run(
        self,
        facts: Sequence[Any],
        kept: dict[int, list[Any]],
        notes: Sequence[Sequence[Any]],
    ) -> None:
        epoch, worker, seen, ready_at, *fields = facts
        row = RunRow(*fields)
        stands: dict[int, int] = {}
        for first, count, pos in notes:
            for i in range(count):
                at = _NOWHERE + first + i if pos is None else pos + i
                if first + i in stands:
                    self.problem(row.run, first + i, "position", stands[first + i], at)
                stands[first + i] = at
        for seq in sorted(kept.keys() - stands.keys()):
            self.problem(row.run, seq, "position", "one, or a note that it is to get one", "none")
        for seq in sorted(stands.keys() - kept.keys()):
            self.problem(row.run, seq, "position", "an event", f"none at {stands[seq]}")
        places = [(seq, stands.get(seq, _NOWHERE + seq)) for seq in sorted(kept)]
        lease = (epoch, worker, seen, ready_at)
        self.check_run(row, lease, places, lambda seq, _: tuple(kept[seq]))

    def check_strays(self) -> None:
        for letter in self.stream(_LETTERS):
            self.check_letter(letter)

    def all(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        cursor = self.connection.cursor(binary=True)
        cursor.execute(statement.encode(), values)
        return cursor.fetchall() if cursor.description else []

    def stream(self, statement: str) -> Iterator[tuple[Any, ...]]:
        """Yield rows that may be many, through a cursor of the server's."""
        self._cursors += 1
        with self.connection.cursor(f"fsck_{self._cursors}", binary=True) as cursor:
            cursor.itersize = _FETCHED
            cursor.execute(statement.encode())
            yield from cursor


class _Groups:
    """Rows that come by rising number, which is their first column: those of one at a time."""

    def __init__(self, rows: Iterator[tuple[Any, ...]]) -> None:
        self._groups = groupby(rows, key=lambda row: row[0])
        self._next = next(self._groups, None)

    def take(self, number: int) -> list[tuple[Any, ...]]:
        """Return the rows of a number, without it."""
        if self._next is None or self._next[0] != number:
            return []
        rows = [row[1:] for row in self._next[1]]
        self._next = next(self._groups, None)
        return rows

    def skip_to(self, before: int) -> list[int]:
        """Pass over rows of numbers below one, and return these numbers."""
        skipped = []
        while self._next is not None and self._next[0] < before:
            skipped.append(self._next[0])
            self._next = next(self._groups, None)
        return skipped
