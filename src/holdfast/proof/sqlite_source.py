"""A store file as the verifier reads it: with SQL that trusts no index, and its own decoding.

It is written a second time here, from the description of the tables, so that a fault of the store
is no fault of the verifier. What holds of the container is checked first: the pages (SQLite's own
check), and the statements that made the tables, so that nothing hangs on them that could hide or
replace a row: no trigger, no view in a table's place, no index of somebody else's.

The file is read inside one transaction, so a store in use may be verified too; without a
write-ahead log beside it, it is opened as immutable, and nothing is left behind.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import closing
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import quote

import apsw

from holdfast.proof.note import Note
from holdfast.proof.policy import Policy
from holdfast.proof.report import Entry, Finding, Report, SignedHead
from holdfast.proof.stored import Opener, StoredPayloads
from holdfast.proof.verify import verify

__all__ = ["SCHEMAS", "SqliteSource", "schema_digest", "verify_file"]

APPLICATION_ID = int.from_bytes(b"hold")
SCHEMAS = {
    2: "adf8f1fd1affe00a062c858507de8ff41ab0dbca96d1a661e7a5049ed47ef299",
    3: "dc3ccb3a8224d28fb39a814443b9f2fa247ded55ce1576debe41634ecd6afa62",
    4: "b1765914bb36bc0d6df31b58dd0893f3e7695e2533067a9ad05a80a1c561ba2e",
    5: "e8c589e4e64bf32fa426ee43d9c2593c7f164c850ab6ac00ac7042c90557ca6a",
    6: "2c1c05a1ea0e7452a320eb8368ece90f70388153937ec038082246f85c1cdf83",
    7: "2c1c05a1ea0e7452a320eb8368ece90f70388153937ec038082246f85c1cdf83",
}
"""Version of the format → digest of the statements that made its tables and indexes."""

TABLES = frozenset(
    {
        "chunk",
        "event",
        "head",
        "inbox",
        "run",
        "signer",
        "subject",
        "subject_key",
        "subject_run",
        "tile",
        "worker",
    }
)
TILE_HASHES = 256


def verify_file(
    path: Path,
    *,
    against: Sequence[Note] = (),
    trust: Policy | None = None,
    opener: Opener | None = None,
) -> Report:
    """Verify a store file; nothing is written, and no exception escapes.

    With an opener, encrypted payloads are opened and checked too.
    """
    try:
        with closing(_connect(path)) as connection:
            source = SqliteSource(connection, str(path), opener)
            return verify(source, against=against, trust=trust)
    except (apsw.Error, OSError) as error:
        says = f"not a store that can be read: {type(error).__name__}: {error}"
        return Report(str(path), findings=[Finding("file", says)])


def _connect(path: Path) -> apsw.Connection:
    path.stat()  # SQLite's own message does not say that it is missing
    used = path.with_name(f"{path.name}-wal").exists()
    uri = f"file:{quote(str(path.absolute()))}?{'mode=ro' if used else 'immutable=1'}"
    connection = apsw.Connection(uri, flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI)
    connection.set_busy_timeout(5_000)
    return connection


def schema_digest(connection: apsw.Connection) -> str:
    """Return a digest of our tables and of all that hangs on them."""
    objects = connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_schema").fetchall()
    ours = sorted(
        "\0".join(re.sub(r"\s+", "", str(part)) for part in row)
        for row in objects
        if {str(row[1]).lower(), str(row[2]).lower()} & TABLES
    )
    return sha256("\n".join(ours).encode()).hexdigest()


class SqliteSource:
    """The log in a store file, as a ``Source``.

    Args:
        connection: The file, opened to read.
        name: What reports call it.
        opener: Opens encrypted payloads, if their keys are at hand.
    """

    def __init__(
        self, connection: apsw.Connection, name: str, opener: Opener | None = None
    ) -> None:
        self.name = name
        self._execute = connection.execute
        self._connection = connection
        self._payloads = StoredPayloads(self._chunk, self._keys, opener)
        self._runs: dict[int, str] = {}
        connection.config(apsw.SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0)
        connection.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, 1)

    def check(self) -> Iterator[Finding]:
        self._execute("BEGIN")
        ((found,),) = self._execute("PRAGMA application_id").fetchall()
        if found != APPLICATION_ID:
            says = f"a file of another program: application_id {found}, expected {APPLICATION_ID}"
            yield Finding("file", says)
        version = _whole(self._execute("PRAGMA user_version").fetchall()[0][0])
        if version not in SCHEMAS:
            says = f"a store of version {version}; this verifier knows {sorted(SCHEMAS)}"
            yield Finding("file", says)
        elif schema_digest(self._connection) != SCHEMAS[version]:
            says = "its tables, or what hangs on them, are not those of a store"
            yield Finding("file", f"{says}. Hint: holdfast fsck names them")
        for (found,) in self._execute("PRAGMA integrity_check(10)"):
            if found != "ok":
                yield Finding("file", f"SQLite finds its pages damaged: {found}"[:500])

    def signers(self) -> Iterator[tuple[str, int, str]]:
        statement = (
            "SELECT CAST(key AS BLOB), since, CAST(statement AS BLOB)"
            " FROM signer NOT INDEXED ORDER BY n"
        )
        for key, since, said in self._execute(statement):
            yield _text(key), since if isinstance(since, int) else -1, _text(said)

    def heads(self) -> Iterator[SignedHead]:
        statement = "SELECT size, root, signature FROM head NOT INDEXED ORDER BY size"
        for size, root, signature in self._execute(statement):
            yield SignedHead(_whole(size), _bytes(root), _bytes(signature))

    def checkpoints(self) -> Iterator[Note]:
        return iter(())

    def entries(self) -> Iterator[Entry]:
        runs = "SELECT n, CAST(id AS BLOB) FROM run NOT INDEXED"
        numbered: Iterator[tuple[Any, ...]] = iter(self._execute(runs))
        self._runs = {_whole(n): _text(id_) for n, id_ in numbered}
        statement = (
            "SELECT pos, run, seq, leaf, salt, form, payload FROM event NOT INDEXED ORDER BY pos"
        )
        expected = 1
        rows: Iterator[tuple[Any, ...]] = iter(self._execute(statement))
        for pos, run, seq, leaf, salt, form, payload in rows:
            fault = ""
            if pos != expected:
                fault = f"it is at position {pos}, where {expected} comes next"
                expected = _whole(pos)
            expected += 1
            place = None
            if _whole(run) in self._runs and isinstance(seq, int):
                place = (self._runs[_whole(run)], seq)
            else:
                fault = fault or f"it is kept as event {seq!r} of run number {run!r}, which is none"
            if not isinstance(leaf, bytes):
                fault = "it has no leaf"
            found = self._payloads.read(place, salt, form, payload)
            yield Entry(_bytes(leaf), found, place, fault)

    def tile(self, level: int, n: int, width: int) -> tuple[bytes, bytes] | None:
        if width < TILE_HASHES:
            raise LookupError("no tile is kept that is not full")
        statement = "SELECT hashes, root FROM tile WHERE level = ? AND n = ?"
        for hashes, root in self._execute(statement, (level, n)):
            return _bytes(hashes), _bytes(root) or b"\0"
        return None

    def rows(self) -> Iterator[tuple[str, int, str]]:
        statement = "SELECT CAST(id AS BLOB), seq, CAST(head AS BLOB) FROM run NOT INDEXED"
        for run, seq, head in self._execute(statement):
            yield _text(run), _whole(seq), _text(head)

    def _chunk(self, number: int) -> Sequence[tuple[Any, ...]]:
        statement = "SELECT form, data FROM chunk NOT INDEXED WHERE n = ?"
        return self._execute(statement, (number,)).fetchall()

    def _keys(self, subject: bytes) -> Sequence[tuple[Any, ...]]:
        statement = """
        SELECT key FROM subject_key JOIN subject ON subject = subject.n
        WHERE CAST(id AS BLOB) = ?"""
        return self._execute(statement, (subject,)).fetchall()


def _text(value: Any) -> str:
    return value.decode(errors="backslashreplace") if isinstance(value, bytes) else repr(value)


def _bytes(value: Any) -> bytes:
    return value if isinstance(value, bytes) else b""


def _whole(value: Any) -> int:
    return value if isinstance(value, int) else -1
