"""What stands in the way of a store on PostgreSQL is said clearly, and nothing is changed.

*Goal*: a wrong URL, a missing right, another program's schema, an old server, a newer schema or a
clock that is off gets an error that says what was found, what was expected and the way out; both
ways to today's tables end in the same ones. *Method*: a real server, real roles and real rights; a
socket that speaks like an older server.
"""

import asyncio
import socket
import subprocess
import sys
import threading
from pathlib import Path

import psycopg
import pytest

from holdfast.app import migrate_store, open_store
from holdfast.errors import StoreRefused, StoreUnavailable, UsageError
from holdfast.stores.postgres import PostgresStore, schema
from holdfast.testing.harness import NOTE, begin, claim, hold


def opened(url, **options):
    async def main():
        store = await PostgresStore.open(url, **options)
        await store.close()

    with asyncio.Runner() as runner:
        runner.run(main())


def refusal(url, error=StoreRefused, **options):
    with pytest.raises(error) as caught:
        opened(url, **{"patience_s": 0.1} | options)
    return str(caught.value)


def name_of(url):
    return url.split("/")[3].partition("?")[0]


@pytest.fixture
def guest(postgres, database):
    """A role without rights, and the URL by which it comes."""
    name = f"guest_{name_of(database)}"
    postgres.execute(f"CREATE ROLE {name} LOGIN")
    return name, database.replace("//holdfast@", f"//{name}@")


def test_a_url_that_is_none_is_a_mistake_of_usage():
    for url in ("postgresql://x/y?nonsense=1", "postgresql://host:port/x"):
        assert "postgresql://USER@HOST:PORT/DATABASE" in refusal(url, UsageError)
    with pytest.raises(UsageError, match=r"expected a path, sqlite:///PATH, postgresql://"):
        asyncio.run(open_store("mysql://x"))


def test_a_password_is_not_shown(postgres):
    told = refusal(f"postgresql://holdfast:hunter2@/none?host={postgres.folder}")
    assert "hunter2" not in told


def test_a_server_that_is_not_there_may_come(tmp_path):
    told = refusal(f"postgresql://holdfast@/x?host={tmp_path}", StoreUnavailable)
    assert "Nothing was written" in told
    assert str(tmp_path) in told


def test_a_database_that_does_not_exist_is_named(postgres):
    told = refusal(postgres.url("none"))
    assert "there is no such database" in told


def test_a_user_that_does_not_exist_is_named(postgres):
    assert "nobody_knows" in refusal(postgres.url(user="nobody_knows"))


def test_who_may_not_create_a_schema_is_told_what_to_grant(guest):
    name, url = guest
    assert f"GRANT CREATE ON DATABASE {name_of(url)} TO {name}" in refusal(url)


def test_who_has_no_rights_on_the_schema_or_its_tables_is_told_what_to_grant(
    postgres, database, guest
):
    opened(database)
    name, url = guest
    told = refusal(url)
    assert "no rights on the schema" in told
    assert f"GRANT USAGE ON SCHEMA holdfast TO {name}" in told
    postgres.execute(f"GRANT USAGE ON SCHEMA holdfast TO {name}", database)
    assert "the user has not the rights" in refusal(url)
    for right in ("SELECT", "INSERT"):
        postgres.execute(f"GRANT {right} ON ALL TABLES IN SCHEMA holdfast TO {name}", database)
    assert f"{name!r} lacks DELETE on chunk, UPDATE on chunk" in refusal(url)
    for right in ("UPDATE", "DELETE"):
        postgres.execute(f"GRANT {right} ON ALL TABLES IN SCHEMA holdfast TO {name}", database)
    postgres.execute(f"GRANT USAGE ON ALL SEQUENCES IN SCHEMA holdfast TO {name}", database)

    async def works():
        store = await PostgresStore.open(url, lease_clock="caller")
        script = await hold(store)
        await store.append(script.change(NOTE))
        assert [event for _, event in await store.read_log(0, limit=9)] == script.events
        await store.close()

    asyncio.run(works())


def test_who_may_only_read_can_read(postgres, database, guest):
    async def fill():
        store = await PostgresStore.open(database, lease_clock="caller")
        await begin(store)
        await store.close()

    asyncio.run(fill())
    name, url = guest
    postgres.execute(f"GRANT USAGE ON SCHEMA holdfast TO {name}", database)
    postgres.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA holdfast TO {name}", database)

    async def look():
        store = await PostgresStore.open(url, read_only=True)
        assert [row.run for row in await store.rows()] == ["r"]
        assert len(await store.read_log(0, limit=9)) == 1
        with pytest.raises(UsageError, match="read only"):
            await claim(store, "ann")
        await store.close()

    asyncio.run(look())


@pytest.mark.parametrize(
    "foreign",
    [
        "CREATE SCHEMA holdfast",
        "CREATE SCHEMA holdfast; CREATE TABLE holdfast.meta (version int)",
        "CREATE SCHEMA holdfast; CREATE TABLE holdfast.meta (program text, version int)",
    ],
)
def test_a_schema_of_another_program_is_left_as_it_is(postgres, database, foreign):
    postgres.execute(foreign, database)
    assert "of another program. Nothing was changed" in refusal(database)
    tables = "SELECT count(*) FROM pg_tables WHERE schemaname = 'holdfast'"
    assert postgres.execute(tables, database) == [(foreign.count("TABLE"),)]


def test_a_newer_schema_is_refused_at_the_door_and_at_the_next_claim(postgres, database):
    newer = f"UPDATE holdfast.meta SET version = {schema.VERSION + 1}"

    async def main():
        store = await PostgresStore.open(database, lease_clock="caller")
        await begin(store)
        postgres.execute(newer, database)
        with pytest.raises(StoreRefused, match="Hint: upgrade holdfast"):
            await claim(store, "ann")
        await store.close()

    asyncio.run(main())
    assert f"of version {schema.VERSION + 1}" in refusal(database)
    with pytest.raises(StoreRefused, match="upgrade holdfast"):
        asyncio.run(migrate_store(database))


def test_an_older_schema_waits_for_the_command(postgres, database):
    opened(database)
    postgres.execute("UPDATE holdfast.meta SET version = 0", database)
    assert "Hint: holdfast migrate" in refusal(database)


def test_migrate_makes_what_is_missing_and_then_has_nothing_to_do(database):
    assert asyncio.run(migrate_store(database)) == (0, schema.VERSION)
    assert asyncio.run(migrate_store(database)) == (schema.VERSION, schema.VERSION)
    opened(database, create=False)


def test_migrations_and_the_schema_end_in_the_same_tables(postgres):
    fresh, grown = postgres.database(), postgres.database()
    folder = Path(schema.__file__).parent
    with psycopg.connect(fresh) as connection:
        connection.execute((folder / "schema.sql").read_bytes())
    with psycopg.connect(grown) as connection:
        for version in range(1, schema.VERSION + 1):
            connection.execute((folder / f"migrations/{version:04}.sql").read_bytes())
            connection.execute("UPDATE holdfast.meta SET version = %s", (version,))
    assert shape(postgres, fresh) == shape(postgres, grown)
    assert postgres.execute("SELECT version FROM holdfast.meta", fresh) == [(schema.VERSION,)]


def shape(postgres, url):
    """Everything that makes a schema: columns in any order, indexes, constraints, sequences."""
    columns = """
        SELECT table_name, column_name, data_type, collation_name, is_nullable, column_default,
          is_identity
        FROM information_schema.columns WHERE table_schema = 'holdfast' ORDER BY 1, 2"""
    indexes = "SELECT indexdef FROM pg_indexes WHERE schemaname = 'holdfast' ORDER BY 1"
    constraints = """
        SELECT conrelid::regclass::text, pg_get_constraintdef(oid) FROM pg_constraint
        WHERE connamespace = 'holdfast'::regnamespace ORDER BY 1, 2"""
    options = """
        SELECT relname, relkind, reloptions FROM pg_class
        WHERE relnamespace = 'holdfast'::regnamespace ORDER BY 1"""
    found = [postgres.execute(s, url) for s in (columns, indexes, constraints, options)]
    assert all(found)
    return found


def test_many_that_come_at_once_to_an_empty_database_make_one_store(database):
    async def main():
        stores = await asyncio.gather(*(PostgresStore.open(database) for _ in range(6)))
        await begin(stores[0])
        assert all(await asyncio.gather(*(store.row("r") for store in stores)))
        await asyncio.gather(*(store.close() for store in stores))

    asyncio.run(main())


@pytest.mark.parametrize("off_s", [600, -600])
def test_a_clock_that_is_ten_minutes_off_is_refused(database, monkeypatch, off_s):
    opened(database)
    now = schema.time.time
    monkeypatch.setattr(schema.time, "time", lambda: now() + off_s)
    told = refusal(database)
    assert f"600 s {'ahead of' if off_s > 0 else 'behind'} the server's" in told


def test_who_may_not_take_advisory_locks_is_told_why(postgres, database, guest):
    opened(database)
    name, url = guest
    for what in ("USAGE ON SCHEMA holdfast", "ALL ON ALL TABLES IN SCHEMA holdfast"):
        postgres.execute(f"GRANT {what} TO {name}", database)
    lock = "EXECUTE ON FUNCTION pg_advisory_xact_lock(bigint)"
    postgres.execute(f"REVOKE {lock} FROM PUBLIC", database)
    told = refusal(url)
    assert "may not take advisory locks" in told
    assert f"GRANT {lock} TO {name}" in told


def test_a_server_that_only_reads_is_waited_for(postgres, database):
    opened(database)
    name = (
        database.rpartition("/")[2] if "?" not in database else database.split("/")[3].split("?")[0]
    )
    postgres.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    assert "read-only" in refusal(database, StoreUnavailable)
    opened(database, read_only=True)


def test_a_database_that_is_not_utf8_is_refused(postgres):
    postgres.execute("CREATE DATABASE plain ENCODING 'SQL_ASCII' TEMPLATE template0")
    assert "is in SQL_ASCII, expected UTF8" in refusal(postgres.url("plain"))


def test_a_server_that_is_too_old_is_refused(tmp_path):
    """The server here greets as version 12 and would say nothing more."""

    def message(kind, body):
        return kind + (len(body) + 4).to_bytes(4, "big") + body

    def serve():
        line, _ = listening.accept()
        with line:
            line.recv(4096)
            greeting = message(b"R", bytes(4))
            for name, value in (("server_version", "12.22"), ("client_encoding", "UTF8")):
                greeting += message(b"S", f"{name}\0{value}\0".encode())
            for name in ("default_transaction_read_only", "in_hot_standby"):
                greeting += message(b"S", f"{name}\0off\0".encode())
            line.sendall(greeting + message(b"Z", b"I"))
            while line.recv(4096):
                pass

    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / ".s.PGSQL.5432"))
        listening.listen()
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        told = refusal(f"postgresql://x@/x?host={tmp_path}")
    assert "PostgreSQL 12.22; holdfast needs 13 or newer" in told


def test_without_psycopg_the_extra_is_named():
    program = """
import sys
sys.modules["psycopg"] = None
import asyncio, holdfast.app
try:
    asyncio.run(holdfast.app.open_store("postgresql://x"))
except holdfast.errors.UsageError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert "pip install 'holdfast[postgres]'" in done.stdout
