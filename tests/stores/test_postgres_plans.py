"""Whatever a fleet asks all the time is answered from an index.

*Goal*: neither 100,000 sleeping runs nor their events and messages slow down a step, a claim, a
wake-up or a first page. *Method*: a store is filled with rows that only count, then a worker does
everything once and more; the server counts the rows that it has read, by scanning and otherwise.
"""

import asyncio
from contextlib import closing

import psycopg
import pytest

import holdfast as hf
from holdfast.ports import QueueLimits

RUNS = 100_000
FILL = f"""
INSERT INTO holdfast.run (id, agent, status, seq, head, turn, turn_seq, state_seq, wake_at,
    created_at, updated_at, seed, flags, parent, parent_key, epoch)
  SELECT 'filler-' || i, 'agent:desk', 'waiting', 3, repeat('0', 64), 1, 2, 0, 9e15, i, i, 1, 0,
    '', '', 1
  FROM generate_series(1, {RUNS}) AS i;
INSERT INTO holdfast.event (run, seq, leaf, form)
  SELECT n, i, 'leaf', 0 FROM holdfast.run, generate_series(1, 3) AS i;
INSERT INTO holdfast.placed (pos, run, seq, count)
  SELECT 3 * n - 2, n, 1, 3 FROM holdfast.run;
INSERT INTO holdfast.inbox (run, id, topic, at, sender, cause, form, taken)
  SELECT 'filler-' || i, 'm', 'go', i, '', '[]', 0, CASE WHEN i % 2 = 0 THEN 3 END
  FROM generate_series(1, {RUNS}) AS i"""
COUNTED = """
SELECT relname, seq_tup_read, seq_tup_read + coalesce(idx_tup_fetch, 0) FROM pg_stat_user_tables
WHERE schemaname = 'holdfast' AND relname IN ('run', 'event', 'placed', 'inbox')"""
OTHERS = """
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid()
  AND backend_type = 'client backend'"""


@hf.tool(effect="idempotent")
async def note(text: str) -> str:
    return text


@hf.agent
async def helper(text: str) -> str:
    await asyncio.sleep(0.01)
    return await note(text)


@hf.agent(queue="calls")
async def desk(number: int) -> str:
    said = await hf.receive("go", str, timeout=60)
    return await helper(await note(f"{number} {said}"))


@pytest.fixture
def filled(database):
    async def make():
        async with hf.App(database, agents=[desk]):
            pass

    asyncio.run(make())
    with closing(psycopg.connect(database, autocommit=True)) as connection:
        connection.execute(FILL)
        connection.execute("ANALYZE")
        yield connection


async def work(url):
    async with hf.App(url, agents=[desk, helper]) as app:
        await app.store.limit(QueueLimits("calls", concurrency=8))
        async with app.working():
            for n in range(20):
                await app.client.start(desk, n, id=f"run-{n}")
            assert len(await app.store.rows(limit=20)) == 20
            assert len(await app.store.rows(status=["in_doubt"], limit=20)) == 0
            for n in range(20):
                await app.client.message(f"run-{n}", "on", topic="go")
            for n in range(20):
                assert await app.client.result(f"run-{n}") == f"{n} on"
        assert len(await app.client.events("run-7")) >= 7
        positions = [pos for pos, _ in await app.store.read_log(3 * RUNS, limit=50)]
        assert positions == list(range(3 * RUNS + 1, 3 * RUNS + 51))


def read(connection):
    """Return what the server has read of each table so far: by scanning, and in all."""
    while connection.execute(OTHERS).fetchone() != (0,):
        pass  # a session that ends tells what it has counted
    found = connection.execute(COUNTED).fetchall()
    return {name: (scanned, fetched) for name, scanned, fetched in found}


def worked(url, connection):
    before = read(connection)
    asyncio.run(work(url))
    after = read(connection)
    return {name: [b - a for a, b in zip(before[name], after[name], strict=True)] for name in after}


def test_no_table_that_grows_is_read_as_a_whole(database, filled):
    for name, (scanned, fetched) in worked(database, filled).items():
        assert scanned == 0, name
        assert fetched < RUNS / 10, name


def test_a_missing_index_would_be_seen(database, filled):
    filled.execute("DROP INDEX holdfast.run_wake")
    scanned, _ = worked(database, filled)["run"]
    assert scanned >= RUNS
