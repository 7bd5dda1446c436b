"""Group commit: one sync makes many runs' changes durable.

Callers put jobs into a queue and get answers to await. All that has queued up runs inside one
transaction, is committed once and answered at once; what is put meanwhile is the next batch. So the
busier the store, the fewer syncs each change needs, and nobody waits for a timer.

Two threads take part. Small jobs run in the loop's own thread, where they cost microseconds; the
commit, which waits for the disk, runs in the writer's. So the loop never waits for a sync, and the
threads do not fight for the interpreter. What may take long runs in the writer's thread as a whole:
a job that says so (``long``), one that wants a transaction of its own (``alone``), a batch that
finds the file locked, and the second try of one that failed. The connection is the thread's from
the moment a batch is handed over until ``_go_on``.

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
from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any

import apsw

from holdfast.errors import HoldfastError, StoreError, StoreUnavailable
from holdfast.stores.sqlite.file import BUSY_TIMEOUT_MS, meaning

__all__ = ["Answer", "Writer"]

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


class Answer:
    """What a job will come to; to be awaited, or asked for once its callback is called.

    A future would schedule its callbacks one by one; here all answers of a commit are given in one
    callback of the loop.
    """

    __slots__ = ("_callbacks", "_come", "_done")

    def __init__(self) -> None:
        self._done = False
        self._come: Any = None
        """The value, or the error."""
        self._callbacks: tuple[Callable[[Answer], object], ...] = ()

    def done(self) -> bool:
        return self._done

    def add_done_callback(self, callback: Callable[["Answer"], object]) -> None:
        """Have a callback called, in the loop; later if the answer is there already."""
        if self._done:
            asyncio.get_running_loop().call_soon(callback, self)
        else:
            self._callbacks += (callback,)

    def exception(self) -> BaseException | None:
        return self._come if isinstance(self._come, BaseException) else None

    def give(self, come: Any) -> None:
        """Give the answer, in the loop."""
        self._come = come
        self._done = True
        for callback in self._callbacks:
            callback(self)

    def __await__(self) -> Generator[Any, None, Any]:
        if not self._done:
            waiter = asyncio.get_running_loop().create_future()
            self.add_done_callback(lambda _: None if waiter.done() else waiter.set_result(None))
            yield from waiter
        if isinstance(self._come, BaseException):
            raise self._come
        return self._come


@dataclass(slots=True)
class _Job:
    operation: Callable[..., Any]
    arguments: tuple[Any, ...]
    answer: Answer
    alone: bool
    """It wants a transaction of its own, undone when it raises anything at all."""
    long: bool
    """It may take milliseconds."""
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
        finish: Callable[[], None],
        undone: Callable[[], None],
        written: Callable[[bool], None],
    ) -> None:
        """Begin to write.

        Args:
            connection: Nobody else may use it from now on.
            path: The file, for messages.
            inline: Run jobs on the caller's thread, at once.
            finish: Called before each commit: writes what the jobs have left to the end.
            undone: Called after a transaction was undone.
            written: Called in the loop after a commit, with whether it may make a run ready.
        """
        self._connection = connection
        self._path = path
        self._finish = finish
        self._undone = undone
        self._written = written
        self._loop = asyncio.get_running_loop()
        self._closed = False
        self._log_pages = 0
        self._others_seen: object = None
        self._others_at = -1.0
        connection.set_wal_hook(self._count_log_pages)  # in place of SQLite's own checkpoints
        self._jobs: deque[_Job] = deque()
        self._busy = False
        """Whether a batch is under way or about to begin."""
        self._batches: SimpleQueue[tuple[list[_Job], list[Any] | None] | None] = SimpleQueue()
        """For the thread: a batch to run and commit, or its answers if the commit is all."""
        self._thread = None if inline else Thread(target=self._work, name="holdfast", daemon=True)
        if self._thread:
            self._thread.start()

    def put(
        self,
        operation: Callable[..., Any],
        *arguments: Any,
        alone: bool = False,
        long: bool = False,
        readies: bool = True,
        bare: bool = False,
    ) -> Answer:
        """Have ``operation(*arguments)`` run in a transaction and return what it will come to."""
        answer = Answer()
        job = _Job(operation, arguments, answer, alone, long, readies, bare)
        if self._closed:
            answer.give(StoreUnavailable(f"{self._path}: the store is closed."))
        elif self._thread:
            self._enqueue(job)
        else:
            self._settle([job], self._commit([job]))
            self._checkpoint()
        return answer

    async def close(self) -> None:
        """Finish what was put, then close the connection."""
        if self._closed:
            return
        self._closed = True
        if self._thread:
            last = _Job(lambda: None, (), Answer(), alone=False, long=False, readies=False)
            self._enqueue(last)
            await last.answer
            self._batches.put(None)
            await self._loop.run_in_executor(None, self._thread.join)
        self._connection.close()

    # In the loop

    def _enqueue(self, job: _Job) -> None:
        self._jobs.append(job)
        if not self._busy:
            self._busy = True
            self._loop.call_soon(self._begin)  # behind all that is ready, which may put more

    def _begin(self) -> None:
        """Run what has queued up; the thread commits it, or runs it if that may take long."""
        batch = self._next_batch()
        here = not any(job.alone or job.long for job in batch)
        self._batches.put((batch, self._run_here(batch) if here else None))

    def _next_batch(self) -> list[_Job]:
        """Take the jobs up to one that wants to be alone, or that one."""
        batch = [self._jobs.popleft()]
        while self._jobs and not (batch[0].alone or self._jobs[0].alone):
            batch.append(self._jobs.popleft())
        return batch

    def _run_here(self, batch: list[_Job]) -> list[Any] | None:
        """Run jobs in a transaction that is left open, and return their answers.

        None when it cannot be done without waiting, or one of them has failed: nothing of it is
        left, and the thread is to do it over.
        """
        try:
            self._connection.set_busy_timeout(0)
            try:
                self._connection.execute("BEGIN IMMEDIATE")
            finally:
                self._connection.set_busy_timeout(BUSY_TIMEOUT_MS)
            return self._run(batch)
        except Exception:  # noqa: BLE001 - it will be raised again where it is dealt with
            self._undo()
            return None

    def _settle(self, batch: Sequence[_Job], answers: Sequence[Any]) -> None:
        """Give everybody an answer."""
        self._written(any(job.readies for job in batch))
        for job, answer in zip(batch, answers, strict=True):
            if isinstance(answer, StopIteration):  # a coroutine cannot raise it
                job.answer.give(RuntimeError(f"a body raised {answer!r}"))
                continue
            try:
                job.answer.give(answer)
            except Exception as error:  # noqa: BLE001 - the others are to be answered too
                context = {"message": "a callback of a commit failed", "exception": error}
                self._loop.call_exception_handler(context)

    def _settle_and_go_on(self, batch: Sequence[_Job], answers: Sequence[Any]) -> None:
        self._settle(batch, answers)
        self._go_on()

    def _go_on(self) -> None:
        """Begin the next batch, behind those who were just answered: they may put more."""
        if self._jobs:
            self._loop.call_soon(self._begin)
        else:
            self._busy = False

    # In the writer's thread

    def _work(self) -> None:
        """Commit until told to stop: the thread."""
        while (given := self._batches.get()) is not None:
            batch, answers = given
            answers = self._commit(batch) if answers is None else self._commit_run(batch, answers)
            rest_s = self._rest_s()
            with suppress(RuntimeError):  # the loop has gone, and whoever waited with it
                if not rest_s and self._log_pages < LOG_PAGES_MIN:
                    self._loop.call_soon_threadsafe(self._settle_and_go_on, batch, answers)
                    continue
                self._loop.call_soon_threadsafe(self._settle, batch, answers)
                self._checkpoint()
                time.sleep(rest_s)
                self._loop.call_soon_threadsafe(self._go_on)

    def _rest_s(self) -> float:
        """Return for how long to let other processes write, if there are any.

        SQLite hands its lock to no one in turn.
        """
        with suppress(apsw.Error):
            ((seen,),) = self._connection.execute("PRAGMA data_version").fetchall()
            now = time.monotonic()
            if seen != self._others_seen:
                self._others_seen = seen
                self._others_at = now
            if now - self._others_at < OTHERS_S:
                return GIVE_WAY_S
        return 0.0

    def _commit_run(self, batch: Sequence[_Job], answers: list[Any]) -> list[Any]:
        """Commit what was run in the loop; return its answers, or errors if that fails."""
        try:
            self._connection.execute("COMMIT")
        except apsw.Error as error:
            self._undo()
            return [self._failure(error) for _ in batch]
        return answers

    # In either

    def _run(self, batch: Sequence[_Job]) -> list[Any]:
        """Run jobs inside the open transaction and return an answer each: a value or an error."""
        answers: list[Any] = []
        for job in batch:
            try:
                answers.append(job.operation(*job.arguments))
            except HoldfastError as error:
                if job.alone:
                    raise
                answers.append(error)
        self._finish()
        return answers

    def _commit(self, batch: Sequence[_Job]) -> list[Any]:
        """Run jobs in one transaction and return an answer each: a value or an exception."""
        try:
            if batch[0].bare:
                return [batch[0].operation(self._connection)]
            self._connection.execute("BEGIN IMMEDIATE")
            answers = self._run(batch)
            self._connection.execute("COMMIT")
        except BaseException as error:  # noqa: BLE001 - whatever it is belongs to those who wait
            self._undo()
            if isinstance(error, apsw.Error) and not isinstance(error, _OF_THE_JOB):
                return [self._failure(error) for _ in batch]
            if len(batch) > 1:
                return [answer for job in batch for answer in self._commit([job])]
            return [error]
        return answers

    def _failure(self, error: apsw.Error) -> StoreError:
        failure = meaning(error, self._path)
        failure.__cause__ = error
        return failure

    def _count_log_pages(self, _connection: apsw.Connection, _database: str, pages: int) -> int:
        self._log_pages = pages
        return apsw.SQLITE_OK

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
