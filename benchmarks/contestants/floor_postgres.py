"""The floor on PostgreSQL: what this server and this Python can do, without a line of holdfast.

One connection (psycopg 3, pipeline mode) takes all that has queued up, sends it as one transaction
in one round trip and answers when it is committed: group commit, as on SQLite.
"""

import asyncio
import time

import psycopg
from job import PLAIN, Job, Meter, say, stop_here

LEAF = b"l" * 300
SALT = b"s" * 32
ARGS = b'{"n":1}'
TABLE = """
CREATE TABLE IF NOT EXISTS floor_event (
  pos bigserial PRIMARY KEY, run integer, seq integer, leaf bytea, salt bytea, payload bytea,
  UNIQUE (run, seq))"""
INSERT = "INSERT INTO floor_event (run, seq, leaf, salt, payload) VALUES (%s, %s, %s, %s, %s)"


class Writer:
    """Group commit on one connection."""

    def __init__(self, connection: psycopg.AsyncConnection) -> None:
        self._connection = connection
        self._jobs: asyncio.Queue = asyncio.Queue()
        self._task = asyncio.create_task(self._write())

    def put(self, rows: list[tuple]) -> asyncio.Future:
        """Return what is done when the rows are durable."""
        future = asyncio.get_running_loop().create_future()
        self._jobs.put_nowait((rows, future))
        return future

    async def close(self) -> None:
        """End the task."""
        self._jobs.put_nowait(None)
        await self._task

    async def _write(self) -> None:
        while True:
            batch = [await self._jobs.get()]
            while not self._jobs.empty():
                batch.append(self._jobs.get_nowait())
            if batch[-1] is None:
                return
            rows = [row for some, _ in batch for row in some]
            async with self._connection.pipeline(), self._connection.transaction():
                await self._connection.cursor().executemany(INSERT, rows)
            for _, future in batch:
                future.set_result(None)


async def _run(writer: Writer, run: int, job: Job, times: list[float]) -> int:
    result = PLAIN.encode()
    for step in range(job.steps):
        if job.runs == 1:
            times.append(time.perf_counter())
        await writer.put(
            [(run, 2 * step, LEAF, SALT, ARGS), (run, 2 * step + 1, LEAF, SALT, result)]
        )
    return job.steps


async def _main(job: Job) -> None:
    async with await psycopg.AsyncConnection.connect(job.postgres, autocommit=True) as connection:
        if job.work == "recover":
            query = "SELECT leaf, salt, payload FROM floor_event ORDER BY run, seq"
            read = await (await connection.execute(query)).fetchall()
            stop_here({"steps": len(read) // 2})
        await connection.execute("DROP TABLE IF EXISTS floor_event")
        await connection.execute(TABLE)
        writer = Writer(connection)
        meter = Meter(job, others=(job.server_pid,) if job.server_pid else ())
        runs = (_run(writer, run, job, meter.step_times) for run in range(job.runs))
        answer = meter.stop(await asyncio.gather(*runs))
        for run in range(job.runs, job.runs + job.ones):
            begun = time.perf_counter()
            await _run(writer, run, Job("steps", steps=1), [])
            answer.setdefault("ms", []).append((time.perf_counter() - begun) * 1000)
        if job.work == "record":
            stop_here({"steps": job.steps})
        await writer.close()
        say(answer)


if __name__ == "__main__":
    asyncio.run(_main(Job.given()))
