"""The worker processes of the demo: started, killed, paused, woken up and started again.

The fleet keeps as many workers alive as it should have; a paused one does not count. What a worker
says of itself (worker.py) is kept beside its process: which steps it is at, for which runs it spoke
last, and whether it found itself fenced.

Invariant: once a worker's process has ended, nothing that it was at counts any more.
"""

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO

from holdfast.cli.demo.servers import ProcessError

__all__ = ["LEASE_S", "RUNS_MAX", "Fleet", "WorkerProcess"]

READY_S = 30.0
LEASE_S = 1.5
RUNS_MAX = 4


class WorkerProcess:
    """One worker process, and what it says of itself."""

    def __init__(self, number: int, process: asyncio.subprocess.Process) -> None:
        self.number = number
        self.ready = False
        self.paused = False
        self.killed = False
        self.under_way: dict[tuple[str, str], str] = {}
        """(run, step key) → effect contract, of the steps whose bodies run."""
        self.spoke_of: set[str] = set()
        """The runs that it was the last to speak of."""
        self.fenced: set[str] = set()
        """The runs that it was told to have lost."""
        self._process = process

    @property
    def alive(self) -> bool:
        """Whether its process runs or is paused."""
        return self._process.returncode is None

    @property
    def exit_code(self) -> int:
        """What its process ended with: below 0 for a signal, and 0 while it is alive."""
        return self._process.returncode or 0

    def send(self, number: signal.Signals) -> None:
        """Send a signal to its process, unless that has ended."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._process.pid, number)

    async def kill(self) -> None:
        """Kill its process and wait until it has ended."""
        self.killed = True
        self.send(signal.SIGKILL)
        await self._process.wait()
        self.under_way.clear()

    async def listen(self, told: Callable[["WorkerProcess", str], None]) -> None:
        """Keep what it says until it ends; ``told`` is called with each run that it speaks of."""
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            said = json.loads(line)
            run, step = said["run"], said["step"]
            match said["what"]:
                case "ready":
                    self.ready = True
                case "began":
                    self.under_way[run, step] = said["effect"]
                    told(self, run)
                case "ended":
                    self.under_way.pop((run, step), None)
                case "fenced":
                    self.fenced.add(run)
                case _:
                    raise AssertionError(f"worker {self.number} says {said}")


class Fleet:
    """The workers on one store file."""

    def __init__(
        self, store: Path, *, size: int, environment: Mapping[str, str], log: IO[bytes]
    ) -> None:
        self._command = (
            *(sys.executable, "-m", "holdfast.cli.demo.worker", "--store", str(store)),
            *("--lease", str(LEASE_S), "--runs", str(RUNS_MAX)),
        )
        self._size = size
        self._environment = {**os.environ, **environment}
        self._log = log
        self._filling = asyncio.Lock()
        self._number = 0
        self._workers: list[WorkerProcess] = []
        self._listening: set[asyncio.Task[None]] = set()

    @property
    def workers(self) -> list[WorkerProcess]:
        """Those whose processes have not ended."""
        return [worker for worker in self._workers if worker.alive]

    async def fill(self) -> None:
        """Start as many workers as are lacking."""
        async with self._filling:
            awake = sum(not worker.paused for worker in self.workers)
            for _ in range(self._size - awake):
                await self._start()

    async def mend(self) -> list[WorkerProcess]:
        """Start others for workers that somebody else has killed, and return those.

        Raises:
            ProcessError: one has ended by itself.
        """
        lost = [w for w in self._workers if not w.alive and not w.killed]
        for worker in lost:
            if worker.exit_code >= 0:
                raise ProcessError(
                    f"worker {worker.number} ended by itself; {self._log.name} says why"
                )
            await worker.kill()
        if lost:
            await self.fill()
        return lost

    async def end(self) -> None:
        """Kill all workers."""
        for worker in self.workers:
            await worker.kill()
        for task in self._listening:
            task.cancel()

    def at(self, run: str, tool: str) -> WorkerProcess | None:
        """Return the worker that is at a step of this tool now, if one is awake and is."""
        for worker in self.workers:
            if not worker.paused and any(
                r == run and key.startswith(f"{tool}#") for r, key in worker.under_way
            ):
                return worker
        return None

    def of(self, run: str) -> WorkerProcess | None:
        """Return the worker that is awake and was the last to speak of a run, if any."""
        found = (w for w in self.workers if not w.paused and run in w.spoke_of)
        return next(found, None)

    async def _start(self) -> None:
        self._number += 1
        process = await asyncio.create_subprocess_exec(
            *self._command,
            stdin=asyncio.subprocess.PIPE,  # it ends with us: a worker drains when this is closed
            stdout=asyncio.subprocess.PIPE,
            stderr=self._log,
            env=self._environment,
            process_group=0,  # Ctrl-C is for the supervisor alone
        )
        worker = WorkerProcess(self._number, process)
        self._workers.append(worker)
        task = asyncio.create_task(worker.listen(self._told))
        self._listening.add(task)
        task.add_done_callback(self._listening.discard)

    def _told(self, worker: WorkerProcess, run: str) -> None:
        for other in self._workers:
            other.spoke_of.discard(run)
        worker.spoke_of.add(run)
