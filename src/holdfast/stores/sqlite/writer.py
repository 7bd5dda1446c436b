"""Group commit: one thread writes, and one sync makes many runs' changes durable.

Callers put jobs into a queue and get futures. The thread takes all that has queued up, runs every
job inside one transaction, commits once, and answers all of them by one call into the loop; what is
put meanwhile is the next batch. So the busier the store, the fewer syncs each change needs, and
nobody waits for a timer.

A job that raises an error of ours has written nothing (checks precede writes), so its neighbours go
on. Whatever else a job raises may have left half of it behind: the transaction is undone, and the
batch repeated job by job, so that only the culprit fails. An error of the disk's, or a lock that
does not come free, fails the whole batch with StoreUnavailable, and the store stays usable.

The write-ahead log is carried over into the file after the answers have gone out: nobody waits for
that, and a fault in it is no fault of the commit's.

With ``inline=True`` there is no thread: each job runs at once in a transaction of its own.

Invariants: jobs run in the order in which they were put; an answer is given after the commit that
it reports; a caller that stops waiting changes nothing.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any

import apsw

from holdfast.errors import HoldfastError, StoreError, StoreUnavailable
from holdfast.stores.sqlite.file import meaning

__all__ = ["Writer"]

LOG_PAGES_MIN = 1_000
"""How long the write-ahead log grows before it is carried over; SQLite's own choice."""

OTHERS_S = 0.1
"""For how long another process counts as writing once it has committed."""
GIVE_WAY_S = 0.002
"""How long to leave the lock to such a process; SQLite tries again for it every millisecond."""

_OF_THE_JOB = (
    apsw.BindingsError,
    apsw.ConstraintError,
    apsw.MismatchError,
    apsw.RangeError,
    apsw.SQLError,
    apsw.TooBigError,
)
"""Errors of SQLite's that a job brings upon itself; all others are the world's."""


@dataclass(slots=True)
class _Job:
    operation: Callable[..., Any]
    arguments: tuple[Any, ...]
    answer: "asyncio.Future[Any]"
    alone: bool
    """It wants a transaction of its own, undone when it raises anything at all."""
    readies: bool
    """It may make a run ready."""
    bare: bool = False
    """It wants no transaction, and the connection as its only argument; it is ``alone`` too."""


class Writer:
    """Runs jobs inside transactions on a connection that is its alone."""

    def __init__(
        self,
        connection: apsw.Connection,
        path: Path,
        *,
        inline: bool,
        seal: Callable[[], None],
        undone: Callable[[], None],
        written: Callable[[bool], None],
    ) -> None:
        """Begin to write.

        Args:
            connection: Nobody else may use it from now on.
            path: The file, for messages.
            inline: Run jobs on the caller's thread, at once.
            seal: Called in the writing thread right before each commit.
            undone: Called in the writing thread after a transaction was undone.
            written: Called in the loop after a commit, with whether it may make a run ready.
        """
        self._connection = connection
        self._path = path
        self._seal = seal
        self._undone = undone
        self._written = written
        self._loop = asyncio.get_running_loop()
        self._closed = False
        self._log_pages = 0
        self._others_seen: object = None
        self._others_at = -1.0
        connection.set_wal_hook(self._count_log_pages)  # in place of SQLite's own checkpoints
        self._queue: SimpleQueue[_Job | None] = SimpleQueue()
        self._thread = None if inline else Thread(target=self._work, name="holdfast", daemon=True)
        if self._thread:
            self._thread.start()

    def put(
        self,
        operation: Callable[..., Any],
        *arguments: Any,
        alone: bool = False,
        readies: bool = True,
        bare: bool = False,
    ) -> "asyncio.Future[Any]":
        """Have ``operation(*arguments)`` run in a transaction; the future tells what came of it."""
        answer = asyncio.get_running_loop().create_future()
        job = _Job(operation, arguments, answer, alone, readies, bare)
        if self._closed:
            job.answer.set_exception(StoreUnavailable(f"{self._path}: the store is closed."))
        elif self._thread:
            self._queue.put(job)
        else:
            self._settle([job], self._commit([job]))
            self._checkpoint()
        return job.answer

    async def close(self) -> None:
        """Finish what was put, then close the connection."""
        if self._closed:
            return
        self._closed = True
        if self._thread:
            self._queue.put(None)
            await self._loop.run_in_executor(None, self._thread.join)
        self._connection.close()

    def _work(self) -> None:
        """Write until told to stop: the thread."""
        stopped = False
        while not stopped:
            batch = [self._queue.get()]
            batch += [self._queue.get_nowait() for _ in range(self._queue.qsize())]
            stopped = None in batch  # nothing is put behind it
            group: list[_Job] = []
            for job in batch:
                if job is None or job.alone:
                    self._finish(group)
                    group = []
                if job is not None:
                    group.append(job)
                    if job.alone:
                        self._finish(group)
                        group = []
            self._finish(group)

    def _finish(self, group: list[_Job]) -> None:
        if group:
            answers = self._commit(group)
            with suppress(RuntimeError):  # the loop has gone, and whoever waited with it
                self._loop.call_soon_threadsafe(self._settle, group, answers)
            self._checkpoint()
            self._give_way()

    def _commit(self, group: Sequence[_Job]) -> list[Any]:
        """Run jobs in one transaction and return an answer each: a value or an exception."""
        answers: list[Any] = []
        try:
            if group[0].bare:
                return [group[0].operation(self._connection)]
            self._connection.execute("BEGIN IMMEDIATE")
            for job in group:
                try:
                    answers.append(job.operation(*job.arguments))
                except HoldfastError as error:
                    if job.alone:
                        raise
                    answers.append(error)
            self._seal()
            self._connection.execute("COMMIT")
        except BaseException as error:  # noqa: BLE001 - whatever it is belongs to those who wait
            self._undo()
            if isinstance(error, apsw.Error) and not isinstance(error, _OF_THE_JOB):
                return [self._failure(error) for _ in group]
            if len(group) > 1:
                return [answer for job in group for answer in self._commit([job])]
            return [error]
        return answers

    def _failure(self, error: apsw.Error) -> StoreError:
        failure = meaning(error, self._path)
        failure.__cause__ = error
        return failure

    def _count_log_pages(self, _connection: apsw.Connection, _database: str, pages: int) -> int:
        self._log_pages = pages
        return apsw.SQLITE_OK

    def _give_way(self) -> None:
        """Let other processes write, if there are any: SQLite hands its lock to no one in turn."""
        with suppress(apsw.Error):
            ((seen,),) = self._connection.execute("PRAGMA data_version").fetchall()
            now = time.monotonic()
            if seen != self._others_seen:
                self._others_seen = seen
                self._others_at = now
            if now - self._others_at < OTHERS_S:
                time.sleep(GIVE_WAY_S)

    def _checkpoint(self) -> None:
        """Carry the write-ahead log over into the file, when it has grown long enough."""
        if self._log_pages >= LOG_PAGES_MIN:
            self._log_pages = 0
            with suppress(apsw.Error):  # the log only grows longer, and the next commit tries again
                self._connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)

    def _undo(self) -> None:
        with suppress(apsw.Error):  # SQLite may have undone it already
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
        self._undone()

    def _settle(self, group: Sequence[_Job], answers: Sequence[Any]) -> None:
        """Answer those who still wait, in the loop."""
        self._written(any(job.readies for job in group))
        for job, answer in zip(group, answers, strict=True):
            if job.answer.done():
                continue
            if isinstance(answer, StopIteration):  # a future does not take it
                job.answer.set_exception(RuntimeError(f"a body raised {answer!r}"))
            elif isinstance(answer, BaseException):
                job.answer.set_exception(answer)
            else:
                job.answer.set_result(answer)
