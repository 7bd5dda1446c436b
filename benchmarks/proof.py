"""What does the proof cost? Signing beside the same appends unsigned, verifying, proving one event.

Method: the same events are appended to a signed and to an unsigned file by turns, in commits of
one, of ten and of a hundred; the CPU of the whole process is compared, per event, and beside it
what the signature of one head takes, which each commit has. A log of
1,000,000 events in 1,000 runs, each with a payload, is verified in a process of its own, whose CPU
and peak memory are read; so is one of a tenth, since memory must not grow with events. Then events
drawn by a fixed seed are proved, the read-only store open.

    python benchmarks/proof.py [--rounds N] [--small]
"""

import asyncio
import json
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from harness import Figure, Place, main

from holdfast.core import events as ev
from holdfast.proof.export import proof_of
from holdfast.proof.merkle import EMPTY_ROOT
from holdfast.proof.note import Checkpoint
from holdfast.stores.sqlite import SqliteStore
from holdfast.testing.signed import KEY, Writing, begin, open_signed

__all__ = ["measure"]

EVENTS, SMALL = 1_000_000, 2_000
COMMITS = {1: 1_000, 10: 400, 100: 100}
"""Events in a commit → commits."""
PAYLOAD = b'{"order":"order-7","cents":1999,"note":"a payload of the usual size","n":12345}'
PROVED = 200
SIGNATURES = 500
VERIFY = """
import json, sys, time
from pathlib import Path
from holdfast.proof.sqlite_source import verify_file
report = verify_file(Path(sys.argv[1]))
assert report.ok, report.findings
status = Path("/proc/self/status").read_text()  # its own; ru_maxrss begins with the parent's
peak = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
print(json.dumps({"events": report.events, "CPU": time.process_time(), "MB": peak / 1024}))
"""


def measure(
    here: Place, *, rounds: int, small: bool, only: str = "", quick: bool = False
) -> dict[str, Any]:
    """Return what signing adds to an event, and what verifying and proving take."""
    added = {f"commits of {size}": Figure("µs/event") for size in COMMITS}
    signature = Figure("µs")
    for number in range(-1, rounds):  # the first round warms up and is not counted
        for size, commits in COMMITS.items():
            count = 5 if small else commits
            unsigned = asyncio.run(_append(here.new("un") / "log.db", size, count, signed=False))
            signed = asyncio.run(_append(here.new("si") / "log.db", size, count, signed=True))
            if number >= 0:
                added[f"commits of {size}"].values.append(signed - unsigned)
        signature.values.append(_signature_us())
    events = SMALL if small else EVENTS
    verified: dict[str, Any] = {}
    for count in (events // 10, events):
        path = here.new("log") / "log.db"
        asyncio.run(_fill(path, count))
        figures = {"CPU": Figure("s"), "MB": Figure("MB")}
        for _ in range(min(rounds, 3)):
            done = subprocess.run(
                [sys.executable, "-c", VERIFY, str(path)], check=True, capture_output=True
            )
            facts = json.loads(done.stdout)
            assert facts["events"] == count
            for name, figure in figures.items():
                figure.values.append(facts[name])
        verified[f"{count:,}"] = {name: figure.as_json() for name, figure in figures.items()}
    proved = Figure("ms")
    proved.values += asyncio.run(_prove(path, events, 10 if small else PROVED))
    return {
        "signing adds": {name: figure.as_json() for name, figure in added.items()},
        "a signature": signature.as_json(),
        "verifying": verified,
        "proving one event": proved.as_json(),
    }


def _signature_us() -> float:
    """Return the µs of CPU that a signature takes, made again and again."""
    text = Checkpoint(KEY.name, EVENTS, EMPTY_ROOT).text()
    begun = time.process_time()
    for _ in range(SIGNATURES):
        KEY.sign(text)
    return (time.process_time() - begun) / SIGNATURES * 1e6


async def _append(path: Path, size: int, commits: int, *, signed: bool) -> float:
    """Return the µs of CPU that an event takes, in commits of so many."""
    store = await open_signed(path, inline=False)
    if signed:
        await begin(store)
    writing = Writing(store)
    await writing.start("run")
    facts = [(ev.StreamEmitted(1), None)] * size
    changes = [writing.scripts["run"].change(*facts) for _ in range(commits)]
    begun = time.process_time()
    for change in changes:
        await store.append(change)
    taken_s = time.process_time() - begun
    await store.close()
    return taken_s / (size * commits) * 1e6


async def _fill(path: Path, count: int) -> None:
    """Write a signed log of so many events, many to a commit."""
    store = await open_signed(path)
    await begin(store)
    writing = Writing(store)
    runs = max(count // 1_000, 1)
    for n in range(runs):
        await writing.start(f"run-{n}")
    size, n = runs, 0
    while size < count:
        more = min(500, count - size)
        await writing.add(f"run-{n % runs}", *[(ev.StreamEmitted(1), PAYLOAD)] * more)
        size, n = size + more, n + 1
    await store.close()


async def _prove(path: Path, count: int, times: int) -> list[float]:
    """Return the ms that proofs of events take."""
    store = await SqliteStore.open(path, read_only=True)
    chance, taken = random.Random(7), []
    for _ in range(times):
        (event,) = await store.signed.leaves(chance.randrange(count), 1)
        begun = time.perf_counter()
        await proof_of(store.signed, event.run, event.seq)
        taken.append((time.perf_counter() - begun) * 1000)
    await store.close()
    return taken


if __name__ == "__main__":
    main(measure, __doc__.partition("\n")[0])
