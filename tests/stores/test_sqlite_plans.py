"""Whatever the store asks all the time is answered from an index.

*Goal*: neither a million sleeping runs nor a long log slows down a step, a claim or a wake-up.
*Method*: SQLite's own query plans; a scan or a sort of a whole table in one of them is a failure.
"""

import re
from pathlib import Path

import apsw
import pytest

from holdfast.core.state import RunRow
from holdfast.stores.sqlite import statements as sql
from holdfast.stores.sqlite.file import create_tables
from holdfast.stores.sqlite.queries import rows_statement

SCANS = {
    "READY_BY_QUEUE",
    "LIMITS",
    "PAUSES",
    "PAUSED_PLACES",
    "HELD_BY_QUEUE",
    "WORKERS",
    "WORKERS_KNOWN",
    "SIGNERS",
}  # a row for each worker, each key there is
SORTS = {
    "HELD": "ORDER BY",  # what one worker holds
    "INBOX": "ORDER BY",  # what one run was ever sent
    "FAMILY": "ORDER BY",  # what one run has started
    "READY_BY_QUEUE": "GROUP BY",  # for people
}


@pytest.fixture(scope="module")
def connection() -> apsw.Connection:
    connection = apsw.Connection(":memory:")
    create_tables(connection)
    return connection


def plan(connection: apsw.Connection, statement: str) -> list[str]:
    """Return the steps of a statement's plan; every value is bound to NULL."""
    count = max([statement.count("?"), *map(int, re.findall(r"\?(\d+)", statement))])
    if "?1" in statement:
        count = max(map(int, re.findall(r"\?(\d+)", statement)))
    explained = connection.execute("EXPLAIN QUERY PLAN " + statement, (None,) * count)
    return [step for *_, step in explained.fetchall()]


STATEMENTS = [name for name in sql.__all__ if name not in ("ROWS", "STUCK")]


@pytest.mark.parametrize("name", STATEMENTS)
def test_no_statement_scans_or_sorts_a_table(name: str, connection: apsw.Connection):
    for step in plan(connection, getattr(sql, name)):
        scans = step.startswith("SCAN") and step != "SCAN CONSTANT ROW"
        assert not scans or name in SCANS, step
        if step.startswith("USE TEMP B-TREE"):
            assert SORTS.get(name, "none") in step, step


@pytest.mark.parametrize(
    ("name", "index"),
    [
        ("ADVANCE", "INTEGER PRIMARY KEY"),
        ("MOVE", "INTEGER PRIMARY KEY"),
        ("LANE", "run_ready (agent=? AND (queue,priority,key)>(?,?,?))"),
        (
            "HEADS",
            "run_ready (agent=? AND queue=? AND priority=? AND key=? AND (ready_at,id)>(?,?))",
        ),
        (
            "HEADS_BEGUN",
            "run_begun (agent=? AND queue=? AND priority=? AND key=? AND (ready_at,id)>(?,?))",
        ),
        ("IS_DUE", "run_wake (agent=? AND wake_at>? AND wake_at<?)"),
        ("WAKE_UP", "run_wake (agent=? AND wake_at>? AND wake_at<?)"),
        ("BUSY", "run_busy (queue=?)"),
        ("BUSY_KEY", "run_busy (queue=? AND key=?)"),
        ("HELD_BY_QUEUE", "INDEX run_busy"),
        ("WAKES", "run_wake (agent=? AND wake_at>?)"),
        ("FREE", "run_held (worker=?)"),
        ("SETTLE", "inbox_unread (run=? AND n>?)"),
        ("EVENTS", "event_seq (run=? AND seq>? AND seq<?)"),
        ("LOG", "INTEGER PRIMARY KEY (rowid>?)"),
        ("UNREAD", "inbox_unread (run=? AND n>?)"),
        ("MAIL", "INTEGER PRIMARY KEY (rowid>?)"),
        ("KNOWN", "inbox_id (run=? AND id=?)"),
        ("SEALED", "head"),
        ("TAIL", "INTEGER PRIMARY KEY (rowid>?)"),
        ("TILE", "sqlite_autoindex_tile_1 (level=? AND n=?)"),
        ("TILE_ROOTS", "sqlite_autoindex_tile_1 (level=? AND n>?)"),
        ("INDEX", "event_seq (run=? AND seq=?)"),
        ("ROW", "sqlite_autoindex_run_1 (id=?)"),
    ],
)
def test_the_index_meant_is_the_index_used(name: str, index: str, connection: apsw.Connection):
    steps = plan(connection, getattr(sql, name))
    assert any(index in step for step in steps), steps


@pytest.mark.parametrize(
    ("facts", "index"),
    [
        ({}, "run_created"),
        ({"after": (1, "r")}, "run_created ((created_at,id)<(?,?))"),
        ({"status": ["idle"]}, "run_created"),
        ({"status": ["diverged"], "agents": ["agent:a"]}, "run_stuck"),
        ({"status": ["in_doubt"], "after": (1, "r")}, "run_stuck ((created_at,id)<(?,?))"),
        ({"status": ["diverged", "in_doubt"]}, "run_stuck"),
        ({"prefix": "abc"}, "sqlite_autoindex_run_1 (id>? AND id<?)"),
    ],
)
def test_runs_are_listed_from_an_index(facts: dict, index: str, connection: apsw.Connection):
    whole = {"prefix": "", "status": (), "agents": (), "after": None, "limit": 1} | facts
    statement, _ = rows_statement(**whole)
    steps = plan(connection, statement)
    assert any(index in step for step in steps), steps
    assert not any("SCAN run" in step and index not in step for step in steps), steps
    assert not any("TEMP B-TREE" in step for step in steps if not facts.get("prefix")), steps


def test_advancing_a_run_that_is_held_touches_no_index(connection: apsw.Connection):
    """The columns that the common statement sets are those of no index, partial ones included."""
    moved = set(re.findall(r"(\w+) = \?", sql.ADVANCE.split("WHERE")[0]))
    assert moved
    schema = connection.execute("SELECT sql FROM sqlite_master WHERE tbl_name = 'run'").fetchall()
    indexes = [statement for (statement,) in schema if statement and "CREATE INDEX" in statement]
    assert len(indexes) == 7
    for index in indexes:
        columns, _, which = index.partition(" ON run ")[2].partition("WHERE")
        assert not moved & set(re.findall(r"\w+", columns)), index
        if "run_stuck" not in index:  # few runs are in it, and a held one leaves it once
            assert not moved & set(re.findall(r"\w+", which)), index


def test_the_runs_that_wait_for_a_person_are_found_among_many_finished():
    """The index has just these, so whoever looks for them passes by no other row."""
    fresh = apsw.Connection(":memory:")
    create_tables(fresh)
    statuses = ["succeeded"] * 500 + ["diverged", "in_doubt", "waiting"]
    for n, status in enumerate(statuses):
        values = [f"r{n}", "agent:a", status, *[0] * (len(RunRow._fields) - 3)]
        fresh.execute(sql.NEW_RUN, values)
    whole = {"prefix": "", "agents": (), "after": None, "limit": 10}
    for status, wanted in (
        (["diverged"], ["r500"]),
        (["in_doubt"], ["r501"]),
        (["diverged", "in_doubt"], ["r501", "r500"]),
        (["diverged", "waiting"], ["r502", "r500"]),
    ):
        found = fresh.execute(*rows_statement(status=status, **whole)).fetchall()
        assert [row[0] for row in found] == wanted


def test_the_schema_describes_every_table():
    text = (Path(sql.__file__).parent / "schema.sql").read_text()
    for table in re.findall(r"^CREATE TABLE (\w+)", text, re.MULTILINE):
        assert re.search(rf"^-- {table}: ", text, re.MULTILINE), table
