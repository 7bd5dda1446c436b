"""Whatever the store asks all the time is answered from an index, on PostgreSQL too.

*Goal*: neither tens of thousands of sleeping runs nor their streams slow down a step, a claim or a
wake-up. *Method*: a large store is analysed, its operations are carried out as a worker and a
client do it, and the server is asked for the plan of each statement that was sent for them: with
the values it had, and as a prepared statement that is to serve for all values. A scan of a whole
table of runs, events or messages is a failure.
"""

import asyncio
import json

import psycopg
import pytest

from holdfast.ports import Pause
from holdfast.stores.postgres import PostgresStore, flow
from holdfast.stores.postgres import statements as hot
from holdfast.stores.postgres.values import Bytes, Ints, Texts
from holdfast.testing.harness import LEASE_US, NOTE, NOW, append, begin, claim, hold, letter, park

PARKED = 30_000
LARGE = {"run", "event", "inbox"}
AGENTS = ["agent:test"]

FILL = f"""
INSERT INTO holdfast.run (id, agent, status, seq, head, turn, turn_seq, state_seq, wake_at,
  created_at, updated_at, seed, flags, parent, parent_key, epoch)
SELECT 'p' || n, 'agent:test', 'waiting', 3, md5(n::text), 1, 2, 0,
  CASE n % 2 WHEN 0 THEN 0 ELSE {NOW} * 1000 + n END, {NOW} - n, {NOW}, n, 0, '', '', 1
FROM generate_series(1, {PARKED}) AS n;
INSERT INTO holdfast.event (run, seq, leaf, form)
SELECT run.n, k, 'a leaf', 0 FROM holdfast.run, generate_series(1, 3) AS k;
INSERT INTO holdfast.inbox (run, id, topic, at, sender, cause, form, taken)
SELECT run.id, 'm' || k, '', {NOW}, '', '[]', 0, CASE run.n % 100 WHEN 0 THEN NULL ELSE 3 END
FROM holdfast.run, generate_series(1, 2) AS k;
INSERT INTO holdfast.placed (pos, run, seq, count)
SELECT 3 * n - 2, n, 1, 3 FROM holdfast.run;
ANALYZE holdfast.run, holdfast.event, holdfast.inbox, holdfast.placed, holdfast.unplaced"""


async def work(store):
    """Do what workers and clients do all the time, each operation by its name."""
    await store.register("ann", about="{}", now=NOW, lease_us=LEASE_US)
    yield "create", await begin(store, "ready")
    yield "is anything ready", await store.ready(AGENTS, now=NOW)
    yield "claim", await claim(store, "ann")
    script = await hold(store, "r")
    yield "append", await append(store, script.change(NOTE))
    child = await begin(store, "other")
    message = letter("r", "m1")
    change = script.change(NOTE, deliver=[letter("p7", "new")])
    yield "append with a message", await append(store, change)
    yield "message", await store.deliver([message])
    yield "mail of a worker", await store.mail("ann", after=0)
    (unread,) = await store.unread("r")
    yield "unread messages", unread
    yield "park", await park(store, script, wake_at=NOW + 5, seen=unread.n, consume=[unread.n])
    yield "wake-up", await claim(store, "ann", NOW + 6)
    yield "heartbeat", await store.renew("ann", now=NOW, lease_us=LEASE_US)
    yield "next wake-up", await store.next_wake(AGENTS, after=NOW)
    yield "row", await store.row("p9")
    yield "stream", await store.read("r")
    yield "log", await store.read_log(3 * PARKED, limit=10)
    yield "ls, first page", await store.rows()
    yield "ls, next page", await store.rows(after=(NOW - 500, "p500"))
    yield "ls of what is stuck", await store.rows(status=["diverged", "in_doubt"])
    yield "ls of a beginning", await store.rows(prefix="p12")
    yield "claim by name", await claim(store, "bob", run=child.run)
    yield "what a worker holds", await store.held("bob")
    yield "workers", await store.workers(now=NOW)
    yield "pause", await store.pause(Pause("run", "p9", "me", NOW))
    yield "queues", await store.queues(now=NOW)
    yield "release", await store.release("ann")


@pytest.fixture
def sent(database, postgres, monkeypatch):
    """Statements that were sent, with the operation that first sent them and their values."""
    said, waiting = {}, []
    carry_out = flow._round  # noqa: SLF001 - the one door to the server

    async def noting(connection, statements):
        waiting.extend(statements)
        return await carry_out(connection, statements)

    monkeypatch.setattr(flow, "_round", noting)

    async def main():
        store = await PostgresStore.open(database, lease_clock="caller")
        try:
            postgres.execute(FILL, database)
            waiting.clear()
            async for operation, _ in work(store):
                for sql, values in waiting:
                    said.setdefault(sql, (operation, values))
                waiting.clear()
        finally:
            await store.close()

    with asyncio.Runner() as runner:
        runner.run(main())
    return said


KINDS = {Ints: "bigint[]", Texts: "text[]", Bytes: "bytea[]", str: "text", bytes: "bytea"}


def plans(connection, sql, values):
    """Return the plan of a statement with these values, and the one for all values."""
    numbered = sql.replace("%s", "{}").format(*(f"${n}" for n in range(1, len(values) + 1)))
    kinds = ", ".join(KINDS.get(type(value), "bigint") for value in values)
    connection.execute(f"PREPARE asked{f' ({kinds})' if values else ''} AS {numbered}".encode())
    plain = [list(v.column) if isinstance(v, Ints | Texts | Bytes) else v for v in values]
    execute = f"EXECUTE asked{'(' + ', '.join(['%s'] * len(plain)) + ')' if plain else ''}"
    for mode in ("force_custom_plan", "force_generic_plan"):
        connection.execute(f"SET plan_cache_mode = {mode}".encode())
        explained = connection.execute(f"EXPLAIN (FORMAT JSON) {execute}".encode(), plain)
        ((plan,),) = explained.fetchall()
        yield mode, plan if isinstance(plan, list) else json.loads(plan)
    connection.execute("DEALLOCATE asked")


def scanned(plan):
    """Return the tables that a plan reads from one end to the other."""
    if isinstance(plan, list):
        return set().union(*map(scanned, plan))
    if not isinstance(plan, dict):
        return set()
    here = {plan.get("Relation Name")} if plan.get("Node Type") == "Seq Scan" else set()
    return here.union(*map(scanned, plan.values()))


def test_no_statement_scans_a_large_table(sent, database):
    operations = {operation for operation, _ in sent.values()}
    assert {"claim", "append", "message", "heartbeat", "stream", "unread messages"} <= operations
    bad = []
    with psycopg.connect(database, autocommit=True, cursor_factory=psycopg.ClientCursor) as asking:
        for sql, (operation, values) in sent.items():
            for mode, plan in plans(asking, sql, values):
                if tables := scanned(plan) & LARGE:
                    bad.append((operation, mode, tables, sql))
    assert not bad, "\n".join(
        f"{what}, {mode}: {tables} in {sql}" for what, mode, tables, sql in bad
    )


def test_notes_are_placed_by_reading_them_once_although_there_were_none_when_counted(
    sent, database
):
    _, values = sent[hot.PLACE]
    with psycopg.connect(database, autocommit=True, cursor_factory=psycopg.ClientCursor) as asking:
        for mode, plan in plans(asking, hot.PLACE, values):
            assert "Nested Loop" not in json.dumps(plan), (mode, plan)
