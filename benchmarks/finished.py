"""What does a million finished runs cost? To look at, to claim among, to append behind.

Method: 1,000,000 runs that made one effect and succeeded are put into a store, five real events
each, through the store's own ``create``, many to a commit; such a store is kept in build/. Then
the commands ``ls``, ``show`` and ``why`` are called in this process as the command line calls them
(opening the store included, the imports not); a new run is claimed; ``ls --json`` is read line by
line from a process of its own, whose peak memory is read after some lines and after many. Appends:
100 runs x 10 effects on this store and on an empty one, by turns.

    python benchmarks/finished.py [--rounds N] [--small]
"""

import asyncio
import contextlib
import importlib
import io
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import typer
from built import build, finished_run
from contestants.job import PLAIN, RESULT
from harness import ROOT, Figure, Place, main

import holdfast as hf

__all__ = ["measure"]

COUNT, SMALL = 1_000_000, 200
KEPT = ROOT / "build" / "bench" / "finished"
LINES, SMALL_LINES = (2_000, 40_000), (10, 100)
WORK = (100, 10)
LOOKS: dict[str, tuple[str, dict[str, Any]]] = {
    "ls": ("listing:ls_command", {}),
    "show": ("show:show_command", {"run": "f{middle}x"}),
    "show, by a beginning": ("show:show_command", {"run": "f{middle}"}),
    "why": ("why:why_command", {"event": "f{middle}x@5"}),
}


BEGAN: list[float] = []
"""When bodies began."""


@hf.step(effect="idempotent")
async def effect(n: int) -> dict[str, str]:
    """An effect."""
    BEGAN.append(time.perf_counter())
    return RESULT


@hf.agent
async def effects(steps: int) -> int:
    """Make effects one after the other."""
    return sum([await effect(n) == RESULT for n in range(steps)])


def measure(
    here: Place, *, rounds: int, small: bool, only: str = "", quick: bool = False
) -> dict[str, Any]:
    """Return the figures of the large store, and of appends the ratio to an empty one."""
    count = SMALL if small else COUNT
    path, built_s = _built(here.new("finished") if small else KEPT, count)
    sitting = f"{time.time():.0f}."
    names = (*LOOKS, *(f"{name}, CPU" for name in LOOKS), "claim", "worker start")
    figures = {name: Figure("ms") for name in names}
    appended = {name: Figure("ms/step") for name in ("append", "append, empty store")}
    ratio = Figure("")
    for number in range(-1, rounds):  # the first round warms up and is not counted
        taken: dict[str, float] = {}
        for name, (where, facts) in LOOKS.items():
            taken[name], taken[f"{name}, CPU"] = _look(path, where, facts, count)
        name = f"{sitting}{number}"
        taken["claim"] = asyncio.run(_claim(path, f"new{name}"))
        taken["worker start"] = asyncio.run(_worker_start(path, f"first{name}"))
        large = asyncio.run(_append(path, name, small=small))
        empty = asyncio.run(_append(here.new("empty") / "ours.db", name, small=small))
        if number < 0:
            continue
        for name, value in taken.items():
            figures[name].values.append(value)
        appended["append"].values.append(large)
        appended["append, empty store"].values.append(empty)
        ratio.values.append(large / empty)
    return {
        "runs": count,
        "built in s": round(built_s, 1),
        "bytes": sum(file.stat().st_size for file in path.parent.glob(f"{path.name}*")),
        **{name: figure.as_json() for name, figure in (figures | appended).items()},
        "append / empty": ratio.as_json(),
        "ls --json": _stream(path, SMALL_LINES if small else LINES),
    }


def _built(directory: Path, count: int) -> tuple[Path, float]:
    """Return a store of so many finished runs, and the seconds that it took to build.

    The large one takes minutes, so it is kept for the next sitting, in build/ with all that can be
    made again; the note beside it is written when it is whole.
    """
    directory.mkdir(parents=True, exist_ok=True)
    path, note = directory / "ours.db", directory / f"built-{count}.json"
    if not note.exists():
        for old in directory.iterdir():
            old.unlink()
        begun, at = time.perf_counter(), time.time()
        runs = (
            finished_run(f"f{n}x", "effects", PLAIN.encode(), at - (count - n) / 1e3)
            for n in range(count)
        )
        asyncio.run(build(path, runs))
        note.write_text(json.dumps(time.perf_counter() - begun))
    asyncio.run(build(path, ()))  # opened for writing once, it is of today's format
    return path, json.loads(note.read_text())


def _look(path: Path, where: str, facts: dict[str, Any], count: int) -> tuple[float, float]:
    """Return the ms that a command takes, of time and of CPU."""
    module, _, name = where.partition(":")
    call = getattr(importlib.import_module(f"holdfast.cli.{module}"), name)
    options = {key: text.format(middle=count // 2) for key, text in facts.items()}
    said, trouble = io.StringIO(), io.StringIO()
    begun, cpu = time.perf_counter(), time.process_time()
    with (
        contextlib.redirect_stdout(said),
        contextlib.redirect_stderr(trouble),
        contextlib.suppress(typer.Exit),
    ):
        call(store=str(path), as_json=False, debug=False, **options)
    taken_ms = (time.perf_counter() - begun) * 1000
    cpu_ms = (time.process_time() - cpu) * 1000
    assert said.getvalue().strip(), f"{name} said nothing but {trouble.getvalue()!r}"
    return taken_ms, cpu_ms


async def _claim(path: Path, run: str) -> float:
    async with hf.App(path, agents=[effects]) as app:
        await app.client.start(effects, 1, id=run)
        now = time.time_ns() // 1000
        begun = time.perf_counter()
        claims = await app.store.claim(
            "bench", now=now, lease_us=1_000_000, agents=["agent:effects"], limit=1
        )
        taken_ms = (time.perf_counter() - begun) * 1000
        assert [claim.row.run for claim in claims] == [run]
        await app.store.release("bench")
        async with app.working():
            await app.client.result(run)
    return taken_ms


async def _worker_start(path: Path, run: str) -> float:
    """Return the ms from a worker's start to the first body of a run that waited for it."""
    async with hf.App(path, agents=[effects]) as app:
        await app.client.start(effects, 1, id=run)
        BEGAN.clear()
        begun = time.perf_counter()
        async with app.working():
            await app.client.result(run)
    return (BEGAN[0] - begun) * 1000


async def _append(path: Path, number: str, *, small: bool) -> float:
    """Return the ms a step that effects take."""
    runs, steps = (2, 2) if small else WORK
    async with hf.App(path, agents=[effects]) as app:
        names = [f"w{number}.{n}" for n in range(runs)]
        await asyncio.gather(*(app.client.start(effects, steps, id=name) for name in names))
        begun = time.perf_counter()
        async with app.working():
            results = [await app.client.result(name) for name in names]
        taken_s = time.perf_counter() - begun
        assert results == [steps] * runs
    return taken_s / (runs * steps) * 1000


def _stream(path: Path, lines: tuple[int, int]) -> dict[str, Any]:
    """Read ``ls --json`` and see when the first line comes and whether memory grows."""
    begun = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "holdfast", "ls", "--json", "--store", str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdout is not None
    facts: dict[str, Any] = {}
    for number, _ in enumerate(process.stdout, 1):
        if number == 1:
            facts["first line"] = round((time.perf_counter() - begun) * 1000, 1)
        if number in lines:
            facts[f"peak MB after {number} lines"] = _peak_mb(process.pid)
        if number == lines[-1]:
            break
    facts["lines/s"] = round(lines[-1] / (time.perf_counter() - begun))
    process.kill()
    process.wait()
    process.stdout.close()
    return facts


def _peak_mb(pid: int) -> float:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0.0
    peaks = [line for line in status.splitlines() if line.startswith("VmHWM")]
    return round(int(peaks[0].split()[1]) / 1024, 1) if peaks else 0.0


if __name__ == "__main__":
    main(measure, __doc__.partition("\n")[0])
