"""Absurd: tasks of steps on PostgreSQL, by its own SDK and its own schema (``absurdctl init``).

One async client spawns, one async worker works, as the SDK's page shows. A claim is good for two
minutes unless told otherwise, and a killed worker's task waits that long: ``recover`` has it last
``CLAIM_S``, extended by every step.
"""

import asyncio
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psycopg
from absurd_sdk import AsyncAbsurd
from job import RESULT, Job, Meter, say, stop_here

TIMES: list[float] = []
CLAIM_S = 1


async def effect(n: int) -> dict[str, str]:
    """Return the result."""
    if JOB.runs == 1:
        TIMES.append(time.perf_counter())
    if JOB.work in ("record", "recover") and n == JOB.steps:
        stop_here({"steps": n})
    return RESULT


async def effects(params: Any, ctx: Any) -> int:
    """Make steps one after the other and count the right results."""
    right = 0
    for n in range(params["steps"]):

        async def body(n: int = n) -> dict[str, str]:
            return await effect(n)

        right += await ctx.step("effect", body) == RESULT
    return right


def _client() -> AsyncAbsurd:
    client = AsyncAbsurd(JOB.postgres)
    client.register_task("effects")(effects)
    return client


async def _spawned(client: AsyncAbsurd, steps: int) -> str:
    spawned = await client.spawn("effects", {"steps": steps}, max_attempts=100)
    return spawned["task_id"]


async def _ended(client: AsyncAbsurd, task: str) -> int:
    snapshot = await client.await_task_result(task)
    return snapshot.result


def _prepare() -> None:
    """Make the schema and the queue, unless there."""
    with psycopg.connect(JOB.postgres) as connection:
        query = "SELECT 1 FROM information_schema.schemata WHERE schema_name = 'absurd'"
        if connection.execute(query).fetchall():
            return
    control = Path(sys.executable).with_name("absurdctl")
    for words in (["init"], ["create-queue", "default"]):
        subprocess.run(
            [control, *words[:1], "-d", JOB.postgres, *words[1:]],
            check=True,
            stdout=subprocess.DEVNULL,
        )


async def _main() -> None:
    _prepare()
    client, worker = _client(), _client()
    if JOB.work == "record":
        await _spawned(client, JOB.steps + 1)
    claim_s = CLAIM_S if JOB.work in ("record", "recover") else 120
    working = asyncio.create_task(
        worker.start_worker(concurrency=max(JOB.runs, 10), claim_timeout=claim_s)
    )
    match JOB.work:
        case "steps":
            await _ended(client, await _spawned(client, 1))  # what is prepared on first use
            TIMES.clear()
            others = (JOB.server_pid,) if JOB.server_pid else ()
            meter = Meter(JOB, others=others, step_times=TIMES)
            tasks = [await _spawned(client, JOB.steps) for _ in range(JOB.runs)]
            answer = meter.stop([await _ended(client, task) for task in tasks])
            for _ in range(JOB.ones):
                begun = time.perf_counter()
                assert await _ended(client, await _spawned(client, 1)) == 1
                answer.setdefault("ms", []).append((time.perf_counter() - begun) * 1000)
            say(answer)
        case _:
            await working
    worker.stop_worker()
    await working
    await client.close()
    await worker.close()


if __name__ == "__main__":
    JOB = Job.given()
    asyncio.run(_main())
