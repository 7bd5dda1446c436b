"""What do parked runs cost? Memory, the start of a worker, and the time from due to running.

Method: 1,000 and 100,000 runs that sleep for a day are put into a store: real events, written
through the store's own ``create``, many to a commit. Among them are some that fall due while a
worker runs. A process then opens the store and starts a worker; it is timed from its own start,
the interpreter excluded, to the first body of a run that was due already; then from each wake-up's
moment to the body behind it; its resident memory is read at the end.

    python benchmarks/parked.py [--rounds N] [--small]
"""

import asyncio
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from built import build, parked_run
from harness import Figure, Place, main

import holdfast as hf

__all__ = ["measure"]

COUNTS, SMALL = (1_000, 100_000), (10, 50)
DUE, GAP_S, LEAD_S = 20, 0.1, 1.5
"""How many fall due while the worker runs, how far apart, how long after its start the first."""
DAY_S = 86_400

BODIES: dict[str, float] = {}
"""Run → when its body began (Unix time)."""


@hf.step
async def awake(name: str) -> str:
    """Note the time."""
    BODIES[name] = time.time()
    return name


@hf.agent
async def sleeper(name: str, seconds: float) -> str:
    """Sleep, then make a step."""
    await asyncio.sleep(seconds)
    return await awake(name)


async def _work(path: Path) -> dict[str, Any]:
    """Be the measured process: add what falls due, start a worker, time the wake-ups."""
    opened = time.time()
    async with hf.App(path, agents=[sleeper]) as app:
        first = f"due-{opened}"
        await app.store.create(parked_run(first, "sleeper", [first, 60.0], opened - 60.0, 60.0))
        due = {}
        for n in range(DUE):
            name, at = f"later-{opened}-{n}", opened + LEAD_S + n * GAP_S
            due[name] = at
            await app.store.create(parked_run(name, "sleeper", [name, 60.0], at - 60.0, 60.0))
        started = time.time()
        async with app.working():
            await app.client.result(first)
            for name in due:
                await app.client.result(name)
        resident_mb = _resident_mb()
    late = sorted((BODIES[name] - at) * 1000 for name, at in due.items())
    return {
        "worker start": BODIES[first] - started,
        "due to running": late[len(late) // 2],
        "due to running, worst": late[-1],
        "resident": resident_mb,
    }


def _resident_mb() -> float:
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmRSS"))


UNITS = {
    "worker start": "s",
    "due to running": "ms",
    "due to running, worst": "ms",
    "resident": "MB",
}


def measure(
    here: Place, *, rounds: int, small: bool, only: str = "", quick: bool = False
) -> dict[str, Any]:
    """Return the figures by the number of parked runs."""
    paths = {}
    for count in SMALL if small else COUNTS:
        paths[count] = here.new("parked") / "ours.db"
        now = time.time()
        runs = (
            parked_run(f"p{n}", "sleeper", [f"p{n}", DAY_S], now + n / 1e4, DAY_S)
            for n in range(count)
        )
        asyncio.run(build(paths[count], runs))
    figures = {count: {name: Figure(unit) for name, unit in UNITS.items()} for count in paths}
    for _ in range(rounds):
        for count, path in paths.items():
            command = [sys.executable, __file__, "--measured", str(path)]
            said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            for name, value in json.loads(said).items():
                figures[count][name].values.append(value)
    return {
        str(count): {name: figure.as_json() for name, figure in slot.items()}
        for count, slot in figures.items()
    }


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measured"]:
        print(json.dumps(asyncio.run(_work(Path(sys.argv[2])))))
    else:
        main(measure, __doc__.partition("\n")[0])
