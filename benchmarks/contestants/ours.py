"""holdfast, with everything on that a user gets by default: leaf chain, output commit, full sync.

The time of ``steps`` runs from the first start to the last run's end being durable, in one process
with one worker; ``work_s`` leaves the starts out, as the floor has none. What the runs returned is
read back from the store afterwards.
"""

import asyncio
import gc
import time
from pathlib import Path
from typing import Any

from job import RESULT, Job, Meter, digest, say, stop_here

import holdfast as hf

LEASE_S = 1.0
"""What a lease lasts in ``recover``; on PostgreSQL a dead worker's runs wait that long."""
TIMES: list[float] = []
"""When each step's body began, in a job of one run."""
PEAK_KB = 0
"""What the process needed before it opened the store, at most."""
STOP_AT = 0
"""The number of the step in whose body the process is killed."""


def _peak_kb() -> int:
    """Return the most this program had in memory; rusage would count its parent's before exec."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) for line in lines if line.startswith("VmHWM")), 0)


def _begun(n: int) -> None:
    if JOB.runs == 1:
        TIMES.append(time.perf_counter())
    if STOP_AT and n == STOP_AT:
        stop_here({"steps": n, "grown_mb": (_peak_kb() - PEAK_KB) / 1024})


@hf.step(effect="idempotent")
async def effect(n: int) -> dict[str, str]:
    """An effect: its intent is durable before it begins."""
    _begun(n)
    return RESULT


@hf.step
async def read(n: int) -> dict[str, str]:
    """A read: it rides along."""
    _begun(n)
    return RESULT


@hf.agent
async def effects(steps: int) -> int:
    """Make effects one after the other and count the right results."""
    return sum([await effect(n) == RESULT for n in range(steps)])


@hf.agent
async def reads(steps: int) -> int:
    """Make reads one after the other and count the right results."""
    return sum([await read(n) == RESULT for n in range(steps)])


async def _steps(app: hf.App, agent: Any) -> dict[str, Any]:
    path = None if JOB.postgres else JOB.directory / "ours.db"
    await app.run(agent, 1, id="first")  # what is imported on first use
    TIMES.clear()
    whole = Meter(JOB, others=(JOB.server_pid,) if JOB.server_pid else (), path=path)
    await asyncio.gather(*(app.client.start(agent, JOB.steps, id=f"r{n}") for n in range(JOB.runs)))
    worker = app.worker(hf.WorkerSettings(runs_max=max(JOB.runs, 100)))
    gc.collect()
    work = Meter(JOB, others=whole.others, path=path, step_times=TIMES)
    await worker.run(until_idle=True)
    answer, total = work.stop([]), whole.stop([])
    results = [await app.client.result(f"r{n}") for n in range(JOB.runs)]
    return {
        **answer,
        "work_s": answer["seconds"],
        "seconds": total["seconds"],
        "cpu_s": total["cpu_s"],
        "work_cpu_s": answer["cpu_s"],
        "digest": digest(results),
    }


async def _ones(app: hf.App, agent: Any) -> dict[str, Any]:
    taken = []
    async with app.working():
        for n in range(JOB.ones):
            begun = time.perf_counter()
            run = await app.client.start(agent, 1, id=f"one{n}")
            assert await app.client.result(run) == 1
            taken.append((time.perf_counter() - begun) * 1000)
    return {"ms": taken}


async def _recover(app: hf.App, agent: Any) -> dict[str, Any]:
    """Carry on the run ``recovered`` up to the body of the step after those that it has."""
    run = await app.client.start(agent, JOB.steps + 1, id="recovered")
    settings = hf.WorkerSettings(lease_s=LEASE_S, poll_s=LEASE_S / 3, only_run=run)
    await app.worker(settings).run()
    raise AssertionError("the process was to be killed in the last step's body")


async def _main() -> None:
    agent = {"read": reads, "idempotent": effects}[JOB.effect]
    store = JOB.postgres or JOB.directory / "ours.db"
    async with hf.App(store, agents=[agent]) as app:
        if JOB.work != "steps":
            await _recover(app, agent)
        answer = await _steps(app, agent)
        say(answer | (await _ones(app, agent) if JOB.ones else {}))


if __name__ == "__main__":
    JOB = Job.given()
    PEAK_KB = _peak_kb()
    STOP_AT = JOB.steps if JOB.work in ("record", "recover") else 0
    asyncio.run(_main())
