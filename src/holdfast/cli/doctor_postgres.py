"""The part of `holdfast doctor` that looks over a store in PostgreSQL: server, schema, workers.

Everything is asked over a connection that may not write, made as the store makes its own.
"""

import time
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import psycopg
from psycopg import AsyncConnection

from holdfast.cli.findings import Finding, last_event, log_signed, megabytes, runs_by_status
from holdfast.cli.text import ago, count
from holdfast.errors import HoldfastError, StoreRefused
from holdfast.stores.postgres.schema import VERSION, prepare
from holdfast.stores.postgres.server import NotSent, Server, hide

__all__ = ["examined"]

NEWEST_KNOWN = 18
CLOCK_OFF_US_NOTED = 1_000_000
FREE_CONNECTIONS_LEAST = 20
"""Three or four workers' worth."""
_SETTINGS = """
SELECT name, setting FROM pg_settings WHERE name IN ('fsync', 'full_page_writes', 'max_connections',
  'server_version', 'superuser_reserved_connections', 'synchronous_commit',
  'synchronous_standby_names')"""
_STANDBYS = """
SELECT count(*) FILTER (WHERE sync_state IN ('sync', 'quorum')), count(*)
FROM pg_stat_replication"""
_SIZE = """
SELECT coalesce(sum(pg_total_relation_size(oid)), 0)::bigint FROM pg_class
WHERE relnamespace = 'holdfast'::regnamespace AND relkind = 'r'"""
_WORKERS = """
SELECT worker.id, expires_at - (extract(epoch FROM clock_timestamp()) * 1000000)::bigint,
  (SELECT count(*) FROM holdfast.run WHERE run.worker = worker.id)
FROM holdfast.worker ORDER BY worker.id"""


async def examined(url: str) -> tuple[str, list[Finding]]:
    """Return what the store is called, and what is found of it; nothing is changed."""
    try:
        server = Server(url, read_only=True)
        connection = await server.connect()
    except (NotSent, HoldfastError) as error:
        return hide(url), [Finding("server", str(error), "broken")]
    findings: list[Finding] = []
    try:
        async with connection:
            async for finding in _examine(server, connection):
                findings.append(finding)  # noqa: PERF401 - what was found stays when it fails
    except psycopg.Error as error:
        said = " ".join(str(error).split())
        findings.append(Finding("store", said, "broken", f"holdfast fsck {hide(url)}"))
    return server.url, findings


async def _examine(server: Server, connection: AsyncConnection) -> AsyncIterator[Finding]:
    settings: dict[str, str] = dict(await _all(connection, _SETTINGS))
    ((user, database, standby),) = await _all(
        connection, "SELECT current_user, current_database(), pg_is_in_recovery()"
    )
    where = connection.info.host
    version = connection.info.server_version // 10_000
    name = f"PostgreSQL {settings['server_version']} at {where}, database {database}, user {user}"
    new = version > NEWEST_KNOWN
    hint = "holdfast was not tried with this one" if new else ""
    yield Finding("server", name, "note" if new else "ok", hint)
    if server.pooled:
        yield Finding("pooler", "in transaction mode: workers poll, since nobody can tell them")
    if standby:
        said = "the server is one, and takes no writes"
        yield Finding("standby", said, "note", "workers need the primary")
    for finding in _durability(settings):
        yield finding
    async for finding in _replication(connection, settings):
        yield finding
    async for finding in _load(connection, settings):
        yield finding
    if not await _all(connection, "SELECT 1 FROM pg_namespace WHERE nspname = 'holdfast'"):
        yield Finding("store", "none yet", "note", "holdfast run FILE:AGENT makes one")
        return
    try:
        await prepare(connection, server.url, create=False, read_only=standby, check_clock=True)
    except StoreRefused as error:
        yield Finding("schema", str(error), "broken")
        return
    yield Finding("schema", f"version {VERSION}")
    async for finding in _store(connection):
        yield finding


def _durability(settings: dict[str, str]) -> list[Finding]:
    findings = []
    for name in ("fsync", "full_page_writes"):
        if settings[name] != "on":
            said = f"{name} is {settings[name]}: a crash of the machine may lose or tear the store"
            findings.append(Finding("durability", said, "broken", f"{name} = on"))
    mode = settings["synchronous_commit"]
    if mode == "off":
        said = "synchronous_commit is off: what was acknowledged may be lost in a crash"
        findings.append(Finding("durability", said, "broken", "synchronous_commit = on"))
    return findings or [Finding("durability", f"fsync on, synchronous_commit {mode}")]


async def _replication(
    connection: AsyncConnection, settings: dict[str, str]
) -> AsyncIterator[Finding]:
    names, mode = settings["synchronous_standby_names"], settings["synchronous_commit"]
    if not names:
        said = "commits wait for no standby: what no standby has dies with this server"
        yield Finding("standbys", said, "note", "synchronous_standby_names = 'ANY 1 (…)'")
    elif mode == "local":
        said = f"{names}, but synchronous_commit is local: commits wait for none"
        yield Finding("standbys", said, "note", "synchronous_commit = on")
    else:
        with suppress(psycopg.errors.InsufficientPrivilege):
            ((waited_for, all_),) = await _all(connection, _STANDBYS)
            said = f"{names}: {waited_for} of {all_} connected count"
            yield Finding("standbys", said, "ok" if waited_for else "note")


async def _load(connection: AsyncConnection, settings: dict[str, str]) -> AsyncIterator[Finding]:
    most = int(settings["max_connections"]) - int(settings["superuser_reserved_connections"])
    clients = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'"
    ((used,),) = await _all(connection, clients)
    few = most - used < FREE_CONNECTIONS_LEAST
    hint = "a worker takes six; a pooler, or max_connections" if few else ""
    yield Finding("connections", f"{used} of {most}", "note" if few else "ok", hint)
    before = time.time_ns() // 1000
    ((theirs,),) = await _all(
        connection, "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint"
    )
    off = (before + time.time_ns() // 1000) // 2 - theirs
    said = f"{ago(off)} {'ahead of' if off > 0 else 'behind'} the server's"
    noted = abs(off) > CLOCK_OFF_US_NOTED
    yield Finding("this clock", said, "note" if noted else "ok", "NTP on both" if noted else "")


async def _store(connection: AsyncConnection) -> AsyncIterator[Finding]:
    now = time.time_ns() // 1000
    ((size,),) = await _all(connection, _SIZE)
    yield Finding("store", megabytes(size))
    counts = await _all(
        connection, "SELECT status, count(*) FROM holdfast.run GROUP BY 1 ORDER BY 1"
    )
    yield runs_by_status(dict(counts))
    async for finding in _workers(connection):
        yield finding
    async for finding in _order(connection):
        yield finding
    ((last,),) = await _all(connection, "SELECT coalesce(max(updated_at), 0) FROM holdfast.run")
    for finding in last_event(last, now, "a worker's clock was set back"):
        yield finding


async def _workers(connection: AsyncConnection) -> AsyncIterator[Finding]:
    workers = await _all(connection, _WORKERS)
    alive = [(name, held) for name, left, held in workers if left > 0]
    holding = count(sum(held for _, held in alive), "run")
    yield Finding("workers", f"{len(alive)} alive, holding {holding}")
    for name, left, held in workers:
        if left <= 0:
            said = f"{name}, silent for {ago(left)}, which held {count(held, 'run')}"
            yield Finding("lost worker", said, "note", "the next worker takes them over")


async def _order(connection: AsyncConnection) -> AsyncIterator[Finding]:
    """Yield how far the log has positions, and signatures."""
    ((last, waiting, signed, head),) = await _all(
        connection,
        """SELECT
          coalesce((SELECT pos + count - 1 FROM holdfast.placed ORDER BY pos DESC LIMIT 1), 0),
          (SELECT coalesce(sum(count), 0)::bigint FROM holdfast.unplaced),
          EXISTS (SELECT FROM holdfast.signer),
          coalesce((SELECT max(size) FROM holdfast.head), 0)""",
    )
    found = log_signed(last, head if signed else None)
    if waiting and found.verdict == "ok":
        hint = "any worker gives them one, if it has the key" if signed else "any worker gives one"
        said = f"{found.value}, {waiting} more without a position"
        found = Finding("log", said, "note", hint)
    yield found


async def _all(connection: AsyncConnection, statement: str) -> list[tuple[Any, ...]]:
    cursor = await connection.execute(statement.encode())
    return await cursor.fetchall()
