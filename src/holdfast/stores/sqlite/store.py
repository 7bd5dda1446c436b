"""The SQLite store: the contract of ``holdfast.ports.Store`` on one file.

The parts: ``changes.py`` says what a write does to the tables, ``writer.py`` runs many of them in
one commit, ``sealing.py`` has the commits of a signed file signed and ``signed.py`` reads what is
kept for proofs, ``queries.py`` reads all else, ``payloads.py`` keeps large values, ``file.py``
opens and refuses files, and ``schema.sql`` describes the tables. Here they are joined and given an
asyncio face.

Writes run in the loop and are committed in the writer's thread (writer.py says why). Reads that
cost microseconds (a row, an empty inbox) run right in the loop on a connection of their own, all
others in a thread with a third one, so that neither a sync nor a long read holds up the loop.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Self, TypeVar

from holdfast.core.events import Event
from holdfast.core.state import RunRow
from holdfast.errors import StoreError, SubjectErased, UsageError
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
    Rest,
    Transaction,
    WorkerInfo,
)
from holdfast.retention import Ended, Swept
from holdfast.signed import Notaries
from holdfast.stores.sqlite.changes import Changes
from holdfast.stores.sqlite.file import connect
from holdfast.stores.sqlite.presence import Presence
from holdfast.stores.sqlite.queries import FEW_MAX, Queries
from holdfast.stores.sqlite.retention import Sweep, ended
from holdfast.stores.sqlite.sealing import Sealing, no_notaries
from holdfast.stores.sqlite.signed import SqliteSignedLog
from holdfast.stores.sqlite.snapshot import SqliteSnapshot
from holdfast.stores.sqlite.subjects import scrub
from holdfast.stores.sqlite.writer import Answer, Writer
from holdfast.subjects import Erasure, Subject

__all__ = ["LONG_BYTES", "SqliteStore"]

T = TypeVar("T")

LONG_BYTES = 256 * 1024
"""Payloads of so many bytes together take the better part of 10 ms to cut and deflate."""

POLL_S = 0.03
"""How often ``changed`` looks whether another process has committed."""


class SqliteStore:
    """A store in one SQLite file, which several processes may share; it is for one event loop."""

    def __init__(
        self,
        path: Path | str,
        *,
        create: bool,
        read_only: bool,
        inline: bool,
        notaries: Notaries,
    ) -> None:
        """Do what ``open`` promises; it is the way here, for a writer needs a running loop."""
        self._path = path = Path(path).absolute()
        self.url = f"sqlite://{path}"
        connection = None if read_only else connect(path, create=create)
        self._sealing = Sealing(connection, notaries) if connection else None
        self._presence = presence = Presence(path)
        self._near = Queries(connect(path, read_only=True), path, presence)
        self._far = self._near
        if not inline:
            self._far = Queries(connect(path, read_only=True), path, presence)
        self._reader = None if inline else ThreadPoolExecutor(1, "holdfast-reader")
        self._changes = None
        if connection:
            scrub(connection)  # an erasure may have been cut off behind its commit
        self._writer = None
        if connection and self._sealing:
            self._changes = Changes(connection, presence, self._sealing)
            self._writer = Writer(
                connection,
                path,
                inline=inline,
                finish=self._changes.finish,
                undone=self._changes.forget,
                written=self._written,
            )
        self.signed = SqliteSignedLog(self._near, self._far, self._read_far, self._signing)
        self._version = self._near.version()
        self._news = [False, False]
        """Whether anything happened, and whether anything that may have made a run ready."""
        self._waiting: tuple[set[asyncio.Event], set[asyncio.Event]] = (set(), set())

    @classmethod
    async def open(
        cls,
        path: Path | str,
        *,
        create: bool = True,
        read_only: bool = False,
        inline: bool = False,
        notaries: Notaries = no_notaries,
    ) -> Self:
        """Open a store file.

        Args:
            path: Where it is, or is to be.
            create: Make it when it is missing, readable by its owner alone.
            read_only: Refuse every write; the file is not created.
            inline: Use no threads: every operation runs at once where it is called, each in a
                transaction of its own. For tests that want a fixed order.
            notaries: Who signs, should the file be signed by now or later.

        Raises:
            StoreRefused: the file is missing (and not to be created), foreign, torn, or of a newer
                version; it is left as it is.
            KeyMissing: it is signed, and the private key is not at hand.
            StoreUnavailable: it cannot be opened or created now.
        """
        return cls(path, create=create, read_only=read_only, inline=inline, notaries=notaries)

    async def create(self, new: NewRun, deliver: Sequence[Message] = ()) -> bool:
        changes, writer = self._writing()
        long = _are_long(new.events, deliver)
        return bool(await writer.put(changes.create, new, deliver, long=long))

    def append(self, change: Append) -> Answer:
        changes, writer = self._writing()
        readies = bool(change.release or change.create or change.deliver)
        long = _are_long(change.events, change.deliver)
        return writer.put(changes.append, change, long=long, readies=readies)

    async def transact(
        self, run: str, epoch: int, expected_seq: int, body: Callable[[Transaction], Append]
    ) -> None:
        changes, writer = self._writing()
        await writer.put(changes.transact, run, epoch, expected_seq, body, alone=True)

    async def deliver(self, messages: Sequence[Message]) -> list[bool]:
        changes, writer = self._writing()
        long = _are_long((), messages)
        return list(await writer.put(changes.deliver, messages, long=long))

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
        changes, writer = self._writing()
        claim = partial(
            changes.claim,
            worker,
            now=now,
            lease_us=lease_us,
            agents=agents,
            limit=limit,
            run=run,
            family=family,
        )
        return list(await writer.put(claim))

    async def pause(self, pause: Pause) -> bool:
        changes, writer = self._writing()
        return bool(await writer.put(changes.pause, pause))

    async def resume(self, kind: str, name: str) -> bool:
        changes, writer = self._writing()
        return bool(await writer.put(changes.resume, kind, name))

    async def pauses(self) -> list[Pause]:
        return self._near.pauses()

    async def rest(self, provider: str, *, now: int, rest_us: int) -> None:
        changes, writer = self._writing()
        await writer.put(changes.rest, provider, now, rest_us, readies=False)

    async def rests(self, *, now: int) -> list[Rest]:
        return self._near.rests(now)

    async def probe(self, provider: str, *, now: int, rest_us: int) -> bool:
        changes, writer = self._writing()
        return bool(await writer.put(changes.probe, provider, now, rest_us, readies=False))

    async def limit(self, limits: QueueLimits) -> None:
        changes, writer = self._writing()
        await writer.put(changes.limit, limits)

    async def queues(self, *, now: int) -> list[QueueInfo]:
        return await self._read_far(self._far.queues, now)

    async def register(self, worker: str, *, about: str, now: int, lease_us: int) -> None:
        changes, writer = self._writing()
        await writer.put(changes.register, worker, about, now, lease_us, readies=False)

    async def workers(self, *, now: int) -> list[WorkerInfo]:
        return await self._read_far(self._far.workers, now)

    async def renew(self, worker: str, *, now: int, lease_us: int) -> bool:
        changes, writer = self._writing()
        return bool(await writer.put(changes.renew, worker, now, lease_us))

    async def release(self, worker: str) -> None:
        changes, writer = self._writing()
        await writer.put(changes.release, worker)

    async def read(
        self, run: str, *, after: int = 0, until: int = 0, limit: int = 0
    ) -> list[Event]:
        events = None
        if limit <= FEW_MAX:
            events = self._near.read_few(run, after, until, limit)
        if events is None:
            events = await self._read_far(self._far.read, run, after, until, limit)
        return events

    async def read_log(self, after: int, *, limit: int) -> list[tuple[int, Event]]:
        return await self._read_far(self._far.read_log, after, limit)

    async def unread(self, run: str, *, after: int = 0) -> list[InboxMessage]:
        if not self._near.has_unread(run, after):
            return []
        return await self._read_far(self._far.unread, run, after, 2**62)

    async def row(self, run: str) -> RunRow | None:
        return self._near.row(run)

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
            self._far.rows, prefix=prefix, status=status, agents=agents, after=after, limit=limit
        )
        return await self._read_far(rows)

    async def ready(self, agents: Sequence[str], *, now: int) -> bool:
        return self._near.ready(agents, now)

    async def held(self, worker: str) -> list[Claim]:
        return await self._read_far(self._far.held, worker)

    async def mail(self, worker: str, *, after: int) -> tuple[int, list[InboxMessage]]:
        latest = self._near.latest()
        if latest <= after:
            return latest, []
        return await self._read_far(self._far.mail, worker, after)

    async def next_wake(self, agents: Sequence[str], *, after: int = 0) -> int:
        return self._near.next_wake(agents, after)

    async def changed(self, timeout_s: float, *, ready: bool = False) -> None:
        told = asyncio.Event()
        self._waiting[ready].add(told)
        try:
            if not self._news[ready]:
                with suppress(TimeoutError):
                    async with asyncio.timeout(timeout_s):
                        await self._watch(told)
        finally:
            self._waiting[ready].discard(told)
        self._news[ready] = False

    @asynccontextmanager
    async def snapshot(self, *, now: int) -> AsyncIterator[SqliteSnapshot]:
        queries = Queries(connect(self._path, read_only=True), self._path, self._presence)
        try:
            queries.hold()
            yield SqliteSnapshot(queries, self._read_far, now=now)
        finally:
            queries.close()

    async def receive(self, part: Part) -> None:
        changes, writer = self._writing()
        await writer.put(changes.receive, part, long=True, readies=part.last)

    async def subject(self, subject: str) -> Subject | None:
        return self._near.subject(subject)

    async def subjects(self, *, after: str = "", limit: int) -> list[Subject]:
        return await self._read_far(self._far.subjects, after, limit)

    async def add_subject(self, subject: Subject) -> Subject:
        changes, writer = self._writing()
        kept: Subject = await writer.put(changes.subjects.add, subject, readies=False)
        return kept

    async def erase(self, subject: str, told: NewRun) -> Erasure:
        changes, writer = self._writing()
        try:
            erasure: Erasure = await writer.put(changes.erase, subject, told, alone=True)
        except SubjectErased as error:
            error.facts["scrubbed"] = await writer.put(scrub, alone=True, bare=True)
            raise
        return replace(erasure, scrubbed=await writer.put(scrub, alone=True, bare=True))

    async def ended(self, *, before: int, after: str = "", limit: int) -> list[Ended]:
        return await self._read_far(ended, self._far.all, before, after, limit)

    async def collect(self, runs: Sequence[str], told: str) -> None:
        changes, writer = self._writing()
        await writer.put(changes.collect, runs, told, alone=True, readies=False)

    async def sweep(self) -> Swept:
        changes, writer = self._writing()
        sweep, chunks, size = Sweep(), 0, 0
        while await self._read_far(sweep.mark, self._far.all):
            pass
        while (swept := await writer.put(changes.sweep, sweep, alone=True)) is not None:
            chunks, size = chunks + swept.chunks, size + swept.bytes
        return Swept(chunks, size)

    async def close(self) -> None:
        if self._reader:
            self._reader.shutdown()
        self._near.close()
        self._far.close()
        if self._writer:
            await self._writer.close()
        self._presence.close()

    def _writing(self) -> tuple[Changes, Writer]:
        if self._changes is None or self._writer is None:
            raise UsageError(f"{self._path}: the store was opened to read only.")
        return self._changes, self._writer

    def _signing(self) -> tuple[Sealing, Writer]:
        _, writer = self._writing()
        assert self._sealing is not None
        return self._sealing, writer

    async def _read_far(self, query: Callable[..., T], *arguments: Any) -> T:
        if self._reader is None:
            return query(*arguments)
        return await asyncio.get_running_loop().run_in_executor(self._reader, query, *arguments)

    async def _watch(self, told: asyncio.Event) -> None:
        """Return once somebody has committed, another process included."""
        while not told.is_set():
            self._look()
            with suppress(TimeoutError):
                async with asyncio.timeout(POLL_S):
                    await told.wait()

    def _look(self) -> None:
        """Notice that another connection has committed."""
        with suppress(StoreError):
            version = self._near.version()
            if version != self._version:
                self._version = version
                self._tell(ready=True)

    def _written(self, ready: bool) -> None:  # noqa: FBT001 - what the writer calls
        """Tell of a commit of ours, which looks like another's to the connections that read.

        Another's that came just before it goes unnoticed, as a hint may; there is a poll behind it.
        """
        with suppress(StoreError):
            self._version = self._near.version()
        self._tell(ready=ready)

    def _tell(self, *, ready: bool) -> None:
        for kind in (False, True)[: 1 + ready]:
            self._news[kind] = True
            for told in self._waiting[kind]:
                told.set()


def _are_long(events: Sequence[Event], messages: Sequence[Message]) -> bool:
    """Tell whether payloads are so large that storing them would hold up the loop."""
    bytes_total = 0
    for event in events:
        if event.payload is not None:
            bytes_total += len(event.payload)
    for message in messages:
        bytes_total += len(message.payload)
    return bytes_total >= LONG_BYTES
