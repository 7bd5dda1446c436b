"""The floor: what this disk and this Python can do, without a line of holdfast.

A bare loop appends the same bytes to the same kind of SQLite file (apsw, WAL, synchronous=FULL),
two events a step, and waits for the commit of each step. One writer thread takes all that has
queued up, commits once and answers by one call into the loop: group commit, as a careful person
would write it in an afternoon.
"""

import asyncio
import queue
import threading
import time
from pathlib import Path

import apsw

__all__ = ["floor"]

LEAF = b"l" * 300
SALT = b"s" * 32
ARGS = b'{"n":1}'


def floor(path: Path, runs: int, steps: int, result: bytes) -> dict[str, float]:
    """Append ``runs`` x ``steps`` steps to a new file.

    Returns:
        ``seconds``, ``cpu_s`` (all threads) and ``bytes`` (of the file and its log).
    """
    connection = apsw.Connection(str(path))
    connection.execute("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL").fetchall()
    connection.execute(
        "CREATE TABLE event (pos INTEGER PRIMARY KEY, run INTEGER, seq INTEGER, leaf BLOB,"
        " salt BLOB, payload BLOB); CREATE UNIQUE INDEX event_seq ON event (run, seq)"
    ).fetchall()
    jobs: queue.SimpleQueue = queue.SimpleQueue()

    def write(loop: asyncio.AbstractEventLoop) -> None:
        while True:
            batch = [jobs.get()]
            while not jobs.empty():
                batch.append(jobs.get_nowait())
            if batch[-1] is None:
                return
            connection.execute("BEGIN IMMEDIATE")
            for rows, _ in batch:
                connection.executemany(
                    "INSERT INTO event (run, seq, leaf, salt, payload) VALUES (?, ?, ?, ?, ?)", rows
                )
            connection.execute("COMMIT")
            loop.call_soon_threadsafe(_answer, [future for _, future in batch])

    async def one(run: int) -> None:
        loop = asyncio.get_running_loop()
        for step in range(steps):
            future = loop.create_future()
            rows = [
                (run, 2 * step, LEAF, SALT, ARGS),
                (run, 2 * step + 1, LEAF, SALT, result),
            ]
            jobs.put((rows, future))
            await future

    async def main() -> tuple[float, float]:
        thread = threading.Thread(target=write, args=(asyncio.get_running_loop(),))
        thread.start()
        begun, cpu = time.perf_counter(), time.process_time()
        await asyncio.gather(*(one(run) for run in range(runs)))
        seconds, cpu_s = time.perf_counter() - begun, time.process_time() - cpu
        jobs.put(None)
        thread.join()
        return seconds, cpu_s

    seconds, cpu_s = asyncio.run(main())
    size = sum(file.stat().st_size for file in path.parent.glob(f"{path.name}*"))
    connection.close()
    return {"seconds": seconds, "cpu_s": cpu_s, "bytes": size}


def _answer(futures: list[asyncio.Future]) -> None:
    for future in futures:
        future.set_result(None)
