"""Where does each µs of a step go? Samples of what the process does, by the part that does it.

Method: 200 runs of 20 effects on SQLite, 500-byte results. A timer that counts CPU time only
interrupts the process after every ms of it, and the innermost frame of ours says which part was at
work; what C code does counts for the part that called it. While the loop waits, the CPU time is
that of the commit, in the writer's thread. Each sample costs some µs itself, so read the shares.

    python benchmarks/where.py [--rounds N] [--small]
"""

import asyncio
import gc
import re
import signal
from collections import Counter
from types import FrameType
from typing import Any

from harness import Figure, Place, main
from workload import effects

import holdfast as hf

__all__ = ["measure"]

RUNS, STEPS = 200, 20
SAMPLE_S = 0.001

PARTS = (
    ("deflate", r"stores/payloads"),
    (
        "SQLite statements",
        r"stores/sqlite/(changes|payloads|sealing|subjects|queries)|/signed|/proof/",
    ),
    ("writer: queue and answers", r"stores/"),
    ("leaf: text, hash, commitment", r"core/events|^<string>"),
    ("fold", r"core/state"),
    ("encode and decode", r"core/codec|pydantic|runtime/secrets|core/redaction"),
    ("machine and the turn's loop", r"core/|holdfast/tools"),
    ("recording: appender", r"runtime/(appender|clock)"),
    ("steps, bodies, runner", r"runtime/"),
    ("commit, in the writer's thread", r"/selectors\.py"),
    ("the host's loop (asyncio)", r"/asyncio/"),
)
"""A part's name, and the files that are its own; the first that matches counts."""


def measure(
    here: Place, *, rounds: int, small: bool, only: str = "", quick: bool = False
) -> dict[str, Any]:
    """Return the share of each part, in percent."""
    runs, steps = (4, 5) if small else (RUNS, STEPS)
    figures = {name: Figure("%") for name, _ in PARTS}
    for _ in range(rounds):
        samples = asyncio.run(_work(here, runs, steps))
        for name, figure in figures.items():
            figure.values.append(100 * samples[name] / max(1, samples.total()))
    return {name: figure.as_json() for name, figure in figures.items()}


async def _work(here: Place, runs: int, steps: int) -> Counter[str]:
    samples: Counter[str] = Counter()

    def sample(_signal: int, frame: FrameType | None) -> None:
        while frame is not None:
            for name, files in PARTS:
                if re.search(files, frame.f_code.co_filename):
                    samples[name] += 1
                    return
            frame = frame.f_back

    async with hf.App(here.new("where") / "ours.db", agents=[effects]) as app:
        for n in range(runs):
            await app.client.start(effects, steps, id=f"r{n}")
        worker = app.worker(hf.WorkerSettings(runs_max=runs))
        gc.collect()
        before = signal.signal(signal.SIGPROF, sample)
        signal.setitimer(signal.ITIMER_PROF, SAMPLE_S, SAMPLE_S)
        try:
            await worker.run(until_idle=True)
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.signal(signal.SIGPROF, before)
    return samples


if __name__ == "__main__":
    main(measure, __doc__.partition("\n")[0])
