"""What every contestant shares: the job it is given, the 500-byte result, the meters.

A contestant is a script that runs in a process of its own, in whichever environment has what it
needs, so this module imports nothing but the standard library. It is called with one argument, a
job in JSON, and prints one line of JSON.

Work there is: ``steps`` (make runs x steps, then time some runs of one step from start to result),
``record`` (record steps of one run, then be killed in the middle of the next) and ``recover``
(carry that run on, up to the body of the next step, then be killed again, so that the next round
finds the same).
"""

import hashlib
import itertools
import json
import os
import signal
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = [
    "PLAIN",
    "RESULT",
    "Job",
    "Meter",
    "cpu_s",
    "digest",
    "on_disk",
    "percentile",
    "say",
    "stop_here",
    "tree",
]

RESULT = {"data": "".join(hashlib.sha256(b"%d" % i).hexdigest() for i in range(8))[:489]}
PLAIN = json.dumps(RESULT, separators=(",", ":"))
assert len(PLAIN) == 500, "what the workloads promise"


@dataclass(frozen=True)
class Job:
    """What a contestant is to do.

    Attributes:
        work: ``steps``, ``record`` or ``recover``.
        runs: How many runs, started together.
        steps: Steps of each run, one after the other.
        ones: How many runs of one step to time after that, one after the other.
        directory: Where files go.
        postgres: A connection string, empty for none.
        server_pid: The process whose children serve PostgreSQL, 0 for none.
        effect: The effect contract of holdfast's steps.
        npm: Where packages of npm are installed, empty for nowhere.
    """

    work: str
    runs: int = 1
    steps: int = 1
    ones: int = 0
    directory: Path = Path()
    postgres: str = ""
    server_pid: int = 0
    effect: str = "idempotent"
    npm: str = ""

    @classmethod
    def given(cls) -> "Job":
        """Return the job of the command line."""
        facts = json.loads(sys.argv[1])
        return cls(**{**facts, "directory": Path(facts["directory"])})


def digest(results: Iterable[Any]) -> str:
    """Return what the results of all runs come down to; the order of runs does not matter."""
    lines = sorted(json.dumps(result, sort_keys=True) for result in results)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def tree(pid: int) -> list[int]:
    """Return a process and all that descend from it (Linux; elsewhere the process alone)."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has ended meanwhile
        children.setdefault(int(fields[1]), []).append(int(stat.parent.name))
    found = [pid]
    for parent in found:
        found += children.get(parent, [])
    return found


def cpu_s(pids: Iterable[int]) -> float:
    """Return the CPU time of processes and of their children that have ended."""
    ticks = 0
    for pid in pids:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        ticks += sum(int(ticks) for ticks in fields[11:15])
    return ticks / os.sysconf("SC_CLK_TCK")


@dataclass
class Meter:
    """Measures time, CPU and what stands on disk between its making and ``stop``."""

    job: Job
    others: tuple[int, ...] = ()
    """Further processes that work for this contestant; their children count as well."""
    path: Path | None = None
    """What to measure on disk when all is closed: a file or a directory."""
    step_times: list[float] = field(default_factory=list)
    """Where a contestant notes when each step's body began, for one run at a time."""
    begun: float = 0.0
    _cpu: float = 0.0
    _bytes: int = 0

    def __post_init__(self) -> None:
        self._bytes = self._there()
        self._cpu = self._all_cpu_s()
        self.begun = time.perf_counter()

    def stop(self, results: Iterable[Any]) -> dict[str, Any]:
        """Return seconds, CPU seconds, bytes, the p50 between steps and the digest of results.

        Bytes of files are what the harness finds at ``path`` when all is closed, less those before.
        """
        seconds = time.perf_counter() - self.begun
        facts: dict[str, Any] = {"seconds": seconds, "cpu_s": self._all_cpu_s() - self._cpu}
        if self.job.postgres:
            facts["bytes"] = self._there() - self._bytes
        elif self.path is not None:
            facts |= {"path": str(self.path), "bytes_before": self._bytes}
        gaps = [b - a for a, b in itertools.pairwise(self.step_times)]
        if gaps:
            facts["p50_ms"] = percentile(gaps, 50) * 1000
        return {**facts, "digest": digest(results)}

    def _there(self) -> int:
        """Return the bytes that stand there now; of SQLite the file alone, without its log."""
        if self.job.postgres:
            return _in_database(self.job)
        if self.path is None or not self.path.exists():
            return 0
        return on_disk(self.path) if self.path.is_dir() else self.path.stat().st_size

    def _all_cpu_s(self) -> float:
        own = time.process_time()
        others = [pid for other in self.others for pid in tree(other)]
        return own + cpu_s(others)


def on_disk(path: Path) -> int:
    """Return the bytes of a file with what SQLite keeps beside it, or of a directory."""
    files = path.rglob("*") if path.is_dir() else path.parent.glob(f"{path.name}*")
    return sum(file.stat().st_size for file in files if file.is_file())


def _in_database(job: Job) -> int:
    """Return the bytes of a PostgreSQL database."""
    import psycopg  # noqa: PLC0415 - only those who use it have it

    with psycopg.connect(job.postgres, autocommit=True) as connection:
        query = "SELECT pg_database_size(current_database())"
        return int(connection.execute(query).fetchall()[0][0])


def percentile(values: Iterable[float], percent: int) -> float:
    """Return the value below which ``percent`` of them lie."""
    ordered = sorted(values)
    return ordered[min(len(ordered) * percent // 100, len(ordered) - 1)]


def say(facts: dict[str, Any]) -> None:
    """Print a contestant's answer."""
    print(json.dumps(facts), flush=True)


def stop_here(facts: dict[str, Any]) -> None:
    """Print an answer and be killed where we stand, as by the machine's last moment."""
    say({**facts, "at": time.time()})
    os.kill(os.getpid(), signal.SIGKILL)
