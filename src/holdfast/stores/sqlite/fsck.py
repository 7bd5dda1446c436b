"""Check a store file, read-only and without the store: what must hold is looked up and recomputed.

Every event is read by way of the table, not of an index, parsed, hashed and folded anew; rows,
inboxes, payloads and chunks are compared with what comes of that. Whatever the file holds, the
answer is a list of problems, each with the run and event it belongs to: no exception escapes.

A chain of hashes tells *that* a leaf was altered; to say *which*, an event's hash is compared with
the one that its successor (or the run's row) recorded. When the successor was altered too, the
event's hash is put into it: if that mends the successor, its ``prev`` was what was altered.

What was rewritten consistently to the end of a run passes; only a copy kept elsewhere shows that.
"""

import re
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import apsw

from holdfast.core.state import RunRow
from holdfast.errors import StoreError
from holdfast.retention import COLLECTED_RUNS
from holdfast.stores.checking import Checker, Problem
from holdfast.stores.sqlite.file import create_tables, immutable_uri, inspect, undo_pages

__all__ = ["Problem", "check_file", "objects"]

_FIELDS = ", ".join(("id", *RunRow._fields[1:]))


def check_file(path: Path | str) -> list[Problem]:
    """Return everything that is wrong with a store file; nothing is changed, nothing created."""
    path = Path(path).absolute()
    try:
        if not inspect(path):
            return [Problem("", 0, "file", "a store", f"nothing at {path}")]
        if undo_pages(path) is not None:
            found = "a transaction that was cut off. Hint: open the store once, that undoes it"
            return [Problem("", 0, "file", "a store at rest", found)]
        connection = _connect(path)
    except (StoreError, apsw.Error, OSError) as error:
        return [Problem("", 0, "file", "a store that can be read", str(error))]
    try:
        return _Checker(connection).check()
    finally:
        connection.close()


def _connect(path: Path) -> apsw.Connection:
    """Open a file to read, leaving nothing beside it when nobody has it open."""
    used = path.with_name(path.name + "-wal").exists()
    uri = immutable_uri(path, "mode=ro" if used else "immutable=1")
    connection = apsw.Connection(uri, flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI)
    connection.set_busy_timeout(5_000)
    return connection


class _Checker(Checker):
    """One pass over a file, inside one transaction, so that a store in use may be checked too."""

    def __init__(self, connection: apsw.Connection) -> None:
        super().__init__()
        self.connection = connection

    def check(self) -> list[Problem]:
        steps = [
            self.begin,
            self.check_pages,
            self.check_objects,
            self.check_subjects,
            self.read_collections,
            self.check_chunks,
            self.check_positions,
            self.check_runs,
            self.check_strays,
        ]
        for step in steps:
            self.guard("", 0, step)
        return self.problems

    def letters(self, run: str) -> Sequence[tuple[Any, ...]]:
        return self.all("SELECT id, topic, taken FROM inbox WHERE run = ? ORDER BY n", run)

    def oldest_unread(self, run: str, seen: int) -> Any:
        new = "SELECT min(at) FROM inbox WHERE run = ? AND n > ? AND taken IS NULL"
        return self.all(new, run, seen)[0][0]

    def knows_worker(self, worker: str) -> bool:
        return bool(self.all("SELECT 1 FROM worker WHERE id = ?", worker))

    def chunk(self, number: int) -> Sequence[tuple[Any, ...]]:
        return self.all("SELECT form, data FROM chunk NOT INDEXED WHERE n = ?", number)

    def all(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        return self.connection.execute(statement, values).fetchall()

    # The file as such.

    def begin(self) -> None:
        self.connection.execute("BEGIN")

    def check_pages(self) -> None:
        for (found,) in self.all("PRAGMA integrity_check"):
            if found != "ok":
                self.problem("", 0, "SQLite's pages", "ok", found)

    def check_objects(self) -> None:
        """Our tables and indexes are what schema.sql makes, and nothing else hangs on them."""
        fresh = apsw.Connection(":memory:")
        create_tables(fresh)
        expected, tables = objects(fresh)
        found, _ = objects(self.connection)
        for name in sorted(expected | found):
            ours = name in expected or (found[name][1] in tables)
            if ours and expected.get(name) != found.get(name):
                none = (None, None, "nothing")
                what = f"object {name!r}"
                self.problem("", 0, what, expected.get(name, none)[2], found.get(name, none)[2])

    def check_subjects(self) -> None:
        statement = """
        SELECT subject.id, subject_key.key, erased, run.id FROM subject
        LEFT JOIN subject_key ON subject = subject.n LEFT JOIN run ON run.id = erased"""
        for row in self.all(statement):
            self.check_subject(*row)

    def read_collections(self) -> None:
        statement = """
        SELECT leaf FROM event JOIN run ON n = run WHERE id GLOB ? AND event.seq = 2"""
        for row in self.all(statement, f"{COLLECTED_RUNS}*"):
            self.note_collection(*row)

    def check_chunks(self) -> None:
        for n, digest, form, data in self.connection.execute(
            "SELECT n, hash, form, data FROM chunk NOT INDEXED"
        ):
            self.guard("", 0, self.check_chunk, n, digest, form, data)

    def check_positions(self) -> None:
        last = 0
        for (pos,) in self.connection.execute("SELECT pos FROM event NOT INDEXED ORDER BY pos"):
            if pos != last + 1:
                self.problem("", 0, "position", last + 1, pos)
            last = pos

    # Runs.

    def check_runs(self) -> None:
        """Check each run that has a row or an event."""
        numbers = {n for (n,) in self.all("SELECT n FROM run NOT INDEXED")}
        places = self.connection.execute(
            "SELECT run, seq, pos FROM event NOT INDEXED ORDER BY run, seq, pos"
        )
        for number, group in groupby(places, key=lambda place: place[0]):
            self.guard("", 0, self.read_run, number, [(seq, pos) for _, seq, pos in group])
            numbers.discard(number)
        for number in sorted(numbers):
            self.guard("", 0, self.read_run, number, [])

    def read_run(self, number: int, places: Sequence[tuple[int, int]]) -> None:
        rows = self.all(
            f"SELECT epoch, worker, seen, ready_at, {_FIELDS} FROM run NOT INDEXED WHERE n = ?",  # noqa: S608 - constants
            number,
        )
        if not rows:
            self.problem(f"#{number}", 0, "row", "a row", "none")
            return
        ((epoch, worker, seen, ready_at, *fields),) = rows
        self.check_run(RunRow(*fields), (epoch, worker, seen, ready_at), places, self.read_event)

    def read_event(self, _: int, pos: int) -> tuple[Any, ...]:
        event = "SELECT leaf, salt, form, payload FROM event NOT INDEXED WHERE pos = ?"
        return self.all(event, pos)[0]

    def check_strays(self) -> None:
        for letter in self.connection.execute(
            "SELECT n, run, form, payload, taken, EXISTS (SELECT 1 FROM run WHERE id = inbox.run)"
            " FROM inbox NOT INDEXED"
        ):
            self.check_letter(letter)


def objects(
    connection: apsw.Connection,
) -> tuple[dict[str, tuple[str, str, str]], set[str]]:
    """Return name → (type, table, statement) of all objects, and the names of the tables.

    Statements come without their layout: a column that was added later stands on another line.
    """
    found: list[tuple[Any, ...]] = connection.execute(
        "SELECT type, name, tbl_name, coalesce(sql, 'implied by the table') FROM sqlite_master"
    ).fetchall()
    objects = {name: (type_, table, _plain(sql)) for type_, name, table, sql in found}
    return objects, {name for name, (type_, _, _) in objects.items() if type_ == "table"}


def _plain(statement: str) -> str:
    return re.sub(r" ?([(),]) ?", r"\1", re.sub(r"\s+", " ", statement))
