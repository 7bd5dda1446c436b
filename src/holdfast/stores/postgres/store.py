"""The PostgreSQL store: the contract of ``holdfast.ports.Store`` on one database.

The parts: ``batch.py`` says what a write does, ``writer.py`` sends many of them together,
``leases.py`` claims, ``queries.py`` reads, ``transaction.py`` runs bodies, ``sequencer.py`` orders
and signs the log, ``link.py`` keeps connections and judges what became of them, ``schema.py``
creates and refuses, ``news.py`` tells and hears of changes, and ``schema.sql`` describes the
tables. Here they are joined.

Connections are opened when they are needed: one for claims and short reads, two for writes, one for
long reads, one that listens, and one for the bodies of ``transactional`` steps.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Literal, Self, TypeVar
from uuid import uuid4

import psycopg
from psycopg import AsyncConnection

from holdfast.core.events import Event
from holdfast.core.state import RunRow
from holdfast.errors import (
    HoldfastError,
    KeyMissing,
    ProofRefused,
    StoreUnavailable,
    UsageError,
)
from holdfast.ports import (
    Append,
    Claim,
    InboxMessage,
    Message,
    NewRun,
    Part,
    Pause,
    QueueInfo,
    QueueLimits,
    Transaction,
    WorkerInfo,
)
from holdfast.signed import Notaries
from holdfast.stores.postgres import copies, leases, line, queries
from holdfast.stores.postgres import statements as sql
from holdfast.stores.postgres.batch import Batch, Birth, Chain, Post
from holdfast.stores.postgres.flow import Flow, drive, drive_whole, single
from holdfast.stores.postgres.link import (
    OPERATION_S,
    Link,
    Unknown,
    Withdrawn,
    backoff_s,
    meaning,
)
from holdfast.stores.postgres.news import News
from holdfast.stores.postgres.payloads import SWEPT, Chunks, Fresh
from holdfast.stores.postgres.rests import RestsInPostgres
from holdfast.stores.postgres.retention import RetentionInPostgres
from holdfast.stores.postgres.schema import migrate, prepare
from holdfast.stores.postgres.sequencer import Sequencer, no_notaries
from holdfast.stores.postgres.server import NotSent, Server
from holdfast.stores.postgres.signed import PostgresSignedLog
from holdfast.stores.postgres.subjects import ADD, KNOWN, LISTED, erase, hold_open, subject_of
from holdfast.stores.postgres.transaction import Transactor
from holdfast.stores.postgres.writer import Writer
from holdfast.stores.subjects import without
from holdfast.stores.vault import WRAPPED_BYTES
from holdfast.subjects import Erasure, Subject

__all__ = ["PostgresStore"]

T = TypeVar("T")
_LOG = logging.getLogger("holdfast")

PATIENCE_S = 30.0
LONG_S = 3_600.0
"""How long it may take to sign a log that was written before."""
PLACE_S = 0.1
"""How long events may stand in their streams without a position, while somebody writes."""


class PostgresStore(RestsInPostgres, RetentionInPostgres):
    """A store in one PostgreSQL database, which many processes share; it is for one event loop."""

    def __init__(
        self,
        server: Server,
        *,
        lease_clock: Literal["database", "caller"],
        patience_s: float,
        notaries: Notaries,
    ) -> None:
        """Do what ``open`` promises; it is the way here, for the schema must be looked over."""
        self.url = server.url
        self._server = server
        self._by_caller = lease_clock == "caller"
        self._patience_s = patience_s
        self._near, self._far = Link(server), Link(server)
        self._news = News(server, self._near, uuid4().hex)
        self._tour, self._look = line.Tour(), line.Tour()
        self._sequencer = Sequencer(notaries)
        self._untold = True
        """Whether nobody was told yet why no positions are given."""
        self.signed = PostgresSignedLog(
            self._sequencer,
            ask=lambda question: self._ask(self._far, question),
            whole=self._whole,
            place=None if server.read_only else self._place,
            read_log=queries.read_log,
        )
        self._writer = Writer(server, patience_s=patience_s, written=self._written)
        self._transactor = Transactor(server)
        self._bodies: ThreadPoolExecutor | None = None
        self._placing: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[int]] = set()
        self._closed = False

    @classmethod
    async def open(
        cls,
        url: str,
        *,
        create: bool = True,
        read_only: bool = False,
        lease_clock: Literal["database", "caller"] = "database",
        patience_s: float = PATIENCE_S,
        notaries: Notaries = no_notaries,
    ) -> Self:
        """Open a store.

        Args:
            url: Where it is, as libpq has it: ``postgresql://USER@HOST:PORT/DATABASE``; several
                hosts mean those of them that is the primary.
            create: Make the schema when it is missing.
            read_only: Refuse every write; a standby will do.
            lease_clock: Whose clock leases go by; ``caller`` is for tests that set the time.
            patience_s: For how long an operation is tried while the server is away.
            notaries: Who signs, should the log be signed by now or later.

        Raises:
            KeyMissing: the log is signed, and the private key is not at hand.
            UsageError: no such URL.
            StoreRefused: the store cannot be used as things are: no rights, another program's
                schema, a newer version, an old server, clocks that differ.
            StoreUnavailable: the server cannot be reached now.
        """
        server = Server(url, read_only=read_only)
        store = cls(server, lease_clock=lease_clock, patience_s=patience_s, notaries=notaries)
        looking = partial(
            prepare,
            url=server.url,
            create=create,
            read_only=read_only,
            check_clock=lease_clock == "database",
        )
        try:
            await store._near.run(looking)
            if not read_only:
                await store._near.run(lambda c: drive(c, store._sequencer.check()))
        except (NotSent, Withdrawn, Unknown, HoldfastError, psycopg.Error) as error:
            await store.close()
            raise meaning(error, server.url) from error
        return store

    @classmethod
    async def migrate(cls, url: str) -> tuple[int, int]:
        """Bring the schema up to today's version, or make it.

        Returns the version found, 0 for none, and today's.

        Raises:
            UsageError, StoreRefused, StoreUnavailable: as ``open`` does.
        """
        server = Server(url)
        link = Link(server)
        try:
            return await link.run(partial(migrate, url=server.url))
        except (NotSent, Withdrawn, Unknown, HoldfastError, psycopg.Error) as error:
            raise meaning(error, server.url) from error
        finally:
            await link.close()

    async def create(self, new: NewRun, deliver: Sequence[Message] = ()) -> bool:
        writer = self._writing()
        subjects = {event.sub for event in new.events if event.sub}
        if not subjects:
            return await writer.create(Birth(new, deliver))

        async def guarded(connection: AsyncConnection) -> bool:
            async with connection.transaction():
                await hold_open(connection, [*subjects])
                return await writer.create(Birth(new, deliver))

        return await self._alone(guarded)

    def append(self, change: Append) -> "asyncio.Future[None]":
        return self._writing().append(change)

    async def transact(
        self, run: str, epoch: int, expected_seq: int, body: Callable[[Transaction], Append]
    ) -> None:
        writer = self._writing()

        async def alone() -> None:
            if self._bodies is None:
                self._bodies = ThreadPoolExecutor(1, "holdfast-bodies")
            call = partial(self._transactor.run, run, epoch, expected_seq, body)
            change = await asyncio.get_running_loop().run_in_executor(self._bodies, call)
            if change is not None:
                await self._find(change)

        await writer.alone(run, alone)

    async def deliver(self, messages: Sequence[Message]) -> list[bool]:
        if not messages:
            return []
        return await self._writing().deliver(Post(messages))

    async def claim(
        self,
        worker: str,
        *,
        now: int,
        lease_us: int,
        agents: Sequence[str],
        limit: int,
        run: str = "",
        family: str = "",
    ) -> list[Claim]:
        self._writing()
        claim = leases.claim(
            worker,
            now=now,
            lease_now=self._lease_now(now),
            lease_us=lease_us,
            agents=agents,
            limit=limit,
            run=run,
            family=family,
            tour=self._tour,
            url=self.url,
        )
        try:  # once: if the answer is lost, ``held`` tells
            return await self._near.run(lambda c: drive(c, claim))
        except (NotSent, Withdrawn, Unknown, psycopg.Error) as error:
            raise meaning(error, self.url) from error

    async def pause(self, pause: Pause) -> bool:
        self._writing()
        facts = (pause.kind, pause.name, pause.by, pause.at)
        done = await self._ask(self._near, lambda: single(sql.PAUSE, *facts))
        self._news.tell(ready=True)
        return bool(done)

    async def resume(self, kind: str, name: str) -> bool:
        self._writing()
        done = await self._ask(self._near, lambda: single(sql.RESUME, kind, name))
        self._news.tell(ready=True)
        return bool(done)

    async def pauses(self) -> list[Pause]:
        found = await self._ask(self._near, lambda: single(sql.PAUSES))
        return [Pause(*fields) for fields in found]

    async def limit(self, limits: QueueLimits) -> None:
        self._writing()
        facts = (limits.concurrency, limits.per_key, limits.rate, limits.period_us)
        await self._ask(self._near, lambda: single(sql.LIMIT, limits.queue, *facts))
        self._news.tell(ready=True)

    async def queues(self, *, now: int) -> list[QueueInfo]:
        return await self._ask(self._far, partial(line.queues, now))

    async def register(self, worker: str, *, about: str, now: int, lease_us: int) -> None:
        lease_now = self._lease_now(now)
        register = partial(leases.register, worker, about, lease_now=lease_now, lease_us=lease_us)
        await self._keep(register, lease_us)

    async def workers(self, *, now: int) -> list[WorkerInfo]:
        return await self._ask(self._near, partial(leases.workers, lease_now=self._lease_now(now)))

    async def renew(self, worker: str, *, now: int, lease_us: int) -> bool:
        lease_now = self._lease_now(now)
        renew = partial(leases.renew, worker, lease_now=lease_now, lease_us=lease_us)
        return await self._keep(renew, lease_us)

    async def release(self, worker: str) -> None:
        self._writing()
        await self._ask(self._near, partial(leases.release, worker))
        self._news.tell(ready=True)

    async def read(
        self, run: str, *, after: int = 0, until: int = 0, limit: int = 0
    ) -> list[Event]:
        return await self._ask(self._far, partial(queries.read, run, after, until, limit))

    async def read_log(self, after: int, *, limit: int) -> list[tuple[int, Event]]:
        if not self._server.read_only:
            await self._place()  # if it cannot be done now, the log is as long as it was
        return await self._ask(self._far, partial(queries.read_log, after, limit))

    async def unread(self, run: str, *, after: int = 0) -> list[InboxMessage]:
        return await self._ask(self._far, partial(queries.unread, run, after))

    async def row(self, run: str) -> RunRow | None:
        return await self._ask(self._near, partial(queries.row, run))

    async def rows(
        self,
        *,
        prefix: str = "",
        status: Sequence[str] = (),
        agents: Sequence[str] = (),
        after: tuple[int, str] | None = None,
        limit: int = 100,
    ) -> list[RunRow]:
        rows = partial(
            queries.rows, prefix=prefix, status=status, agents=agents, after=after, limit=limit
        )
        return await self._ask(self._far, rows)

    async def ready(self, agents: Sequence[str], *, now: int) -> bool:
        lease_now = self._lease_now(now)
        ready = partial(queries.ready, agents, now=now, lease_now=lease_now, tour=self._look)
        return await self._ask(self._near, ready)

    async def held(self, worker: str) -> list[Claim]:
        return await self._ask(self._near, partial(leases.held, worker))

    async def mail(self, worker: str, *, after: int) -> tuple[int, list[InboxMessage]]:
        return await self._ask(self._near, partial(queries.mail, worker, after))

    async def next_wake(self, agents: Sequence[str], *, after: int = 0) -> int:
        return await self._ask(self._near, partial(queries.next_wake, agents, after))

    async def changed(self, timeout_s: float, *, ready: bool = False) -> None:
        await self._news.changed(timeout_s, ready=ready)

    @asynccontextmanager
    async def snapshot(self, *, now: int) -> AsyncIterator[copies.PostgresSnapshot]:
        lease_now = self._lease_now(now)
        async with copies.snapshot(self._server, lease_now) as snapshot:
            yield snapshot

    async def receive(self, part: Part) -> None:
        writer = self._writing()
        subjects = {event.sub for event in part.events if event.sub}
        known = [await self.subject(subject) for subject in subjects]
        gone = {subject.id for subject in known if subject and not subject.key}
        part = replace(part, events=without(gone, part.events)) if gone else part

        async def alone() -> None:
            while True:
                take = copies.receive(part, Chunks(), Fresh())
                try:  # once: whoever copies begins anew, and finds out how far this came
                    return await self._far.run(lambda c: drive(c, take))  # noqa: B023 - awaited here
                except SWEPT:
                    continue
                except (NotSent, Withdrawn, Unknown, psycopg.Error) as error:
                    raise meaning(error, self.url) from error

        await writer.alone(part.run, alone)

    async def subject(self, subject: str) -> Subject | None:
        found = await self._ask(self._near, partial(single, KNOWN, subject))
        return subject_of(*found[0]) if found else None

    async def subjects(self, *, after: str = "", limit: int) -> list[Subject]:
        found = await self._ask(self._far, partial(single, LISTED, after, limit))
        return [subject_of(*row) for row in found]

    async def add_subject(self, subject: Subject) -> Subject:
        self._writing()
        values = subject.id, subject.key or bytes(WRAPPED_BYTES), subject.erased
        found = await self._ask(self._near, partial(single, ADD, *values))
        return subject_of(*found[0])

    async def erase(self, subject: str, told: NewRun) -> Erasure:
        self._writing()
        erasure = await self._alone(lambda connection: erase(connection, subject, told))
        self._written(ready=True)
        return erasure

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        await self._writer.close()
        if self._placing is not None:
            self._placing.cancel()
            await self._place()
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self._news.close()
        if self._bodies is not None:
            self._bodies.submit(self._transactor.close)
            self._bodies.shutdown()
        await self._near.close()
        await self._far.close()

    def _writing(self) -> Writer:
        if self._server.read_only:
            raise UsageError(f"{self.url}: the store was opened to read only.")
        return self._writer

    async def _ask(
        self, link: Link, question: Callable[[], Flow[T]], *, patience_s: float | None = None
    ) -> T:
        """Carry out what may be done twice, until it is answered or the patience is used up."""
        if self._closed:
            raise StoreUnavailable(f"{self.url}: the store is closed.")
        loop = asyncio.get_running_loop()
        patience_s = self._patience_s if patience_s is None else min(patience_s, self._patience_s)
        deadline, attempt = loop.time() + patience_s, 0
        time_s = min(patience_s, OPERATION_S)
        while True:
            try:
                return await link.run(lambda c: drive(c, question()), time_s=time_s)
            except (NotSent, Withdrawn, Unknown) as error:
                attempt += 1
                if loop.time() > deadline:
                    raise meaning(error, self.url) from error
            except psycopg.Error as error:
                raise meaning(error, self.url) from error
            await asyncio.sleep(min(backoff_s(attempt), max(0.0, deadline - loop.time())))

    async def _alone(self, operation: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        """Carry out a transaction once: whoever asked finds out what came of it if that is lost."""
        try:
            return await self._far.run(operation, time_s=self._patience_s)
        except (NotSent, Withdrawn, Unknown, psycopg.Error) as error:
            raise meaning(error, self.url) from error

    async def _keep(self, question: Callable[[], Flow[T]], lease_us: int) -> T:
        """Ask for a lease; after a third of it a worker must know that it was not renewed."""
        self._writing()
        patience_s = None if self._by_caller else lease_us / 3e6
        return await self._ask(self._near, question, patience_s=patience_s)

    def _lease_now(self, now: int) -> int | None:
        return now if self._by_caller else None

    async def _find(self, change: Append) -> None:
        """Return if a change whose answer was lost had gone through.

        Raises:
            StoreUnavailable: it had not, or nobody can tell.
        """
        if not await self._ask(self._far, Batch([Chain([change])]).witness):
            raise StoreUnavailable(
                f"store {self.url}: the connection was lost. Nothing was written."
            )

    def _written(self, ready: bool) -> None:  # noqa: FBT001 - what the writer calls
        self._news.tell(ready=ready)
        if self._placing is None and not self._closed:
            self._placing = asyncio.get_running_loop().call_later(PLACE_S, self._place_now)

    def _place_now(self) -> None:
        self._placing = None
        task = asyncio.get_running_loop().create_task(self._place())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _place(self) -> int:
        """Give positions to what was written; whoever reads the log does it too.

        Returns how many notes were taken; 0 also when it cannot be done now.
        """
        try:
            placed = await self._far.run(lambda c: drive_whole(c, self._sequencer.place()))
        except (KeyMissing, ProofRefused) as error:
            if self._untold:
                _LOG.error("store %s: no event gets a position: %s", self.url, error)
            self._untold = False
            return 0
        except (NotSent, Withdrawn, Unknown, HoldfastError, psycopg.Error):
            return 0
        self._untold = True
        return placed

    async def _whole(self, flow: Flow[T]) -> T:
        """Carry out a flow once, in one transaction, however long it takes."""
        self._writing()
        try:
            return await self._far.run(lambda c: drive_whole(c, flow), time_s=LONG_S)
        except (NotSent, Withdrawn, Unknown, psycopg.Error) as error:
            raise meaning(error, self.url) from error
