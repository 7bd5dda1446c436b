"""Group commit: what many runs want to write travels together, in one round trip and one commit.

Writes wait in *lanes*, one for each run: changes of one run take effect in order, and while some of
them are under way the rest of the lane waits. Each of a few connections takes the next batch from
the lanes that have something to send; what is put meanwhile is the batch after it. So the busier
the store, the fewer commits each change needs, and nobody waits for a timer.

A batch that fails is judged before anybody is told. Undone by the server: it is sent again after a
pause. No answer: it is sent again as doubtful (``batch.py``), so that those who wait hear what is
true. A mistake of one write: each is sent alone, and only the culprit fails. When the patience is
used up all are told that the store is unavailable, and whatever waits behind them in their lanes,
for it was built on them.

Invariants: a lane is in one batch at a time; an answer is given after the commit that it reports; a
caller that stops waiting changes nothing.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import psycopg

from holdfast.core.events import Event
from holdfast.errors import HoldfastError, StoreError, StoreUnavailable
from holdfast.ports import Append
from holdfast.stores.postgres.batch import Batch, Birth, Chain, Post, Write, fault
from holdfast.stores.postgres.flow import drive
from holdfast.stores.postgres.link import (
    Link,
    Unknown,
    Withdrawn,
    backoff_s,
    meaning,
)
from holdfast.stores.postgres.payloads import SWEPT, Chunks
from holdfast.stores.postgres.server import NotSent, Server

__all__ = ["Writer"]

BATCH_WRITES_MAX = 200
BATCH_BYTES_MAX = 1 << 18
"""So that a batch fits into the buffers of a socket: a process that is stopped while it sends would
leave the server waiting with locks in its hands."""
LINKS = 2
_DELIVERIES = "\0deliveries"

Alone = Callable[[], Awaitable[Any]]


@dataclass(slots=True)
class _Job:
    """Something to write: a part of a batch, or a function that does it all by itself."""

    write: Append | Birth | Post | Alone
    answer: "asyncio.Future[Any]"
    readies: bool = True


@dataclass(slots=True)
class _Lane:
    name: str
    jobs: deque[_Job] = field(default_factory=deque)


@dataclass(slots=True)
class _Load:
    """What a connection carries: for each write of a batch its lane and the jobs it is made of."""

    writes: list[Write] = field(default_factory=list)
    jobs: list[list[_Job]] = field(default_factory=list)
    lanes: list[_Lane] = field(default_factory=list)
    bytes: int = 0


class Writer:
    """Writes of a store, over connections of its own."""

    def __init__(
        self,
        server: Server,
        *,
        patience_s: float,
        written: Callable[[bool], None],
    ) -> None:
        """Begin to write.

        Args:
            server: Where to.
            patience_s: How long a write is tried.
            written: Called after a commit, with whether it may make a run ready.
        """
        self._server = server
        self._patience_s = patience_s
        self._written = written
        self._loop = asyncio.get_running_loop()
        self._free = [Link(server) for _ in range(LINKS)]
        self._links = [*self._free]
        self._chunks = Chunks()
        self._generation = server.generation
        self._waiting: dict[str, _Lane] = {}
        """Lanes with jobs that are not under way, in the order in which they began to wait."""
        self._busy: dict[str, _Lane] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._kicked = False
        self._closed = False
        self._births = 0

    def append(self, change: Append) -> "asyncio.Future[None]":
        """Have a change made."""
        readies = bool(change.release or change.create or change.deliver)
        return self._put(change.run, change, readies=readies)

    def create(self, birth: Birth) -> "asyncio.Future[bool]":
        """Have a run created."""
        self._births += 1
        return self._put(f"\0birth {self._births}", birth)

    def deliver(self, post: Post) -> "asyncio.Future[list[bool]]":
        """Have messages delivered."""
        return self._put(_DELIVERIES, post)

    def alone(self, run: str, write: Alone) -> "asyncio.Future[Any]":
        """Have a function called when it is its turn among the changes of a run."""
        return self._put(run, write)

    async def close(self) -> None:
        """Finish what was put, then close the connections."""
        self._closed = True
        while self._tasks or self._waiting:
            if self._tasks:
                await asyncio.wait(self._tasks)
            await asyncio.sleep(0)
        for link in self._links:
            await link.close()

    def _put(self, name: str, write: Any, *, readies: bool = True) -> "asyncio.Future[Any]":
        job = _Job(write, self._loop.create_future(), readies)
        job.answer.add_done_callback(lambda done: done.cancelled() or done.exception())
        if self._closed:
            job.answer.set_exception(StoreUnavailable(f"{self._server.url}: the store is closed."))
            return job.answer
        lane = self._busy.get(name) or self._waiting.setdefault(name, _Lane(name))
        lane.jobs.append(job)
        self._kick()
        return job.answer

    def _kick(self) -> None:
        if not self._kicked:
            self._kicked = True
            self._loop.call_soon(self._dispatch)  # after all that is put in this turn of the loop

    def _dispatch(self) -> None:
        self._kicked = False
        for name, lane in [*self._waiting.items()]:
            if callable(lane.jobs[0].write):
                self._begin_lane(name)
                self._spawn(self._carry_alone(lane, lane.jobs.popleft()))
        while self._free and self._waiting:
            load = self._load()
            self._spawn(self._carry(self._free.pop(), load))

    def _spawn(self, work: Any) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _begin_lane(self, name: str) -> None:
        self._busy[name] = self._waiting.pop(name)

    def _end_lane(self, lane: _Lane) -> None:
        del self._busy[lane.name]
        if lane.jobs:
            self._waiting[lane.name] = lane
        self._kick()

    def _load(self) -> _Load:
        """Take the next batch from the lanes that wait."""
        load = _Load()
        promised: set[Any] = set()
        count = 0
        for name, lane in [*self._waiting.items()]:
            if count >= BATCH_WRITES_MAX or load.bytes >= BATCH_BYTES_MAX:
                break
            first = lane.jobs[0].write
            assert not callable(first)
            promises = _promises(first)
            if promises & promised:
                continue  # the same once more waits for the next batch, and then finds it there
            jobs = [lane.jobs.popleft()]
            write: Write
            if isinstance(first, Append):
                write = Chain([first])
                while lane.jobs and _continues(write.changes[-1], lane.jobs[0].write):
                    following = lane.jobs[0].write
                    assert isinstance(following, Append)
                    more = _promises(following)
                    if more & promised or load.bytes >= BATCH_BYTES_MAX:
                        break
                    promises |= more
                    write.changes.append(following)
                    load.bytes += _weight(following)
                    jobs.append(lane.jobs.popleft())
            else:
                write = first
            promised |= promises
            load.bytes += _weight(first)
            count += len(jobs)
            load.writes.append(write)
            load.jobs.append(jobs)
            load.lanes.append(lane)
            self._begin_lane(name)
        return load

    async def _carry(self, link: Link, load: _Load) -> None:
        try:
            answers = await self._answers(link, load.writes)
        finally:
            self._free.append(link)
        readies = any(job.readies for jobs in load.jobs for job in jobs)
        for lane, jobs, answer in zip(load.lanes, load.jobs, answers, strict=True):
            told = [*jobs]
            if isinstance(answer, StoreUnavailable):
                told += lane.jobs  # built on what may not have been written
                lane.jobs.clear()
            for job in told:
                _tell(job.answer, answer)
            self._end_lane(lane)
        self._written(readies)

    async def _carry_alone(self, lane: _Lane, job: _Job) -> None:
        assert callable(job.write)
        try:
            answer = await job.write()
        except BaseException as error:  # noqa: BLE001 - whatever it is belongs to whoever waits
            answer = error
        _tell(job.answer, answer)
        self._end_lane(lane)
        self._written(job.readies)

    async def _answers(self, link: Link, writes: Sequence[Write]) -> list[Any]:
        """Send a batch until there is an answer to each of its writes."""
        deadline = self._loop.time() + self._patience_s
        attempt, doubtful = 0, False
        while True:
            batch = Batch(writes)
            if self._generation != self._server.generation:
                self._generation = self._server.generation
                self._chunks.forget()
            try:
                flow = partial(batch.flow, self._chunks, doubtful=doubtful)
                answers: list[Any] = await link.run(lambda c: drive(c, flow()))  # noqa: B023 - awaited here
            except (NotSent, Withdrawn, Unknown) as error:
                doubtful = doubtful or isinstance(error, Unknown)
                attempt += 1
                if self._closed or self._loop.time() > deadline:
                    told = Unknown(str(error)) if doubtful else error
                    return [meaning(told, self._server.url)] * len(writes)
                await asyncio.sleep(backoff_s(attempt))
            except HoldfastError as error:
                return [error] * len(writes)
            except SWEPT:
                self._chunks.forget()
            except (psycopg.Error, UnicodeEncodeError) as error:
                if len(writes) == 1:
                    return [StoreError(f"store {self._server.url}: {error}")]
                alone = [await self._answers(link, [write]) for write in writes]
                return [answer for (answer,) in alone]
            else:
                self._chunks.committed(batch.fresh)
                return answers


def _continues(last: Append, write: Any) -> bool:
    """Tell whether a write is a change that goes on where the last one ended."""
    return (
        isinstance(write, Append)
        and not last.release
        and not fault(last)
        and not fault(write)
        and write.epoch == last.epoch
        and write.expected_seq == last.row.seq
        and (write.events[0].prev if write.events else write.row.head) == last.row.head
    )


def _promises(write: Append | Birth | Post) -> set[Any]:
    """Return what no two writes of a batch may both do: messages by id, runs to create."""
    births: list[str] = []
    if isinstance(write, Append):
        births = [new.row.run for new in write.create]
    elif isinstance(write, Birth):
        births = [write.new.row.run]
    messages = write.messages if isinstance(write, Post) else write.deliver
    return {(message.to, message.id) for message in messages} | set(births)


def _weight(write: Append | Birth | Post) -> int:
    """Return about how many bytes a write takes on its way; large payloads are mostly known."""
    events: list[Event] = []
    if isinstance(write, Append):
        events = [*write.events, *(e for new in write.create for e in new.events)]
    elif isinstance(write, Birth):
        events = [*write.new.events]
    messages = write.messages if isinstance(write, Post) else write.deliver
    payloads = [event.payload or b"" for event in events] + [m.payload for m in messages]
    return 500 * (1 + len(payloads)) + sum(min(len(payload), 8_192) for payload in payloads)


def _tell(future: "asyncio.Future[Any]", answer: Any) -> None:
    if future.done():
        return
    if isinstance(answer, StopIteration):  # a future does not take it
        future.set_exception(RuntimeError(f"a body raised {answer!r}"))
    elif isinstance(answer, BaseException):
        future.set_exception(answer)
    else:
        future.set_result(answer)
