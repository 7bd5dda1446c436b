"""Copying runs: a store as it was at one moment, and parts of runs that come from another store.

A snapshot is a transaction that stays open on a connection of its own and goes on seeing what it
saw first (REPEATABLE READ); writers are not held up, but what they replace is kept until it ends.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import TypeVar

import psycopg
from psycopg import AsyncConnection

from holdfast.core.events import GENESIS, Event
from holdfast.core.state import RunRow
from holdfast.errors import Conflict, HoldfastError
from holdfast.ports import INCOMING, Letter, Part, Standing
from holdfast.stores.postgres import queries
from holdfast.stores.postgres import statements as sql
from holdfast.stores.postgres.flow import Flow, Round, drive, single
from holdfast.stores.postgres.link import judge, meaning
from holdfast.stores.postgres.payloads import Chunks, Fresh
from holdfast.stores.postgres.server import NotSent, Server
from holdfast.stores.postgres.values import Bytes, Ints, Texts

__all__ = ["PostgresSnapshot", "receive", "snapshot"]

T = TypeVar("T")


class PostgresSnapshot:
    """Keeps the contract of ``holdfast.ports.Snapshot`` inside an open transaction."""

    def __init__(self, connection: AsyncConnection, url: str) -> None:
        self._connection = connection
        self._url = url
        self._alive: set[str] = set()

    async def begin(self, lease_now: int | None) -> None:
        """Look for the first time, which is what all later looks will see."""
        await self._connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        await self._connection.execute("SET LOCAL idle_in_transaction_session_timeout = 0")
        alive = await self._ask(single(sql.ALIVE, lease_now))
        self._alive = {worker for (worker,) in alive} | {INCOMING}

    async def runs(self, *, prefix: str = "", after: str = "", limit: int) -> list[Standing]:
        return [
            Standing(RunRow(*row), epoch, worker if worker in self._alive else "")
            for epoch, worker, *row in await self._ask(queries.standing(prefix, after, limit))
        ]

    async def events(self, run: str, *, after: int, limit: int) -> list[Event]:
        return await self._ask(queries.read(run, after, 0, limit))

    async def inbox(self, run: str, *, after: int, limit: int) -> list[Letter]:
        return await self._ask(queries.inbox(run, after, limit))

    async def strays(self, *, after: str, limit: int) -> list[str]:
        return [run for (run,) in await self._ask(single(sql.STRAYS, after, limit))]

    async def _ask(self, question: Flow[T]) -> T:
        try:
            return await drive(self._connection, question)
        except psycopg.Error as error:
            raise meaning(judge(error, self._url), self._url) from error


@asynccontextmanager
async def snapshot(server: Server, lease_now: int | None) -> AsyncIterator[PostgresSnapshot]:
    """Hold on to a store as it is."""
    try:
        connection = await server.connect()
    except (NotSent, HoldfastError) as error:
        raise meaning(error, server.url) from error
    try:
        found = PostgresSnapshot(connection, server.url)
        await found.begin(lease_now)
        yield found
    finally:
        with suppress(psycopg.Error):
            await connection.close()


def receive(part: Part, chunks: Chunks, fresh: Fresh) -> Flow[None]:
    """Take in a part of a run of another store.

    Raises:
        Conflict: it does not follow what is here; nothing was written.
    """
    row, run = part.row, part.run
    first = part.events[0].prev if part.events else row.head
    letters = [letter.message.payload if not letter.taken else None for letter in part.inbox]
    stored = yield from chunks.keep([*(event.payload for event in part.events), *letters], fresh)
    begun = part.expected_seq == 0 and first == GENESIS
    rounds: Round = [(sql.DELIVERING, ()), (sql.LOCK_RUNS, (Texts([run]),))]
    rounds += fresh.round()
    if begun:
        rounds.append((sql.EXPECT, (*row._replace(seq=0, head=GENESIS), INCOMING)))
    moved = (row.status, row.seq, row.head, row.turn, row.turn_seq, row.state_seq)
    held = (row.updated_at, row.wake_at, part.epoch, None if part.last else INCOMING)
    place = (run, part.expected_seq, first, INCOMING)
    values = (*moved, *held, *place, *_events(part, stored), *_letters(part, stored))
    rounds += [(sql.RECEIVE, values), (sql.SETTLE, (Texts([run]),))]
    results = yield rounds
    if not results[-2]:
        found = results[1]
        raise Conflict(
            f"run {run!r} has {found[0][2] if found else 0} events: a part of another store's"
            f" behind event {part.expected_seq} does not follow, or a worker holds the run.",
            run=run,
        )


def _events(part: Part, stored: list[tuple[int, bytes | None]]) -> tuple[object, ...]:
    events, count = part.events, len(part.events)
    ours, nobody = Ints([1] * count), Texts([""] * count)
    forms, payloads = zip(*stored[:count], strict=True) if count else ((), ())
    notes = [1] if count else []
    return (
        *(ours, nobody, Ints([event.seq for event in events])),
        *(Bytes([event.leaf for event in events]), Bytes([event.salt for event in events])),
        *(Ints(forms), Bytes(payloads)),
        *(Ints(notes), Texts([""] * len(notes))),
        *(Ints([part.expected_seq + 1] * len(notes)), Ints([count] * len(notes))),
    )


def _letters(part: Part, stored: list[tuple[int, bytes | None]]) -> tuple[object, ...]:
    kept = stored[len(part.events) :]
    messages = [letter.message for letter in part.inbox]
    return (
        *(Texts([message.to for message in messages]), Texts([m.id for m in messages])),
        *(Texts([m.topic for m in messages]), Ints([m.at for m in messages])),
        *(Texts([m.sender for m in messages]), Texts([queries.cause_text(m) for m in messages])),
        *(Ints([form for form, _ in kept]), Bytes([data for _, data in kept])),
        Ints([letter.taken for letter in part.inbox]),
    )
