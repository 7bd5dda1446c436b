"""A pooler in between that gives each transaction another session.

*Goal*: nothing of a session is rested on behind a pooler (prepared statements, LISTEN, settings);
writes, claims and bodies do there what they do without it. *Method*: the machine's PgBouncer in
transaction mode, with fewer sessions than the stores have connections.
"""

import asyncio
import shutil
import signal
import tempfile
from functools import partial
from pathlib import Path

import psycopg
import pytest

from holdfast.core import events as ev
from holdfast.errors import StoreRefused
from holdfast.stores.postgres import PostgresStore
from holdfast.testing.harness import EVERYTHING, NOTE, claim, hold, insert, letter, transact
from holdfast.testing.script import conversation

PGBOUNCER = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
SESSIONS = 2

pytestmark = pytest.mark.skipif(
    not PGBOUNCER, reason="there is no pgbouncer here (apt-get install pgbouncer)"
)


@pytest.fixture
def pooler(postgres):
    """Start a PgBouncer with these settings in front of the server; returns its directory."""
    started = []

    def start(**settings):
        folder = Path(tempfile.mkdtemp(dir=postgres.folder))
        shutil.chown(folder, *(Path(postgres.folder).owner(), Path(postgres.folder).group()))
        lines = {
            "unix_socket_dir": folder,
            "listen_port": 5432,
            "auth_type": "any",
            "pool_mode": "transaction",
            "default_pool_size": SESSIONS,
        } | settings
        config = folder / "pgbouncer.ini"
        config.write_text(
            f"[databases]\n* = host={postgres.folder} user=holdfast\n[pgbouncer]\n"
            + "".join(f"{name} = {value}\n" for name, value in lines.items())
        )
        config.chmod(0o644)
        started.append(postgres.spawn(PGBOUNCER, str(config)))
        while not (folder / ".s.PGSQL.5432").exists():
            assert started[-1].poll() is None, postgres.log.read_text()[-1000:]
        return folder

    yield start
    for process in started:
        process.send_signal(signal.SIGTERM)
        process.wait()


def behind(folder, postgres, url):
    return url.replace(str(postgres.folder), str(folder))


def test_all_is_done_behind_a_pooler_as_without_it(pooler, postgres, database):
    url = behind(pooler(ignore_startup_parameters="options"), postgres, database)

    async def main():
        stores = [await PostgresStore.open(url, lease_clock="caller") for _ in range(3)]
        scripts = [await hold(stores[n % 3], f"r{n}") for n in range(12)]
        for turn in range(5):
            calls = []
            for n, script in enumerate(scripts):
                store = stores[n % 3]
                mail = [letter("to", f"{turn} {n}", sender=script.run)]
                calls.append(store.append(script.change((ev.StreamEmitted(turn), conversation(9)))))
                calls.append(store.append(script.change(NOTE, deliver=mail)))
            await asyncio.gather(*calls, *(store.changed(0.01) for store in stores))
        for n in range(3):
            await transact(stores[n], scripts[n].change(NOTE), lambda tx, n=n: insert(tx, n))
        for n, script in enumerate(scripts):
            assert await stores[n % 3 - 1].read(script.run) == script.events
        log = await stores[0].read_log(0, limit=EVERYTHING)
        assert [pos for pos, _ in log] == [*range(1, 12 * 11 + 4)]
        assert len(await stores[1].unread("to")) == 60
        async with stores[2].snapshot(now=0) as snapshot:
            assert len(await snapshot.runs(limit=99)) == 12
        await stores[0].release("ann")
        assert len(await claim(stores[1], "bob", limit=99)) == 12
        for store in stores:
            await store.close()

    asyncio.run(main())
    with psycopg.connect(database) as connection:
        sessions = "SELECT pid FROM pg_stat_activity WHERE datname = current_database()"
        assert len(connection.execute(sessions).fetchall()) <= SESSIONS + 1


def test_nobody_listens_behind_a_pooler_and_all_are_woken_without_one(pooler, postgres, database):
    url = behind(pooler(ignore_startup_parameters="options"), postgres, database)
    listening = """
        SELECT count(*) FROM pg_stat_activity
        WHERE datname = current_database() AND query = 'LISTEN holdfast'"""

    async def main(where, expected):
        store = await PostgresStore.open(where, lease_clock="caller")
        await store.changed(0.01)
        found = partial(asyncio.to_thread, postgres.execute, listening, database)
        while await found() != [(expected,)]:  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0.01)
        await store.close()

    asyncio.run(main(url, 0))
    asyncio.run(main(database, 1))


def test_a_pooler_that_refuses_our_settings_is_named(pooler, postgres, database):
    url = behind(pooler(), postgres, database)
    with pytest.raises(StoreRefused, match="ignore_startup_parameters = options in PgBouncer"):
        asyncio.run(PostgresStore.open(url))
