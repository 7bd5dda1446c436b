"""The schema: created, looked over, brought up to date, or refused.

A database is either empty of a schema ``holdfast``, or the schema is one of ours, or it is left as
it is. Creating it is one transaction under a lock, so that of several workers that start at once
one creates and the others find it. An older schema is not brought up to date by whoever happens to
open it, since workers of the older release may be at work: ``holdfast migrate`` does it.
"""

import time
from pathlib import Path
from typing import Any

import psycopg
from psycopg import AsyncConnection

from holdfast.errors import StoreRefused
from holdfast.stores.postgres.link import judge

__all__ = ["CLOCK_OFF_S_MAX", "VERSION", "check_version", "migrate", "prepare"]

VERSION = 5
CLOCK_OFF_S_MAX = 60

_HERE = Path(__file__).parent
_LOCK = f"SELECT pg_advisory_xact_lock({0x686F6C6403})"  # 'hold', 3


async def prepare(
    connection: AsyncConnection, url: str, *, create: bool, read_only: bool, check_clock: bool
) -> None:
    """See that the store can be used, and make it when it is missing.

    Raises:
        StoreRefused: it cannot.
    """
    _check_encoding(connection, url)
    version = await _version(connection, url)
    if version is None:
        if read_only or not create:
            raise StoreRefused(f"{url}: there is no store. Hint: check the URL.")
        await _check_locks(connection, url)
        await _create(connection, url)
    else:
        check_version(version, url)
        if not read_only:
            await _check_locks(connection, url)
            await _check_rights(connection, url)
    if check_clock and not read_only:
        await _check_clock(connection, url)


async def migrate(connection: AsyncConnection, url: str) -> tuple[int, int]:
    """Bring the schema up to today's version, each version in a transaction of its own.

    Returns (version found, version now); (0, now) when it was made.

    Raises:
        StoreRefused: it is of a newer version, or not ours.
    """
    found = await _version(connection, url)
    if found is None:
        await _create(connection, url)
        return 0, VERSION
    check_version(found, url, migrating=True)
    version = found
    while version < VERSION:
        async with connection.transaction():
            await connection.execute(_LOCK)
            version = await _version(connection, url) or 0
            if version < VERSION:  # nobody else was faster
                version += 1
                step = (_HERE / "migrations" / f"{version:04}.sql").read_text()
                await connection.execute(step.encode())
                await connection.execute("UPDATE holdfast.meta SET version = %s", (version,))
    return found, version


def check_version(version: int, url: str, *, migrating: bool = False) -> None:
    """Refuse a schema of another version.

    Raises:
        StoreRefused: it is.
    """
    if version > VERSION:
        raise StoreRefused(
            f"store {url}: its schema is of version {version}; this release of holdfast knows"
            f" versions up to {VERSION}. Nothing was changed. Hint: upgrade holdfast.",
            found=version,
            known=VERSION,
        )
    if version < VERSION and not migrating:
        raise StoreRefused(
            f"store {url}: its schema is of version {version}; this release of holdfast needs"
            f" {VERSION}. Nothing was changed. Hint: holdfast migrate --store URL, once no worker"
            " of the older release is at work.",
            found=version,
            known=VERSION,
        )


async def _version(connection: AsyncConnection, url: str) -> int | None:
    """Return the version of our schema, None when there is no schema of that name."""
    # By a query: the names that a server has cached may be older than the lock it waited for.
    exists = await _one(
        connection, "SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = 'holdfast')"
    )
    if not exists:
        return None
    if not await _one(connection, "SELECT has_schema_privilege('holdfast', 'USAGE')"):
        user = await _one(connection, "SELECT current_user")
        raise StoreRefused(
            f"store {url}: user {user!r} has no rights on the schema 'holdfast'."
            f" Hint: GRANT USAGE ON SCHEMA holdfast TO {user}; GRANT SELECT, INSERT, UPDATE, DELETE"
            f" ON ALL TABLES IN SCHEMA holdfast TO {user}; GRANT USAGE ON ALL SEQUENCES IN SCHEMA"
            f" holdfast TO {user}"
        )
    foreign = StoreRefused(
        f"store {url}: the database has a schema 'holdfast' of another program. Nothing was"
        " changed. Hint: give holdfast a database of its own."
    )
    columns = await connection.execute(
        "SELECT attname FROM pg_attribute"
        " WHERE attrelid = to_regclass('holdfast.meta') AND attnum > 0 ORDER BY attnum"
    )
    if [name for (name,) in await columns.fetchall()] != ["program", "version"]:
        raise foreign
    try:
        found = await connection.execute("SELECT program, version FROM holdfast.meta")
    except psycopg.Error as error:
        raise judge(error, url) from error
    rows = await found.fetchall()
    if len(rows) != 1 or rows[0][0] != "holdfast":
        raise foreign
    return int(rows[0][1])


async def _create(connection: AsyncConnection, url: str) -> None:
    try:
        async with connection.transaction():
            await connection.execute(_LOCK)
            if await _version(connection, url) is None:
                await connection.execute((_HERE / "schema.sql").read_bytes())
    except psycopg.errors.InsufficientPrivilege as error:
        user = await _one(connection, "SELECT current_user")
        database = await _one(connection, "SELECT current_database()")
        raise StoreRefused(
            f"store {url}: user {user!r} may not create a schema in database {database!r}."
            f" Hint: GRANT CREATE ON DATABASE {database} TO {user}"
        ) from error
    except psycopg.Error as error:
        raise judge(error, url) from error


def _check_encoding(connection: AsyncConnection, url: str) -> None:
    encoding = connection.info.parameter_status("server_encoding")
    if encoding != "UTF8":
        raise StoreRefused(
            f"store {url}: the database is in {encoding}, expected UTF8."
            " Hint: CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0"
        )


async def _check_locks(connection: AsyncConnection, url: str) -> None:
    may = "SELECT has_function_privilege('pg_advisory_xact_lock(bigint)', 'EXECUTE')"
    if not await _one(connection, may):
        user = await _one(connection, "SELECT current_user")
        raise StoreRefused(
            f"store {url}: user {user!r} may not take advisory locks, which order the log."
            f" Hint: GRANT EXECUTE ON FUNCTION pg_advisory_xact_lock(bigint) TO {user}"
        )


async def _check_rights(connection: AsyncConnection, url: str) -> None:
    lacking = await connection.execute(
        "SELECT string_agg(what || ' on ' || relname, ', ' ORDER BY relname, what)"
        " FROM pg_class, unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) AS what"
        " WHERE relnamespace = to_regnamespace('holdfast') AND relkind IN ('r', 'p')"
        "   AND relname <> 'meta' AND NOT has_table_privilege(pg_class.oid, what)"
    )
    ((missing,),) = await lacking.fetchall()
    if missing:
        user = await _one(connection, "SELECT current_user")
        raise StoreRefused(
            f"store {url}: user {user!r} lacks {missing}. Hint: GRANT SELECT, INSERT, UPDATE,"
            f" DELETE ON ALL TABLES IN SCHEMA holdfast TO {user}; GRANT USAGE ON ALL SEQUENCES IN"
            f" SCHEMA holdfast TO {user}"
        )


async def _check_clock(connection: AsyncConnection, url: str) -> None:
    before = time.time()
    theirs = await _one(connection, "SELECT extract(epoch FROM clock_timestamp())::float8")
    off_s = (before + time.time()) / 2 - theirs
    if abs(off_s) > CLOCK_OFF_S_MAX:
        raise StoreRefused(
            f"store {url}: this machine's clock is {abs(off_s):.0f} s"
            f" {'ahead of' if off_s > 0 else 'behind'} the server's, and timers would be off by as"
            f" much. Expected at most {CLOCK_OFF_S_MAX} s."
            " Hint: set the clocks by NTP.",
            off_s=off_s,
        )


async def _one(connection: AsyncConnection, statement: str) -> Any:
    cursor = await connection.execute(statement.encode())
    row = await cursor.fetchone()
    assert row is not None
    return row[0]
