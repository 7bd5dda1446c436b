"""Subjects in PostgreSQL: who they are, and how one is erased.

An erasure is one transaction. It locks the subject's row; whoever creates a run on behalf of the
subject holds a share of that lock until the run is written, so nothing of a subject appears behind
the check that nothing alive needs it. Events are found by their leaves, which takes as long as
reading the table once: an erasure is rare, an index of subjects would cost each append.

Rows are overwritten by new versions here, so afterwards the table of keys is written anew without
the old ones. What the server keeps besides (its write-ahead log, archives, replicas' logs) is
out of reach: there the key lingers, wrapped, until they are recycled.
"""

import json
from collections.abc import Sequence
from typing import Any

import psycopg
from psycopg import AsyncConnection

from holdfast.core.state import ENDED
from holdfast.ports import NewRun
from holdfast.stores.payloads import CHUNKED, GONE, inflate, parse_node, parse_root
from holdfast.stores.postgres.batch import Batch, Birth
from holdfast.stores.postgres.flow import drive
from holdfast.stores.postgres.payloads import Chunks, loaded
from holdfast.stores.subjects import check_erasable, check_open, check_unused, is_of
from holdfast.stores.vault import WRAPPED_BYTES
from holdfast.subjects import Erasure, Subject

__all__ = ["ADD", "KNOWN", "LISTED", "erase", "hold_open", "subject_of"]

KNOWN = "SELECT id, key, erased FROM holdfast.subject WHERE id = %s"
LISTED = "SELECT id, key, erased FROM holdfast.subject WHERE id > %s ORDER BY id LIMIT %s"
ADD = """
INSERT INTO holdfast.subject (id, key, erased) VALUES (%s, %s, %s)
ON CONFLICT (id) DO UPDATE SET id = excluded.id
RETURNING id, key, erased"""
_EVENTS = """
SELECT event.run, event.seq, form, payload, id, status
FROM holdfast.event JOIN holdfast.run ON n = event.run
WHERE payload IS NOT NULL AND salt IS NULL AND position(%s IN leaf) > 0"""
_DROP_EVENTS = """
UPDATE holdfast.event SET form = %s, payload = NULL
FROM unnest(%s::bigint[], %s::bigint[]) AS gone (run, seq)
WHERE event.run = gone.run AND event.seq = gone.seq"""
_UNREAD = """
SELECT inbox.n, form, payload, inbox.run, status
FROM holdfast.inbox LEFT JOIN holdfast.run ON run.id = inbox.run
WHERE taken IS NULL AND payload IS NOT NULL AND (form = 2 OR substring(payload, 1, 1) = '\\x01')"""
_DROP_UNREAD = """
UPDATE holdfast.inbox SET taken = 0, form = %s, payload = NULL WHERE n = ANY(%s)"""
_CHUNKS = "SELECT form, data FROM holdfast.chunk WHERE n = ANY(%s)"
_DROP_CHUNKS = "DELETE FROM holdfast.chunk WHERE n = ANY(%s)"
_DESTROY = "UPDATE holdfast.subject SET key = %s, erased = %s WHERE id = %s"
_DESTROYED = bytes(WRAPPED_BYTES)


def subject_of(id_: str, key: bytes, erased: str) -> Subject:
    """Return a subject from a row of KNOWN, LISTED or ADD."""
    return Subject(id_, b"" if bytes(key) == _DESTROYED else bytes(key), erased)


async def hold_open(connection: AsyncConnection, subjects: Sequence[str]) -> None:
    """Keep subjects from being erased until the open transaction ends.

    Raises:
        SubjectErased: one was erased before.
    """
    for subject in sorted(subjects):
        for row in await _all(connection, f"{KNOWN} FOR SHARE", subject):
            check_open(subject_of(*row))


async def erase(connection: AsyncConnection, subject: str, told: NewRun) -> Erasure:
    """Destroy a subject's key, payloads and unread messages, and create the run that tells so.

    Raises:
        UsageError, SubjectErased: as ``Store.erase`` does; nothing was changed.
    """
    async with connection.transaction():
        found = await _all(connection, f"{KNOWN} FOR UPDATE", subject)
        check_erasable(subject, subject_of(*found[0]) if found else None)
        unread = await _all(connection, _UNREAD)
        payloads = await drive(connection, loaded([(row[1], row[2]) for row in unread]))
        pairs = zip(unread, payloads, strict=True)
        unread = [row for row, payload in pairs if payload and is_of(subject, payload)]
        # A quote inside a name is escaped, so this stands nowhere else in a leaf.
        mark = f'"sub":{json.dumps(subject, ensure_ascii=False)},'.encode()
        events = await _all(connection, _EVENTS, mark)
        alive = [(id_, status) for *_, id_, status in [*events, *unread] if status is not None]
        check_unused(subject, [(id_, status) for id_, status in alive if status not in ENDED])
        roots = [row[3] for row in events if row[2] == CHUNKED]
        await _drop_chunks(connection, roots + [row[2] for row in unread if row[1] == CHUNKED])
        places = [row[0] for row in events], [row[1] for row in events]
        await connection.execute(_DROP_EVENTS.encode(), (GONE, *places))
        await connection.execute(_DROP_UNREAD.encode(), (GONE, [row[0] for row in unread]))
        await connection.execute(_DESTROY.encode(), (_DESTROYED, told.row.run, subject))
        (created,) = await drive(connection, Batch([Birth(told)]).flow(Chunks()))
        assert created is True, f"{told.row.run} is taken"
    return Erasure(
        len({row[0] for row in events}), len(events), len(unread), await scrub(connection)
    )


async def scrub(connection: AsyncConnection) -> bool:
    """Write the table of keys anew, without old versions of its rows; tell whether it was done."""
    try:
        await connection.execute("VACUUM (FULL) holdfast.subject")
    except psycopg.errors.InsufficientPrivilege:
        return False  # only who owns the table may
    return True


async def _drop_chunks(connection: AsyncConnection, roots: Sequence[bytes]) -> None:
    """Remove the chunks of payloads that are under the key, which no other's can share."""
    levels: dict[int, set[int]] = {}
    for root in roots:
        height, _, numbers = parse_root(bytes(root))
        levels.setdefault(height, set()).update(numbers)
    for height in range(max(levels, default=-1), -1, -1):
        numbers = [*levels.get(height, ())]
        if height:
            below = levels.setdefault(height - 1, set())
            for form, data in await _all(connection, _CHUNKS, numbers):
                below.update(parse_node(inflate(form, bytes(data))))
        await connection.execute(_DROP_CHUNKS.encode(), (numbers,))


async def _all(connection: AsyncConnection, statement: str, *values: Any) -> list[tuple[Any, ...]]:
    cursor = await connection.execute(statement.encode(), values)
    return await cursor.fetchall()
