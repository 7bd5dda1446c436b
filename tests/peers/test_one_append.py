"""A run's row and its events never part.

The fault: the row that says where a run stands and the event that says why are two writes, and a
crash or an error between them leaves a run that is neither here nor there. Reported as
vercel/workflow #2331 and cloudflare/agents #1543.

*Goal*: events, row, messages and children of an append are there together or not at all.
*Method*: a trigger makes writes to one table fail from the n-th event on, each table in turn, at
every n; then the file is looked at as it is, and the run is played to its end.
"""

import itertools
import random
from contextlib import closing, suppress

import apsw
import pytest

import holdfast as hf
from holdfast.core import events as ev
from holdfast.core.state import fold
from holdfast.stores.sqlite import SqliteStore
from holdfast.stores.sqlite.fsck import check_file

TABLES = {"run": "UPDATE", "event": "INSERT", "inbox": "INSERT", "chunk": "INSERT"}
NOISE = random.Random(7).randbytes(8000).hex()  # long enough to be kept in chunks


@hf.tool(effect="idempotent")
async def pay(cents: int) -> str:
    return f"paid {cents} {NOISE}"


@hf.agent
async def child(n: int) -> int:
    return n + 1


@hf.agent
async def mother() -> int:
    await pay(5)
    hf.send("friend", "hello", topic="word")
    return await child(1)


@hf.agent
async def friend() -> str:
    return await hf.receive("word", str)


def sql(path, statement):
    """Execute a statement; by the library the store uses, since locks belong to the process."""
    with closing(apsw.Connection(str(path))) as connection:
        return connection.execute(statement).fetchall()


def all_belongs_together(s, path):
    assert check_file(path) == []
    sent, started = set(), set()
    for row in s.run(s.store.rows()):
        events = s.run(s.store.read(row.run))
        assert fold(events).row() == row
        sent |= {e.body.id for e in events if isinstance(e.body, ev.MessageSent)}
        sent |= {f"{row.run}/done" for e in events if row.parent and e.body.type == "run.succeeded"}
        started |= {e.body.child for e in events if isinstance(e.body, ev.ChildStarted)}
    assert {name for (name,) in sql(path, "SELECT id FROM inbox WHERE sender <> ''")} == sent
    assert {name for (name,) in sql(path, "SELECT id FROM run WHERE parent <> ''")} == started


def work_until_it_fails(s, path, table, n, log):
    """Let a worker run while no more than n events can be followed by a write to the table."""
    sql(
        path,
        f"CREATE TRIGGER fuse BEFORE {TABLES[table]} ON {table}"
        f" WHEN (SELECT count(*) FROM event) >= {n} BEGIN SELECT RAISE(ABORT, 'burnt'); END",
    )
    worker = s.worker()
    ended = s.begin(worker.run())
    over = lambda: getattr(worker.endings.get("r"), "kind", "") == "done"  # noqa: E731 - a phrase
    s.until(lambda: ended.done() or "burnt" in log.text or over())
    worker.drain()
    with suppress(apsw.ConstraintError):
        s.run(ended)
    sql(path, "DROP TRIGGER fuse")
    return "burnt" in log.text or ended.exception() is not None


@pytest.mark.parametrize("table", TABLES)
def test_an_append_that_fails_in_one_table_has_changed_none(stage, tmp_path, table, caplog):
    for n in itertools.count(2, 2):
        caplog.clear()
        path = tmp_path / f"{n}.db"
        s = stage(mother, child, friend)
        s.store = s.run(SqliteStore.open(path, inline=True))
        s.start(friend, id="friend")
        s.start(mother)
        did_fail = work_until_it_fails(s, path, table, n, caplog)
        all_belongs_together(s, path)
        s.clock.tick(s.LEASE_S + 1)
        s.play()
        assert (s.result(), s.result("friend")) == (2, "hello")
        all_belongs_together(s, path)
        s.run(s.store.close())
        if not did_fail:
            break
    assert n > 3, "the fuse has burnt at least once"
