"""What the questions share: rounds, medians, the machine, processes that are measured and ended.

A *contestant* is a script of ``contestants/`` that gets a job and answers with one line of JSON,
in a process of its own, so that each starts equal and CPU and memory are its own. Rounds are
interleaved: every contestant is measured once before any is measured again, so that what else the
machine does hits all alike. Of each figure the median is given, and its spread.
"""

import argparse
import contextlib
import json
import os
import platform
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from postgres import Server

__all__ = [
    "CONTESTANTS",
    "PEERS",
    "ROOT",
    "Absent",
    "Contestant",
    "Figure",
    "Place",
    "ask",
    "known",
    "machine",
    "main",
    "place",
    "rounds_of",
    "syncs",
]

ROOT = Path(__file__).parents[1]
PEERS = ROOT / "build" / "peers"
"""Where ``make bench-peers`` has put what the peers need."""
TIMEOUT_S = 240
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
# What pip installs is compiled; in a clone that is done by the first process that is measured.


class Absent(Exception):  # noqa: N818 - it says that something is not here, which is no error
    """A contestant cannot be had on this machine; the text says why."""


@dataclass(frozen=True)
class Contestant:
    """Who is measured.

    Attributes:
        name: As it stands in tables.
        script: Its script in ``contestants/``.
        words: Further words for its command line.
        store: ``sqlite``, ``postgres`` or ``own``.
        fast: Whether it is given the full number of runs; the slow get a share of them.
    """

    name: str
    script: str
    words: tuple[str, ...] = ()
    store: str = "sqlite"
    fast: bool = False

    @property
    def is_peer(self) -> bool:
        """Whether it lives in the peers' environment."""
        return self.script.startswith("peer_")


CONTESTANTS = (
    Contestant("floor SQLite", "floor_sqlite.py", ("thread",), fast=True),
    Contestant("floor SQLite, on the loop's thread", "floor_sqlite.py", ("inline",), fast=True),
    Contestant("floor PostgreSQL", "floor_postgres.py", store="postgres", fast=True),
    Contestant("holdfast SQLite", "ours.py", fast=True),
    Contestant("holdfast PostgreSQL", "ours.py", store="postgres", fast=True),
    Contestant("Restate", "peer_restate.py", store="own"),
    Contestant("Absurd (PostgreSQL)", "peer_absurd.py", store="postgres"),
    Contestant("LangGraph SQLite", "peer_langgraph.py"),
    Contestant("LangGraph PostgreSQL", "peer_langgraph.py", store="postgres"),
    Contestant("DBOS SQLite", "peer_dbos.py"),
    Contestant("DBOS PostgreSQL", "peer_dbos.py", store="postgres"),
)


def known(names: str) -> list[Contestant]:
    """Return the contestants of which one of these words, separated by commas, is a part."""
    words = [word.strip().lower() for word in names.split(",")]
    return [c for c in CONTESTANTS if any(word in c.name.lower() for word in words)]


def rounds_of(count: int, budget_s: float) -> Iterator[int]:
    """Yield the numbers of rounds, of ``count`` those that the budget has room for."""
    begun = time.monotonic()
    for number in range(count):
        passed = time.monotonic() - begun
        if number and passed * (number + 1) / number > budget_s:
            return
        yield number


@dataclass
class Figure:
    """One measured number: its values, one a round."""

    unit: str
    values: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """The median of all rounds."""
        return statistics.median(self.values)

    @property
    def spread(self) -> tuple[float, float]:
        """The smallest and the largest."""
        return min(self.values), max(self.values)

    def as_json(self) -> dict[str, Any]:
        """Return it with its median and spread."""
        low, high = self.spread
        return {
            "median": round(self.median, 4),
            "low": round(low, 4),
            "high": round(high, 4),
            "unit": self.unit,
            "rounds": len(self.values),
        }


@dataclass
class Place:
    """Where a sitting keeps its files, and the PostgreSQL server it has started."""

    directory: Path
    _server: Server | None = None
    _why_no_server: str = ""
    _databases: int = 0

    def database(self) -> tuple[str, int]:
        """Return the connection string of a new database and the server's process.

        Raises:
            Absent: there is no PostgreSQL on this machine.
        """
        if self._server is None and not self._why_no_server:
            try:
                self._server = Server.start(self.directory / "postgres")
            except (OSError, LookupError, subprocess.SubprocessError) as error:
                self._why_no_server = f"no PostgreSQL server could be started: {error}"
        if self._server is None:
            raise Absent(self._why_no_server)
        self._databases += 1
        return self._server.database(f"bench{self._databases}"), self._server.pid

    @property
    def postgres(self) -> str:
        """The version of the server, empty for none."""
        return self._server.version if self._server else ""

    @property
    def server(self) -> Server | None:
        """The server, if one was started."""
        return self._server

    def new(self, name: str) -> Path:
        """Return a new directory."""
        return Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self.directory))

    def close(self) -> None:
        """Stop the server and delete everything."""
        if self._server is not None:
            self._server.stop()
        shutil.rmtree(self.directory, ignore_errors=True)


@contextlib.contextmanager
def place() -> Iterator[Place]:
    """Give a sitting a place, on the disk that ``TMPDIR`` names."""
    directory = Path(tempfile.mkdtemp(prefix="holdfast-bench-"))
    directory.chmod(0o755)  # the user that PostgreSQL runs as is another one where we are root
    here = Place(directory)
    try:
        yield here
    finally:
        here.close()


def ask(
    contestant: Contestant,
    job: dict[str, Any],
    *,
    before: Sequence[str] = (),
    timeout_s: float = TIMEOUT_S,
) -> dict[str, Any]:
    """Give a contestant a job and return its answer, with ``took_s`` and ``began`` (Unix time).

    Args:
        contestant: Who is to do it.
        job: The facts of ``contestants.job.Job``.
        before: A command to run it under, such as strace.
        timeout_s: When to give up.

    Raises:
        Absent: it cannot run here, or has no such store.
        RuntimeError: it ran and failed.
    """
    python = PEERS / "venv" / "bin" / "python" if contestant.is_peer else Path(sys.executable)
    if not python.exists():
        raise Absent("its environment is not there. Hint: make bench-peers")
    if contestant.store == "own" and not (PEERS / "npm" / "node_modules").exists():
        raise Absent("its npm package is not there. Hint: make bench-peers, which needs npm")
    facts = json.dumps({**job, "npm": str(PEERS / "npm"), "directory": str(job["directory"])})
    script = str(ROOT / "benchmarks" / "contestants" / contestant.script)
    command = [*before, str(python), script, facts, *contestant.words]
    env = {**os.environ, "PYTHONWARNINGS": "ignore", "LANGSMITH_TRACING": "false"}
    began = time.time()
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=env,
        start_new_session=True,
    )
    try:
        said, trouble = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        raise RuntimeError(
            f"{contestant.name}: no answer to {job['work']!r} after {timeout_s} s"
        ) from None
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # whatever it has left behind
        process.wait()
    lines = [line for line in said.splitlines() if line.startswith("{")]
    if not lines:
        last = trouble.strip().splitlines()[-1:] or ["nothing"]
        raise RuntimeError(f"{contestant.name}: said {last[0]!r} to {job['work']!r}")
    return {**json.loads(lines[-1]), "took_s": time.time() - began, "began": began}


def job_for(contestant: Contestant, here: Place, work: str, **facts: Any) -> dict[str, Any]:
    """Return a job in a new directory or database.

    Raises:
        Absent: the contestant needs a server that is not here.
    """
    name = re.sub(r"\W+", "-", contestant.name.lower())
    job = {"work": work, **facts, "directory": here.new(name)}
    if contestant.store == "postgres":
        job["postgres"], job["server_pid"] = here.database()
    return job


def syncs(contestant: Contestant, here: Place, **facts: Any) -> float | None:
    """Return the syncs of the disk in one job, None where nobody can tell.

    Counted by strace, and on PostgreSQL by the server's own statistics, since the server syncs.
    """
    job = job_for(contestant, here, "steps", **facts)
    if contestant.store == "postgres":
        before = here.server.syncs() if here.server else None
        ask(contestant, job)
        after = here.server.syncs() if here.server else None
        return None if before is None or after is None else after - before
    if shutil.which("strace") is None:
        return None
    report = job["directory"] / "strace.txt"
    traced = "trace=fsync,fdatasync,sync_file_range,msync"
    ask(contestant, job, before=["strace", "-c", "-f", "-o", str(report), "-e", traced])
    counts = re.findall(
        r"^\s*[\d.]+\s+[\d.]+\s+\d+\s+(\d+).*?(\w+)$", report.read_text(), re.MULTILINE
    )
    return float(sum(int(count) for count, call in counts if call != "total"))


def machine(here: Place) -> dict[str, Any]:
    """Return what the figures were taken on."""
    import apsw  # noqa: PLC0415 - only its version

    import holdfast  # noqa: PLC0415 - only its version

    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = re.findall(r"^model name\s*: (.*)$", cpuinfo.read_text(), re.MULTILINE)
        model = names[0] if names else model
    mounts = subprocess.run(
        ["df", "--output=fstype", here.directory], capture_output=True, text=True, check=False
    )
    load = os.getloadavg()
    return {
        "machine": f"{os.cpu_count()} x {model}",
        "system": f"{platform.system()} {platform.release()}",
        "file system": (mounts.stdout.split() or ["?", "unknown"])[-1],
        "load": [round(value, 2) for value in load],
        "python": platform.python_version(),
        "sqlite": apsw.sqlite_lib_version(),
        "postgres": here.postgres or "absent",
        "holdfast": holdfast.__version__,
        "peers": _peers(),
        "fsync": "SQLite: WAL, synchronous=FULL; PostgreSQL: fsync=on, synchronous_commit=on;"
        " peers: their defaults",
    }


def _peers() -> dict[str, str]:
    lock = (ROOT / "benchmarks" / "peers" / "requirements.lock").read_text()
    pinned = dict(re.findall(r"^([\w-]+)==(\S+)", lock, re.MULTILINE))
    wanted = ("dbos", "langgraph", "absurd-sdk", "restate-sdk")
    package = json.loads((ROOT / "benchmarks" / "peers" / "package.json").read_text())
    return {name: pinned[name] for name in wanted} | package["dependencies"]


def main(measure: Any, question: str) -> None:
    """Be the command of a question asked alone: print its answer as JSON."""
    parser = argparse.ArgumentParser(description=question)
    parser.add_argument("--rounds", type=int, default=5, help="how often each is measured")
    parser.add_argument("--small", action="store_true", help="tiny sizes: does it run at all?")
    parser.add_argument("--only", default="", help="contestants, by parts of their names")
    options = parser.parse_args()
    with place() as here:
        answer = measure(here, rounds=options.rounds, small=options.small, only=options.only)
        print(json.dumps({"machine": machine(here), "answer": answer}, indent=1))
