"""How long does a replay take? Feeding a recorded run to its code again, with no effects.

Method: one run of 2,000 effects is recorded on SQLite; then its events are read and fed to a new
machine, with the reading and without. 500-byte results.

    python benchmarks/replay.py [--rounds N] [--small]
"""

import asyncio
import gc
import time
from pathlib import Path
from typing import Any

from harness import Figure, Place, main
from workload import effects

import holdfast as hf
from holdfast.core.machine import Machine
from holdfast.core.replay import feed_all, plan
from holdfast.core.specs import agent_spec

__all__ = ["measure"]

STEPS, SMALL = 2_000, 10


def measure(
    here: Place, *, rounds: int, small: bool, only: str = "", quick: bool = False
) -> dict[str, Any]:
    """Return µs a step, of wall time and of CPU, with and without reading."""
    steps = SMALL if small else STEPS
    figures = {name: Figure("µs/step") for name in ("feeding", "reading and feeding", "CPU")}
    path = here.new("replay") / "ours.db"
    asyncio.run(_record(path, steps))
    for _ in range(rounds):
        for name, value in asyncio.run(_replay(path, steps)).items():
            figures[name].values.append(value)
    return {"steps": steps, **{name: figure.as_json() for name, figure in figures.items()}}


async def _record(path: Path, steps: int) -> None:
    async with hf.App(path, agents=[effects]) as app:
        assert await app.run(effects, steps, id="r") == steps


async def _replay(path: Path, steps: int) -> dict[str, float]:
    async with hf.App(path, agents=[effects]) as app:
        gc.collect()
        begun, cpu = time.perf_counter(), time.process_time()
        events = await app.store.read("r")
        read = time.perf_counter()
        recorded = plan(events[1:])
        machine = Machine(agent_spec(effects), run="r", seed=1, input=events[0].payload or b"")
        feed_all(machine, recorded.feed)
        ended, cpu_s = time.perf_counter(), time.process_time() - cpu
        assert machine.ended, "the run is not replayed to its end"
        machine.close()
    return {
        "feeding": (ended - read) / steps * 1e6,
        "reading and feeding": (ended - begun) / steps * 1e6,
        "CPU": cpu_s / steps * 1e6,
    }


if __name__ == "__main__":
    main(measure, __doc__.partition("\n")[0])
