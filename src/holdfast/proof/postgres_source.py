"""A PostgreSQL database as the verifier reads it: with SQL and decoding of its own.

As with a file (``sqlite_source.py``) the container is checked first: that tables are tables with
the columns they should have, and that nothing hangs on them that could hide or replace a row, no
trigger, no rule, no policy. The database is read in one transaction that sees one state of it; rows
come through cursors, a few thousand at a time.

Events that have no position yet are not signed: whoever gives positions signs. So the log ends at
the last position, and the row of a run that has gone on since is not compared.
"""

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import psycopg

from holdfast.proof.note import Note
from holdfast.proof.policy import Policy
from holdfast.proof.report import Entry, Finding, Report, SignedHead
from holdfast.proof.stored import Opener, StoredPayloads
from holdfast.proof.verify import verify

__all__ = ["PostgresSource", "verify_database"]

VERSIONS = {4, 5}
COLUMNS = {
    "chunk": "n bigint, hash bytea, form smallint, data bytea",
    "event": "run bigint, seq bigint, leaf bytea, salt bytea, form smallint, payload bytea",
    "head": "size bigint, root bytea, signature bytea",
    "placed": "pos bigint, run bigint, seq bigint, count bigint",
    "signer": "n bigint, key text, since bigint, statement text",
    "subject": "id text, key bytea, erased text",
    "tile": "level bigint, n bigint, root bytea, hashes bytea",
    "unplaced": "n bigint, run bigint, seq bigint, count bigint",
}
"""What the verifier relies on; of ``run`` it reads three columns."""
TABLES = [*COLUMNS, "run"]
TILE_HASHES = 256
TOGETHER_MAX = 1_000_000
"""Events of one change."""
_FETCHED = 2_000

_KINDS = """
SELECT relname, relkind::text, relrowsecurity, relhasrules,
  (SELECT count(*) FROM pg_trigger WHERE tgrelid = pg_class.oid),
  (SELECT string_agg(attname || ' ' || format_type(atttypid, atttypmod), ', ' ORDER BY attnum)
   FROM pg_attribute WHERE attrelid = pg_class.oid AND attnum > 0 AND NOT attisdropped)
FROM pg_class WHERE relnamespace = to_regnamespace('holdfast') AND relname = ANY(%s)"""
_ENTRIES = """
SELECT placed.pos, placed.run, placed.seq, placed.count,
  event.seq, event.leaf, event.salt, event.form, event.payload
FROM holdfast.placed LEFT JOIN holdfast.event ON event.run = placed.run
  AND event.seq >= placed.seq AND event.seq < placed.seq + placed.count
ORDER BY placed.pos, event.seq"""
_ROWS = """
SELECT run.id, run.seq, run.head FROM holdfast.run
WHERE NOT EXISTS (SELECT FROM holdfast.unplaced WHERE unplaced.run = run.n)
UNION ALL
SELECT run.id, event.seq, encode(sha256('\\x00'::bytea || event.leaf), 'hex')
FROM holdfast.run, LATERAL (
  SELECT placed.seq + placed.count - 1 AS seq FROM holdfast.placed
  WHERE placed.run = run.n ORDER BY placed.seq DESC LIMIT 1) AS last,
  holdfast.event
WHERE EXISTS (SELECT FROM holdfast.unplaced WHERE unplaced.run = run.n)
  AND event.run = run.n AND event.seq = last.seq"""


def verify_database(
    url: str,
    *,
    against: Sequence[Note] = (),
    trust: Policy | None = None,
    opener: Opener | None = None,
) -> Report:
    """Verify a database; nothing is written, and no exception escapes.

    With an opener, encrypted payloads are opened and checked too.
    """
    name = ""
    try:
        with psycopg.connect(url, connect_timeout=10) as connection:
            name = f"postgresql://{connection.info.host}/{connection.info.dbname}"
            connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            connection.read_only = True
            return verify(PostgresSource(connection, name, opener), against=against, trust=trust)
    except psycopg.Error as error:
        says = f"not a store that can be read: {' '.join(str(error).split())}"
        return Report(name or "the database", findings=[Finding("file", says[:500])])


class PostgresSource:
    """The log in a database, as a ``Source``.

    Args:
        connection: To the database, for this alone.
        name: What reports call it.
        opener: Opens encrypted payloads, if their keys are at hand.
    """

    def __init__(
        self, connection: psycopg.Connection, name: str, opener: Opener | None = None
    ) -> None:
        self.name = name
        self._connection = connection
        self._payloads = StoredPayloads(self._chunk, self._keys, opener)
        self._cursors = 0

    def check(self) -> Iterator[Finding]:
        self._all("SET LOCAL statement_timeout = 0")
        found = {row[0]: row[1:] for row in self._all(_KINDS, TABLES)}
        if "event" not in found:
            yield Finding("file", "there is no store in this database")
            return
        for table in TABLES:
            if table not in found:
                yield Finding("file", f"there is no table holdfast.{table}")
                continue
            kind, secured, ruled, triggers, columns = found[table]
            if kind != "r":
                yield Finding("file", f"holdfast.{table} is not a table")
            if secured or ruled or triggers:
                hangs = "a policy" if secured else "a rule" if ruled else "a trigger"
                yield Finding("file", f"{hangs} hangs on table holdfast.{table}")
            if columns != COLUMNS.get(table, columns):
                yield Finding("file", f"table holdfast.{table} has other columns: {columns}"[:500])
        for program, version in self._all("SELECT program, version FROM holdfast.meta"):
            if program != "holdfast" or version not in VERSIONS:
                says = f"a store of version {version}; this verifier knows {sorted(VERSIONS)}"
                yield Finding("file", says)

    def signers(self) -> Iterator[tuple[str, int, str]]:
        yield from self._all("SELECT key, since, statement FROM holdfast.signer ORDER BY n")

    def heads(self) -> Iterator[SignedHead]:
        statement = "SELECT size, root, signature FROM holdfast.head ORDER BY size"
        for row in self._stream(statement):
            yield SignedHead(*row)

    def checkpoints(self) -> Iterator[Note]:
        return iter(())

    def entries(self) -> Iterator[Entry]:
        runs: dict[int, str] = dict(self._stream("SELECT n, id FROM holdfast.run"))
        expected = 1
        for block, rows in groupby(self._stream(_ENTRIES), key=lambda row: row[:4]):
            pos, run, first, count = block
            fault = ""
            if pos != expected:
                fault = f"it is at position {pos}, where {expected} comes next"
            elif run not in runs:
                fault = f"it is kept as an event of run number {run}, which is none"
            elif not 0 < count <= TOGETHER_MAX:
                fault = f"{count} events should begin here"
            expected = pos + count
            kept = {row[4]: row[5:] for row in rows}
            for seq in range(first, first + min(count, TOGETHER_MAX)):
                place = (runs[run], seq) if run in runs else None
                if seq in kept:
                    leaf, *stored = kept[seq]
                    yield Entry(leaf, self._payloads.read(place, *stored), place, fault)
                else:
                    yield Entry(b"", None, place, fault or "it is not there")
                fault = ""

    def tile(self, level: int, n: int, width: int) -> tuple[bytes, bytes] | None:
        if width < TILE_HASHES:
            raise LookupError("no tile is kept that is not full")
        statement = "SELECT hashes, root FROM holdfast.tile WHERE level = %s AND n = %s"
        for hashes, root in self._all(statement, level, n):
            return hashes, root or b"\0"
        return None

    def rows(self) -> Iterator[tuple[str, int, str]]:
        yield from self._stream(_ROWS)

    def _chunk(self, number: int) -> Sequence[tuple[Any, ...]]:
        return self._all("SELECT form, data FROM holdfast.chunk WHERE n = %s", number)

    def _keys(self, subject: bytes) -> Sequence[tuple[Any, ...]]:
        name = subject.decode(errors="replace")
        return self._all("SELECT key FROM holdfast.subject WHERE id = %s", name)

    def _all(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        cursor = self._connection.cursor(binary=True)
        cursor.execute(statement.encode(), values)
        return cursor.fetchall() if cursor.description else []

    def _stream(self, statement: str) -> Iterator[tuple[Any, ...]]:
        """Yield rows that may be many, through a cursor of the server's."""
        self._cursors += 1
        with self._connection.cursor(f"verify_{self._cursors}", binary=True) as cursor:
            cursor.itersize = _FETCHED
            cursor.execute(statement.encode())
            yield from cursor
