"""What does a fleet on PostgreSQL do? Two and four workers against one, claims, an idle one's load.

Method. *Workers*: 200 runs of 20 effects with 500-byte results are started, then carried on by one,
two or four processes, each with a share of its own of one CPU, which the system's cgroups give it
(root alone may make such groups; elsewhere the answer says that they share freely). The server has
no limit. Time counts from the word to begin, when all have connected, to the end of the last. CPU
is read of the workers, and of the server with its children. *Claims*: 100,000 runs that sleep for a
day are put into a database; runs of one step are started one after the other, while a worker in
another process has nothing else to do, and the step says when it began; then claims are timed
alone. *Idle*: ten workers with nothing to do; the server counts transactions.

    python benchmarks/fleet.py [--rounds N] [--small]
"""

import asyncio
import contextlib
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from built import create_all, parked_run
from contestants.job import cpu_s, percentile, tree
from harness import Absent, Figure, Place, main
from workload import effects

import holdfast as hf

__all__ = ["measure"]

WORKERS = (1, 2, 4)
SHARE = 0.2
"""Of one CPU, for each worker: four and the server have room on two."""
RUNS, STEPS = 200, 20
PARKED, CLAIMS = 100_000, 200
IDLE, IDLE_S = 10, 20.0
DAY_S = 86_400
PERIOD_US = 20_000
GROUPS = Path("/sys/fs/cgroup")


@hf.step
async def now_s() -> float:
    """Tell when this began."""
    return time.time()


@hf.agent
async def clock(n: int) -> float:
    """Tell when a worker had this in hand."""
    return await now_s()


@hf.agent
async def sleeper(name: str, seconds: float) -> str:
    """Sleep."""
    await asyncio.sleep(seconds)
    return name


AGENTS = [effects, clock, sleeper]


async def _serve(url: str, runs_max: int, *, until_idle: bool) -> None:
    """Be a worker: connect, say so, wait for the word, work, say what it took."""
    async with hf.App(url, agents=AGENTS) as app:
        await app.store.rows(limit=1)
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        begun = time.process_time()
        await app.worker(hf.WorkerSettings(runs_max=runs_max)).run(until_idle=until_idle)
    print(json.dumps({"cpu_s": time.process_time() - begun}), flush=True)


@contextlib.contextmanager
def _workers(
    url: str, count: int, *, share: float = 0.0, until_idle: bool = False
) -> Iterator[list[subprocess.Popen[str]]]:
    """Start workers, each with its share of a CPU, and wait until they are connected."""
    command = [sys.executable, __file__, "--serve", url, str(-(-RUNS // count)), str(until_idle)]
    with contextlib.ExitStack() as groups:
        workers = [
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            for _ in range(count)
        ]
        try:
            for worker in workers:
                assert worker.stdout
                assert worker.stdout.readline() == "ready\n"
                if share:
                    groups.enter_context(_limited(worker.pid, share))
            yield workers
        finally:
            for worker in workers:
                worker.kill()
                worker.communicate()


@contextlib.contextmanager
def _limited(pid: int, share: float) -> Iterator[None]:
    """Give a process a share of one CPU, in a group of its own.

    Raises:
        OSError: this system has no such groups, or not for us.
    """
    quota = str(int(share * PERIOD_US))
    old = (GROUPS / "cpu").is_dir()
    group = GROUPS / ("cpu" if old else "") / f"holdfast-bench-{pid}"
    group.mkdir()
    try:
        if old:
            (group / "cpu.cfs_period_us").write_text(str(PERIOD_US))
            (group / "cpu.cfs_quota_us").write_text(quota)
        else:
            (group / "cpu.max").write_text(f"{quota} {PERIOD_US}")
        (group / "cgroup.procs").write_text(str(pid))
        yield
    finally:
        group.rmdir()


def _say_begin(workers: Iterable[subprocess.Popen[str]]) -> None:
    for worker in workers:
        assert worker.stdin
        worker.stdin.write("begin\n")
        worker.stdin.flush()


async def _start(url: str, runs: int, steps: int) -> None:
    async with hf.App(url, agents=AGENTS) as app:
        await asyncio.gather(*(app.client.start(effects, steps, id=f"r{n}") for n in range(runs)))


async def _results(url: str, runs: int) -> list[int]:
    async with hf.App(url, agents=AGENTS) as app:
        return [await app.client.result(f"r{n}") for n in range(runs)]


def _work(here: Place, count: int, runs: int, steps: int, share: float) -> dict[str, float]:
    """Have so many workers carry on runs; return steps/s and µs of CPU a step."""
    url, server = here.database()
    asyncio.run(_start(url, runs, steps))
    with _workers(url, count, share=share, until_idle=True) as workers:
        server_s = cpu_s(tree(server))
        begun = time.perf_counter()
        _say_begin(workers)
        said = [worker.communicate()[0] for worker in workers]
        seconds = time.perf_counter() - begun
        server_s = cpu_s(tree(server)) - server_s
    workers_s = sum(json.loads(line)["cpu_s"] for line in said)
    assert asyncio.run(_results(url, runs)) == [steps] * runs
    done = runs * steps
    return {
        "rate": done / seconds,
        "CPU, workers": workers_s / done * 1e6,
        "CPU, server": server_s / done * 1e6,
        "busy, of a worker's share": workers_s / seconds / count / (share or 1.0),
    }


WORK_UNITS = {
    "rate": "steps/s",
    "CPU, workers": "µs/step",
    "CPU, server": "µs/step",
    "busy, of a worker's share": "",
}


async def _park(url: str, count: int) -> None:
    now = time.time()
    runs = (
        parked_run(f"p{n}", "sleeper", [f"p{n}", DAY_S], now + n / 1e4, DAY_S) for n in range(count)
    )
    async with hf.App(url, agents=AGENTS) as app:
        await create_all(app.store, runs)


async def _latencies(url: str, claims: int) -> list[float]:
    """Return the ms from before a run is started to its step's begin, by a worker elsewhere."""
    taken = []
    async with hf.App(url, agents=AGENTS) as app:
        for n in range(claims + 3):  # the first have the worker import what it needs
            begun = time.time()
            run = await app.client.start(clock, n, id=f"c{n}")
            taken.append((await app.client.result(run) - begun) * 1000)
    return taken[3:]


async def _claims(url: str, claims: int) -> tuple[list[float], list[float]]:
    """Return the ms of claims that find one run, and of those that find none."""
    taken: tuple[list[float], list[float]] = [], []
    async with hf.App(url, agents=AGENTS) as app:
        for n in range(claims):
            await app.client.start(clock, n, id=f"d{n}")
            for found, slot in zip((1, 0), taken, strict=True):
                begun = time.perf_counter()
                claimed = await app.store.claim(
                    "bench", now=0, lease_us=60_000_000, agents=["agent:clock"], limit=10
                )
                slot.append((time.perf_counter() - begun) * 1000)
                assert len(claimed) == found
        await app.store.release("bench")
        await app.worker().run(until_idle=True)
    return taken


def _claimed(here: Place, parked: int, claims: int) -> dict[str, Any]:
    url, _ = here.database()
    asyncio.run(_park(url, parked))
    with _workers(url, 1) as workers:
        _say_begin(workers)
        latencies = asyncio.run(_latencies(url, claims))
    one, none = asyncio.run(_claims(url, claims))
    return {
        f"{what}, {at}": percentile(values, percent)
        for what, values in (
            ("started to running", latencies),
            ("a claim of one", one),
            ("a claim of none", none),
        )
        for at, percent in (("p50", 50), ("p99", 99))
    }


async def _idle(url: str, count: int, seconds: float) -> float:
    """Return the transactions a second that workers with nothing to do cost the server."""
    import psycopg  # noqa: PLC0415 - only where there is PostgreSQL

    query = "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = %s"
    name = url.partition("@/")[2].partition("?")[0]
    async with (
        contextlib.AsyncExitStack() as stack,
        await psycopg.AsyncConnection.connect(
            url.replace(f"/{name}?", "/postgres?"), autocommit=True
        ) as watch,
    ):
        for _ in range(count):
            app = await stack.enter_async_context(hf.App(url, agents=AGENTS))
            await stack.enter_async_context(app.working())
        await asyncio.sleep(min(3.0, seconds))

        async def counted() -> int:
            ((count,),) = await (await watch.execute(query, (name,))).fetchall()
            return int(count)

        before = await counted()
        await asyncio.sleep(seconds)
        return (await counted() - before) / seconds


def measure(
    here: Place, *, rounds: int, small: bool, only: str = "", quick: bool = False
) -> dict[str, Any]:
    """Return the figures of workers, claims and of an idle fleet, or why there are none."""
    runs, steps, parked, claims = (4, 3, 50, 3) if small else (RUNS, STEPS, PARKED, CLAIMS)
    counts, idle, idle_s = (WORKERS[:2], 2, 0.5) if small else (WORKERS, IDLE, IDLE_S)
    try:
        here.database()
    except Absent as error:
        return {"absent": {"a fleet on PostgreSQL": str(error)}}
    share, why = SHARE, ""
    try:
        with _limited(os.getpid(), 1.0):
            _leave_group()
    except OSError as error:
        share, why = 0.0, f"they share the processors freely: {error}"
    figures = {
        str(count): {name: Figure(unit) for name, unit in WORK_UNITS.items()} for count in counts
    }
    for _, count in itertools.product(range(min(rounds, 3)), counts):
        for name, value in _work(here, count, runs, steps, share).items():
            figures[str(count)][name].values.append(value)
    url, _ = here.database()
    return {
        "share": share,
        "why no share": why,
        "workers": {
            count: {name: figure.as_json() for name, figure in slot.items()}
            for count, slot in figures.items()
        },
        "parked": parked,
        "claims": _claimed(here, parked, claims),
        "idle": {"workers": idle, "transactions/s": asyncio.run(_idle(url, idle, idle_s))},
    }


def _leave_group() -> None:
    """Go back to the group of all, so that one's own can be removed."""
    top = GROUPS / ("cpu" if (GROUPS / "cpu").is_dir() else "")
    (top / "cgroup.procs").write_text(str(os.getpid()))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        asyncio.run(_serve(sys.argv[2], int(sys.argv[3]), until_idle=sys.argv[4] == "True"))
    else:
        main(measure, __doc__.partition("\n")[0])
