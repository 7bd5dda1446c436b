"""Several processes share one file, and one that is killed takes nothing acknowledged with it.

*Goal*: neither a race nor `kill -9` loses, doubles or reorders an event. *Method*: real processes
that append to one file, or create it, at the same time; a process that tells through a pipe what
was acknowledged and is killed in the middle of it; then the file is read and checked.
"""

import asyncio
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from holdfast.core.state import fold
from holdfast.stores.sqlite import SqliteStore
from holdfast.stores.sqlite.fsck import check_file
from holdfast.testing.harness import NOTE, hold
from holdfast.testing.script import Script

WRITER = """
import asyncio, os, random, sys
from holdfast.core import events as ev
from holdfast.stores.sqlite import SqliteStore
from holdfast.testing.script import Script, conversation

path, name, runs, steps = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])

async def write(store, script):
    for n in range(steps):
        key = f"s#{n}"
        payload = conversation(n % 20)
        started = ev.StepStarted(key, "read")
        await store.append(script.change((started, payload), (ev.StepFinished(key), b"1")))
        os.write(1, f"{script.run} {script.state.seq}\\n".encode())

async def main():
    store = await SqliteStore.open(path)
    scripts = [Script.begin(f"{name}-{n}") for n in range(runs)]
    for script in scripts:
        await store.create(script.new())
        [claim] = await store.claim(
            name, now=1, lease_us=10**9, agents=["agent:test"], limit=1, run=script.run
        )
        script.epoch = claim.epoch
    await asyncio.gather(*[write(store, script) for script in scripts])
    await store.close()

asyncio.run(main())
"""


def start(path: Path, name: str, runs: int, steps: int) -> subprocess.Popen:
    command = [sys.executable, "-c", WRITER, str(path), name, str(runs), str(steps)]
    return subprocess.Popen(command, stdout=subprocess.PIPE)


def lengths(path: Path) -> dict[str, int]:
    """Return the length of each stream, having seen that it is whole."""

    async def main():
        store = await SqliteStore.open(path)
        found = {}
        for row in await store.rows(limit=1_000):
            events = await store.read(row.run)
            assert fold(events).row() == row
            found[row.run] = row.seq
        log = [event.run for _, event in await store.read_log(0, limit=10**6)]
        await store.close()
        assert Counter(log) == found
        return found

    found = asyncio.run(main())
    assert check_file(path) == []
    return found


def test_two_processes_append_to_one_file_at_once(tmp_path: Path):
    path = tmp_path / "holdfast.db"
    processes = [start(path, name, 8, 40) for name in ("ann", "bob")]
    outputs = [process.communicate()[0].decode().split() for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert all(len(output) == 2 * 8 * 40 for output in outputs)
    expected = {f"{name}-{n}": 1 + 2 * 40 for name in ("ann", "bob") for n in range(8)}
    assert lengths(path) == expected


@pytest.mark.parametrize("lines", [1, 7, 60, 333])
def test_a_killed_process_loses_nothing_acknowledged(lines: int, tmp_path: Path):
    path = tmp_path / "holdfast.db"
    with start(path, "ann", 8, 10_000) as process:
        told = [process.stdout.readline() for _ in range(lines)]
        process.kill()
        told += process.stdout.read().splitlines(keepends=True)
    acknowledged = dict(
        line.decode().split() for line in told if line.endswith(b"\n")
    )  # a later line of a run stands for those before it
    assert acknowledged
    found = lengths(path)
    for run, seq in acknowledged.items():
        assert found[run] >= int(seq), f"{run}: {seq} were acknowledged, {found[run]} are there"


def test_processes_that_create_a_file_at_once_agree_on_it(tmp_path: Path):
    for attempt in range(3):
        path = tmp_path / f"{attempt}.db"
        processes = [start(path, f"p{n}", 1, 2) for n in range(4)]
        for process in processes:
            process.communicate()
        assert [process.returncode for process in processes] == [0] * 4
        assert lengths(path) == {f"p{n}-0": 5 for n in range(4)}


def test_a_process_killed_while_it_creates_leaves_a_file_that_can_be_used(tmp_path: Path):
    """The kill comes later each time, so that it hits every moment around the creation."""
    hits = set()
    for n in range(14):
        path = tmp_path / f"{n}.db"
        code = (
            "import os, signal, sys\n"
            "from holdfast.stores.sqlite.file import connect\n"
            "from pathlib import Path\n"
            "signal.setitimer(signal.ITIMER_REAL, float(sys.argv[2]))\n"
            "signal.signal(signal.SIGALRM, signal.SIG_DFL)\n"  # as deadly as SIGKILL
            "connect(Path(sys.argv[1]), create=True)\n"
            "os.kill(os.getpid(), signal.SIGKILL)\n"
        )
        subprocess.run([sys.executable, "-c", code, str(path), str(0.0003 * 1.6**n)], check=False)
        hits.add(path.stat().st_size if path.exists() else -1)
        assert lengths(path) == {}
    assert len(hits) > 1, "every kill came at the same moment"


def test_another_process_hears_of_a_commit(tmp_path: Path):
    path = tmp_path / "holdfast.db"

    async def main():
        store = await SqliteStore.open(path)
        await store.create(Script.begin("r").new())
        await store.changed(0)
        with start(path, "ann", 1, 1) as process:
            try:
                async with asyncio.timeout(30):
                    while await store.row("ann-0") is None:
                        await store.changed(30)
            finally:
                process.communicate()
        await store.close()

    asyncio.run(main())


def test_a_commit_of_ones_own_is_heard_of_at_once(tmp_path: Path):
    async def main():
        store = await SqliteStore.open(tmp_path / "holdfast.db")
        script = await hold(store)
        await store.changed(0)
        loop = asyncio.get_running_loop()
        quickest = 1.0
        for _ in range(20):
            waiting = asyncio.ensure_future(store.changed(30))
            await asyncio.sleep(0)
            await store.append(script.change(NOTE))
            began = loop.time()
            await waiting
            quickest = min(quickest, loop.time() - began)
        await store.close()
        assert quickest < 0.005

    asyncio.run(main())
