"""The floor on SQLite: what this disk and this Python can do, without a line of holdfast.

A bare loop appends the same bytes to the same kind of file (apsw, WAL, synchronous=FULL), two
events a step, and waits for the commit of each step. There are two of them: ``thread``, the floor
that ratios refer to, has one writer thread that takes all that has queued up, commits once and
answers by one call into the loop, group commit as a careful person would write it in an afternoon;
``inline`` commits on the loop's own thread whatever one pass of the loop has brought.
"""

import asyncio
import queue
import sys
import threading
import time
from pathlib import Path

import apsw
from job import PLAIN, Job, Meter, say, stop_here

LEAF = b"l" * 300
SALT = b"s" * 32
ARGS = b'{"n":1}'
INSERT = "INSERT INTO event (run, seq, leaf, salt, payload) VALUES (?, ?, ?, ?, ?)"


def _open(path: Path) -> apsw.Connection:
    connection = apsw.Connection(str(path))
    connection.execute("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL").fetchall()
    connection.execute(
        "CREATE TABLE IF NOT EXISTS event (pos INTEGER PRIMARY KEY, run INTEGER, seq INTEGER,"
        " leaf BLOB, salt BLOB, payload BLOB);"
        "CREATE UNIQUE INDEX IF NOT EXISTS event_seq ON event (run, seq)"
    ).fetchall()
    return connection


class Thread:
    """Group commit in a thread of its own."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection
        self._jobs: queue.SimpleQueue = queue.SimpleQueue()
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._write)
        self._thread.start()

    def put(self, rows: list[tuple]) -> asyncio.Future:
        """Return what is done when the rows are durable."""
        future = self._loop.create_future()
        self._jobs.put((rows, future))
        return future

    def close(self) -> None:
        """End the thread."""
        self._jobs.put(None)
        self._thread.join()

    def _write(self) -> None:
        while True:
            batch = [self._jobs.get()]
            while not self._jobs.empty():
                batch.append(self._jobs.get_nowait())
            if batch[-1] is None:
                return
            _commit(self._connection, batch)
            self._loop.call_soon_threadsafe(_answer, batch)


class Inline:
    """Group commit on the loop's own thread, once a pass of the loop."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection
        self._batch: list[tuple] = []
        self._loop = asyncio.get_running_loop()

    def put(self, rows: list[tuple]) -> asyncio.Future:
        """Return what is done when the rows are durable."""
        future = self._loop.create_future()
        if not self._batch:
            self._loop.call_soon(self._write)
        self._batch.append((rows, future))
        return future

    def close(self) -> None:
        """Nothing is open."""

    def _write(self) -> None:
        batch, self._batch = self._batch, []
        _commit(self._connection, batch)
        _answer(batch)


def _commit(connection: apsw.Connection, batch: list[tuple]) -> None:
    connection.execute("BEGIN IMMEDIATE")
    for rows, _ in batch:
        connection.executemany(INSERT, rows)
    connection.execute("COMMIT")


def _answer(batch: list[tuple]) -> None:
    for _, future in batch:
        future.set_result(None)


async def _run(writer: Thread | Inline, run: int, job: Job, times: list[float]) -> int:
    result = PLAIN.encode()
    for step in range(job.steps):
        if job.runs == 1:
            times.append(time.perf_counter())
        await writer.put(
            [(run, 2 * step, LEAF, SALT, ARGS), (run, 2 * step + 1, LEAF, SALT, result)]
        )
    return job.steps


async def _main(job: Job, kind: type[Thread] | type[Inline]) -> None:
    path = job.directory / "floor.db"
    connection = _open(path)
    if job.work == "recover":
        query = "SELECT leaf, salt, payload FROM event ORDER BY run, seq"
        read = connection.execute(query).fetchall()
        stop_here({"steps": len(read) // 2})
    writer = kind(connection)
    meter = Meter(job, path=path)
    runs = (_run(writer, run, job, meter.step_times) for run in range(job.runs))
    answer = meter.stop(await asyncio.gather(*runs))
    for run in range(job.runs, job.runs + job.ones):
        begun = time.perf_counter()
        await _run(writer, run, Job("steps", steps=1), [])
        answer.setdefault("ms", []).append((time.perf_counter() - begun) * 1000)
    if job.work == "record":
        stop_here({"steps": job.steps})
    writer.close()
    connection.close()
    say(answer)


if __name__ == "__main__":
    asyncio.run(_main(Job.given(), {"thread": Thread, "inline": Inline}[sys.argv[2]]))
