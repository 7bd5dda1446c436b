"""How close to the disk? ``make bench-quick``: holdfast beside the floor, in one sitting.

Question: how many steps a second, at what CPU, does holdfast make, as a share of what a bare loop
makes on the same disk with the same bytes; how fast does it replay; how long does it take to start?
Method: every workload is measured in turn with its floor, several rounds interleaved, so that a
noisy machine hits all alike; medians and spread. Results are 500-byte JSON. The guarantees are the
default ones: WAL, synchronous=FULL, output commit, leaf chain.

    python benchmarks/quick.py [--rounds N] [--small] [--json]
"""

import argparse
import asyncio
import gc
import hashlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import apsw
from floor import floor

import holdfast as hf
from holdfast.core.machine import Machine
from holdfast.core.replay import feed_all, plan
from holdfast.core.specs import agent_spec

RESULT = {"data": "".join(hashlib.sha256(b"%d" % i).hexdigest() for i in range(8))[:489]}
assert len(json.dumps(RESULT, separators=(",", ":"))) == 500  # what the workloads promise


@hf.step(effect="idempotent")
async def effect(n: int) -> dict[str, str]:
    """An effect: its intent is durable before it begins."""
    return RESULT


@hf.step
async def read(n: int) -> dict[str, str]:
    """A read: it rides along."""
    return RESULT


@hf.agent
async def effects(steps: int) -> int:
    """Make steps one after the other."""
    for n in range(steps):
        await effect(n)
    return steps


@hf.agent
async def reads(steps: int) -> int:
    """Make reads one after the other."""
    for n in range(steps):
        await read(n)
    return steps


async def _work(path: Path, agent: Any, runs: int, steps: int) -> dict[str, float]:
    async with hf.App(path, agents=[agent]) as app:
        names = [await app.client.start(agent, steps, id=f"r{n}") for n in range(runs)]
        worker = app.worker(hf.WorkerSettings(runs_max=max(runs, 100)))
        gc.collect()
        begun, cpu = time.perf_counter(), time.process_time()
        await worker.run(until_idle=True)
        seconds, cpu_s = time.perf_counter() - begun, time.process_time() - cpu
        for name in names:
            assert await app.client.result(name) == steps
    size = sum(file.stat().st_size for file in path.parent.glob(f"{path.name}*"))
    return {"seconds": seconds, "cpu_s": cpu_s, "bytes": size}


async def _replay(path: Path, agent: Any) -> float:
    """Feed a recorded run to its code; returns µs a step, reading the stream included."""
    async with hf.App(path, agents=[agent]) as app:
        begun = time.perf_counter()
        events = await app.store.read("r0")
        recorded = plan(events[1:])
        machine = Machine(agent_spec(agent), run="r0", seed=1, input=events[0].payload or b"")
        feed_all(machine, recorded.feed)
        seconds = time.perf_counter() - begun
        assert machine.ended
        machine.close()
        return seconds / json.loads(events[0].payload or b"0") * 1e6


def _start_ms(*arguments: str) -> float:
    """Return what a Python process takes beyond a bare one, in ms."""

    def median(*command: str) -> float:
        times = []
        for _ in range(7):
            begun = time.perf_counter()
            subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL)
            times.append(time.perf_counter() - begun)
        return statistics.median(times)

    return (median(*arguments) - median("-c", "pass")) * 1000


def _measure(directory: Path, rounds: int, *, small: bool) -> list[dict[str, Any]]:
    shapes = [
        ("effects", effects, 200, 20),
        ("effects", effects, 1, 1000),
        ("reads", reads, 1, 1000),
    ]
    if small:
        shapes = [
            (name, agent, min(runs, 5), min(steps, 10)) for name, agent, runs, steps in shapes
        ]
    taken: dict[tuple[str, int, int], list[tuple[dict[str, float], dict[str, float]]]] = {}
    replays = []
    result = json.dumps(RESULT, separators=(",", ":")).encode()
    for number in range(rounds):
        for name, agent, runs, steps in shapes:
            place = directory / f"{number}-{name}-{runs}"
            place.mkdir()
            bare = floor(place / "floor.db", runs, steps, result)
            ours = asyncio.run(_work(place / "ours.db", agent, runs, steps))
            taken.setdefault((name, runs, steps), []).append((bare, ours))
            if runs == 1:
                replays.append(asyncio.run(_replay(place / "ours.db", agent)))
    rows = []
    for (name, runs, steps), pairs in taken.items():
        count = runs * steps
        rates = [count / ours["seconds"] for _, ours in pairs]
        rows.append(
            {
                "workload": f"{name} {runs} x {steps}",
                "floor steps/s": round(statistics.median(count / f["seconds"] for f, _ in pairs)),
                "steps/s": round(statistics.median(rates)),
                "spread": f"{round(min(rates))}-{round(max(rates))}",
                "of the floor": round(
                    statistics.median(f["seconds"] / o["seconds"] for f, o in pairs), 2
                ),
                "CPU µs/step": round(statistics.median(o["cpu_s"] / count * 1e6 for _, o in pairs)),
                "bytes/step": round(statistics.median(o["bytes"] / count for _, o in pairs)),
            }
        )
    rows.append({"workload": "replay", "µs/step": round(statistics.median(replays), 1)})
    return rows


def _machine() -> dict[str, Any]:
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        model = names[0].partition(": ")[2] if names else model
    return {
        "machine": f"{os.cpu_count()} x {model}",
        "python": platform.python_version(),
        "sqlite": apsw.sqlite_lib_version(),
        "holdfast": hf.__version__,
        "synchronous": "FULL",
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--small", action="store_true", help="tiny sizes: does it run at all?")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="holdfast-bench-") as directory:
        rows = _measure(Path(directory), options.rounds, small=options.small)
    if not options.small:
        rows.append(
            {"workload": "import holdfast", "ms": round(_start_ms("-c", "import holdfast"))}
        )
        rows.append(
            {"workload": "holdfast --help", "ms": round(_start_ms("-m", "holdfast", "--help"))}
        )
    if options.json:
        print(json.dumps({**_machine(), "rows": rows}))
        return
    print(", ".join(f"{name}: {value}" for name, value in _machine().items()))
    for row in rows:
        print("  ".join(f"{name}: {value}" for name, value in row.items()))


if __name__ == "__main__":
    main()
