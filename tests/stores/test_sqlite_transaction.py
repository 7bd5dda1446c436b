"""A transactional body has the file to itself, but for what is holdfast's.

*Goal*: no statement reaches the store's own tables or the end of the transaction, by whatever way,
and the body's own work commits with the change or not at all. *Method*: one statement for each way
that SQLite offers; what the store holds is compared before and after.
"""

import asyncio
from pathlib import Path

import apsw
import pytest

from holdfast.errors import UsageError
from holdfast.stores.sqlite import SqliteStore
from holdfast.stores.sqlite.file import create_tables
from holdfast.stores.sqlite.fsck import check_file
from holdfast.stores.sqlite.transaction import OBJECTS
from holdfast.testing.harness import NOTE, hold, transact

FORBIDDEN = [
    "SELECT * FROM event",
    'SELECT count(*) FROM main."EVENT"',
    "SELECT 1 FROM theirs WHERE run IN (SELECT n FROM [run])",
    "SELECT * FROM looking",
    "INSERT INTO inbox (run) VALUES ('x')",
    "UPDATE run SET epoch = 9",
    "DELETE FROM worker",
    "REPLACE INTO chunk VALUES (1, x'', 0, x'')",
    "DROP TABLE event",
    "ALTER TABLE run RENAME TO walk",
    "ALTER TABLE run ADD COLUMN theirs",
    "DROP INDEX event_seq",
    "CREATE INDEX theirs_too ON run (status)",
    "CREATE TRIGGER peek AFTER INSERT ON event BEGIN DELETE FROM theirs; END",
    "CREATE TEMP TRIGGER peek AFTER INSERT ON main.event BEGIN DELETE FROM theirs; END",
    "CREATE TEMP TABLE event (pos)",
    "CREATE TEMP VIEW run AS SELECT 1",
    "CREATE TABLE copied AS SELECT * FROM event",
    "INSERT INTO trap VALUES (1)",
    "SELECT * FROM pragma_table_info('event')",
    "PRAGMA user_version = 7",
    "PRAGMA writable_schema = 1",
    "PRAGMA journal_mode = DELETE",
    "INSERT INTO theirs VALUES (9, 'x'); COMMIT",
    "SELECT 1; SELECT 2",
    "ATTACH 'x.db' AS x",
]


def on_a_store(tmp_path: Path, test):
    async def main():
        store = await SqliteStore.open(tmp_path / "holdfast.db")
        try:
            return await test(store)
        finally:
            await store.close()

    result = asyncio.run(main())
    assert check_file(tmp_path / "holdfast.db") == []
    return result


def prepare(transaction) -> None:
    """Make tables of the user's, a view that looks at the log and a trigger that writes to it."""
    transaction.execute("CREATE TABLE theirs (run INTEGER, event TEXT)")
    transaction.execute("CREATE VIEW looking AS SELECT leaf FROM event")
    transaction.execute("CREATE TABLE trap (n)")
    transaction.execute(
        "CREATE TRIGGER trapped AFTER INSERT ON trap BEGIN UPDATE run SET epoch = 9; END"
    )


@pytest.mark.parametrize("sql", FORBIDDEN)
def test_no_statement_reaches_what_is_holdfasts(sql: str, tmp_path: Path):
    async def test(store: SqliteStore):
        script = await hold(store)
        before = await store.read_log(0, limit=100), await store.rows()

        def body(transaction):
            prepare(transaction)
            with pytest.raises(UsageError) as caught:
                transaction.execute(sql)
            assert sql in str(caught.value)
            transaction.execute("INSERT INTO theirs VALUES (?, ?)", (1, "still possible"))

        await transact(store, script.change(NOTE), body)
        log, rows = await store.read_log(0, limit=100), await store.rows()
        assert (log[:-1], len(rows)) == (before[0], len(before[1]))
        seen = []
        change = script.change(NOTE)
        await transact(store, change, lambda tx: seen.extend(tx.execute("SELECT * FROM theirs")))
        assert (1, "still possible") in seen

    on_a_store(tmp_path, test)


def test_columns_may_be_called_as_holdfasts_tables_are(tmp_path: Path):
    async def test(store: SqliteStore):
        script = await hold(store)

        def body(transaction):
            prepare(transaction)
            transaction.execute("CREATE INDEX by_run ON theirs (run)")
            transaction.execute("INSERT INTO theirs (run, event) VALUES (:run, 'x')", {"run": 5})
            transaction.execute("UPDATE theirs SET event = 'y' WHERE run = 5")
            assert transaction.execute("SELECT event, run AS inbox FROM theirs") == [("y", 5)]

        await transact(store, script.change(NOTE), body)

    on_a_store(tmp_path, test)


def test_errors_of_the_bodys_own_come_back_as_they_are(tmp_path: Path):
    async def test(store: SqliteStore):
        script = await hold(store)

        def body(transaction):
            prepare(transaction)
            transaction.execute("CREATE UNIQUE INDEX once ON theirs (run)")
            transaction.execute("INSERT INTO theirs VALUES (1, 'x')")
            transaction.execute("INSERT INTO theirs VALUES (1, 'y')")

        change = script.change(NOTE)
        with pytest.raises(apsw.ConstraintError):
            await transact(store, change, body)
        with pytest.raises(apsw.SQLError, match="no such table"):
            await transact(store, change, lambda tx: tx.execute("SELECT * FROM theirs"))
        with pytest.raises(apsw.SQLError, match="syntax"):
            await transact(store, change, lambda tx: tx.execute("SELEC"))
        await transact(store, change, prepare)

    on_a_store(tmp_path, test)


def test_everything_that_the_schema_names_is_out_of_reach():
    connection = apsw.Connection(":memory:")
    create_tables(connection)
    named = "SELECT name FROM sqlite_master WHERE name NOT LIKE 'sqlite_autoindex%'"
    assert {name for (name,) in connection.execute(named)} == OBJECTS
