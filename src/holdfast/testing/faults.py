"""A store that goes wrong: wraps any other and lets a process die around each of its operations.

Every operation has a point before it and one after it, where the simulation may kill the process,
stop it or drain its worker; a ``transactional`` body has them inside the transaction too. Besides,
an operation may be slow, and it may fail with ``StoreUnavailable`` before it took effect or, which
is worse, after: the caller does not know whether it was written.

Invariant: changes of one run take effect, and are answered, in the order of the calls, as the
contract of ``Store`` says; a dead process changes nothing.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from typing import Any, NamedTuple, Protocol, TypeVar

from holdfast.core.events import Event
from holdfast.core.state import RunRow
from holdfast.errors import StoreUnavailable
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
    Snapshot,
    Store,
    Transaction,
    WorkerInfo,
)
from holdfast.retention import Ended, Swept
from holdfast.subjects import Erasure, Subject

__all__ = ["FaultyStore", "Host", "Trouble"]

T = TypeVar("T")

CLIENT_POLL_S = 10.0
"""Clients look again after so long at least: what they do meanwhile is of no interest here."""


class Trouble(NamedTuple):
    """What goes wrong with one operation. Times are in seconds."""

    before_s: float = 0.0
    """How long the operation is under way before it takes effect."""
    after_s: float = 0.0
    """How long the answer takes."""
    unavailable: str = ""
    """``before`` or ``after`` it took effect, or empty."""


class Host(Protocol):
    """The process that an operation belongs to."""

    def point(self, label: str) -> None:
        """Come to a place where the process may die, be stopped or be drained."""
        ...

    def trouble(self, label: str) -> Trouble:
        """Decide what goes wrong with the next operation."""
        ...

    def wrote(self, what: Append | NewRun | Message | Claim) -> None:
        """Take note of what has taken effect."""
        ...

    def gave_back(self) -> None:
        """Take note that the worker gave back its leases."""
        ...

    def leased(self) -> None:
        """Take note that a lease was taken or extended, if only the worker's own."""
        ...

    def found_nothing(self) -> None:
        """Take note that no run is ready."""
        ...


class FaultyStore:
    """One process's view of a store.

    Args:
        inner: The store; its calls must be done at once (``MemoryStore``, or SQLite ``inline``).
        host: The process.
    """

    def __init__(self, inner: Store, host: Host) -> None:
        self.inner = inner
        self.url = inner.url
        self.signed = inner.signed
        self._host = host
        self._turns: dict[str, asyncio.Lock] = {}
        self._news = {False: False, True: False}
        self._waiting: dict[asyncio.Event, None] = {}  # a set has no order

    def tell(self) -> None:
        """Hint that something has changed."""
        self._news = {False: True, True: True}
        for told in self._waiting:
            told.set()

    async def create(self, new: NewRun, deliver: Sequence[Message] = ()) -> bool:
        async def create() -> bool:
            created = await self.inner.create(new, deliver)
            if created:
                self._host.wrote(new)
            for message in deliver:
                self._host.wrote(message)
            return created

        return await self._do(f"create {new.row.run}", create)

    def append(self, change: Append) -> Awaitable[None]:
        async def append() -> None:
            await self.inner.append(change)
            self._host.wrote(change)

        return self._in_turn(change.run, lambda: self._do(f"append {_text(change)}", append))

    async def transact(
        self, run: str, epoch: int, expected_seq: int, body: Callable[[Transaction], Append]
    ) -> None:
        written: list[Append] = []

        def in_transaction(transaction: Transaction) -> Append:
            self._host.point(f"before the body of a transaction of {run}")
            change = body(transaction)
            self._host.point(f"behind the body of a transaction of {run}")
            written.append(change)
            return change

        async def transact() -> None:
            await self.inner.transact(run, epoch, expected_seq, in_transaction)
            self._host.wrote(written[0])

        label = f"transact {run}@{expected_seq}"
        # Shielded: a caller that stops waiting takes nothing back.
        await asyncio.shield(self._in_turn(run, lambda: self._do(label, transact)))

    async def deliver(self, messages: Sequence[Message]) -> list[bool]:
        async def deliver() -> list[bool]:
            arrived = await self.inner.deliver(messages)
            for message in messages:
                self._host.wrote(message)
            return arrived

        ids = ", ".join(f"{message.id} to {message.to}" for message in messages)
        return await self._do(f"deliver {ids}", deliver)

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
        async def claim() -> list[Claim]:
            claims = await self.inner.claim(
                worker,
                now=now,
                lease_us=lease_us,
                agents=agents,
                limit=limit,
                run=run,
                family=family,
            )
            self._host.leased()
            for claimed in claims:
                self._host.wrote(claimed)
            if not claims:
                self._host.found_nothing()
            return claims

        return await self._do("claim", claim)

    async def pause(self, pause: Pause) -> bool:
        return await self._do(f"pause {pause.name}", lambda: self.inner.pause(pause))

    async def resume(self, kind: str, name: str) -> bool:
        return await self._do(f"resume {name}", lambda: self.inner.resume(kind, name))

    async def pauses(self) -> list[Pause]:
        return await self.inner.pauses()  # asked all the time, and nothing rests on the answer

    async def rest(self, provider: str, *, now: int, rest_us: int) -> None:
        what = f"rest {provider}"
        await self._do(what, lambda: self.inner.rest(provider, now=now, rest_us=rest_us))

    async def rests(self, *, now: int) -> list[Rest]:
        return await self._do("rests", lambda: self.inner.rests(now=now))

    async def probe(self, provider: str, *, now: int, rest_us: int) -> bool:
        what = f"probe {provider}"
        return await self._do(what, lambda: self.inner.probe(provider, now=now, rest_us=rest_us))

    async def limit(self, limits: QueueLimits) -> None:
        await self._do(f"limit {limits.queue}", lambda: self.inner.limit(limits))

    async def queues(self, *, now: int) -> list[QueueInfo]:
        return await self._do("queues", lambda: self.inner.queues(now=now))

    async def register(self, worker: str, *, about: str, now: int, lease_us: int) -> None:
        async def register() -> None:
            await self.inner.register(worker, about=about, now=now, lease_us=lease_us)
            self._host.leased()

        await self._do("register", register)

    async def workers(self, *, now: int) -> list[WorkerInfo]:
        return await self._do("workers", lambda: self.inner.workers(now=now))

    async def renew(self, worker: str, *, now: int, lease_us: int) -> bool:
        async def renew() -> bool:
            kept = await self.inner.renew(worker, now=now, lease_us=lease_us)
            self._host.leased()
            return kept

        return await self._do("renew", renew)

    async def release(self, worker: str) -> None:
        async def release() -> None:
            await self.inner.release(worker)
            self._host.gave_back()

        await self._do("release", release)

    async def read(
        self, run: str, *, after: int = 0, until: int = 0, limit: int = 0
    ) -> list[Event]:
        return await self._do(
            f"read {run}", lambda: self.inner.read(run, after=after, until=until, limit=limit)
        )

    async def read_log(self, after: int, *, limit: int) -> list[tuple[int, Event]]:
        return await self._do("read_log", lambda: self.inner.read_log(after, limit=limit))

    async def unread(self, run: str, *, after: int = 0) -> list[InboxMessage]:
        return await self._do(f"unread {run}", lambda: self.inner.unread(run, after=after))

    async def row(self, run: str) -> RunRow | None:
        return await self._do(f"row {run}", lambda: self.inner.row(run))

    async def rows(self, **chosen: Any) -> list[RunRow]:
        return await self._do("rows", lambda: self.inner.rows(**chosen))

    async def ready(self, agents: Sequence[str], *, now: int) -> bool:
        ready = await self._do("ready", lambda: self.inner.ready(agents, now=now))
        if not ready:
            self._host.found_nothing()
        return ready

    async def held(self, worker: str) -> list[Claim]:
        return await self._do("held", lambda: self.inner.held(worker))

    async def mail(self, worker: str, *, after: int) -> tuple[int, list[InboxMessage]]:
        return await self._do("mail", lambda: self.inner.mail(worker, after=after))

    async def next_wake(self, agents: Sequence[str], *, after: int = 0) -> int:
        return await self._do("next_wake", lambda: self.inner.next_wake(agents, after=after))

    def snapshot(self, *, now: int) -> AbstractAsyncContextManager[Snapshot]:
        return self.inner.snapshot(now=now)

    async def receive(self, part: Part) -> None:
        label = f"receive {part.run}@{part.expected_seq}"
        await self._do(label, lambda: self.inner.receive(part))

    async def subject(self, subject: str) -> Subject | None:
        return await self._do(f"subject {subject}", lambda: self.inner.subject(subject))

    async def subjects(self, *, after: str = "", limit: int) -> list[Subject]:
        return await self._do("subjects", lambda: self.inner.subjects(after=after, limit=limit))

    async def add_subject(self, subject: Subject) -> Subject:
        label = f"add_subject {subject.id}"
        return await self._do(label, lambda: self.inner.add_subject(subject))

    async def erase(self, subject: str, told: NewRun) -> Erasure:
        return await self._do(f"erase {subject}", lambda: self.inner.erase(subject, told))

    async def ended(self, *, before: int, after: str = "", limit: int) -> list[Ended]:
        old = self.inner.ended
        return await self._do("ended", lambda: old(before=before, after=after, limit=limit))

    async def collect(self, runs: Sequence[str], told: str) -> None:
        await self._do(f"collect {', '.join(runs)}", lambda: self.inner.collect(runs, told))

    async def sweep(self) -> Swept:
        return await self._do("sweep", self.inner.sweep)

    async def changed(self, timeout_s: float, *, ready: bool = False) -> None:
        if not ready:
            timeout_s = max(timeout_s, CLIENT_POLL_S)
        if not self._news[ready]:
            told = asyncio.Event()
            self._waiting[told] = None
            try:
                with suppress(TimeoutError):
                    async with asyncio.timeout(timeout_s):
                        await told.wait()
            finally:
                del self._waiting[told]
        self._news[ready] = False

    async def close(self) -> None:
        """Leave the store to the simulation, which closes it when the process has ended."""

    async def _do(self, label: str, operation: Callable[[], Awaitable[T]]) -> T:
        """Carry out one operation, and whatever goes wrong with it."""
        self._host.point(f"before {label}")
        trouble = self._host.trouble(label)
        if trouble.before_s:
            await asyncio.sleep(trouble.before_s)
        if trouble.unavailable == "before":
            raise StoreUnavailable(f"nothing was written: {label}")
        value = await operation()
        if trouble.after_s:
            await asyncio.sleep(trouble.after_s)
        if trouble.unavailable == "after":
            raise StoreUnavailable(f"nobody knows whether this was written: {label}")
        self._host.point(f"behind {label}")
        return value

    def _in_turn(
        self, run: str, operation: Callable[[], Coroutine[Any, Any, T]]
    ) -> "asyncio.Task[T]":
        """Begin an operation once those asked for before it on this run are answered."""
        turn = self._turns.setdefault(run, asyncio.Lock())

        async def wait_and_do() -> T:
            async with turn:
                return await operation()

        return asyncio.get_running_loop().create_task(wait_and_do())


def _text(change: Append) -> str:
    kinds = ", ".join(event.body.type for event in change.events)
    return f"{change.run}@{change.expected_seq}: {kinds}{' and release' if change.release else ''}"
