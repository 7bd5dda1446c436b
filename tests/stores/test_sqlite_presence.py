"""A dead worker's runs are taken over at once, a paused or living one's only when its lease ends.

Goal: nobody waits for the lease of a process that is gone, and nobody robs one that lives. Method:
a real process claims a run and is killed, or stopped; virtual times show that the lease has not
ended.
"""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from holdfast.runtime.births import new_run
from holdfast.runtime.clock import SystemEntropy
from holdfast.stores.sqlite import SqliteStore

AGENT = "agent:test"
LEASE = {"lease_us": 60_000_000, "agents": [AGENT], "limit": 10}
HOLDER = """
import asyncio, sys
from holdfast.stores.sqlite import SqliteStore

async def main():
    store = await SqliteStore.open(sys.argv[1])
    claims = await store.claim(
        "holder", now=10, lease_us=60_000_000, agents=["agent:test"], limit=9
    )
    print(len(claims), flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.fixture
def holder(tmp_path: Path):
    async def create():
        store = await SqliteStore.open(tmp_path / "s.db")
        await store.create(new_run("r", AGENT, b"1", now=1, entropy=SystemEntropy()))
        await store.close()

    asyncio.run(create())
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "s.db")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"1\n"
        yield process
        process.kill()


async def claims_of_another(path: Path) -> tuple[bool, int]:
    store = await SqliteStore.open(path)
    try:
        ready = await store.ready([AGENT], now=20)
        return ready, len(await store.claim("other", now=20, **LEASE))
    finally:
        await store.close()


def test_a_dead_workers_run_is_claimed_at_once(holder, tmp_path: Path):
    holder.kill()
    holder.wait()
    assert asyncio.run(claims_of_another(tmp_path / "s.db")) == (True, 1)


def test_a_stopped_workers_run_waits_for_its_lease(holder, tmp_path: Path):
    os.kill(holder.pid, signal.SIGSTOP)
    try:
        assert asyncio.run(claims_of_another(tmp_path / "s.db")) == (False, 0)
    finally:
        os.kill(holder.pid, signal.SIGCONT)


@pytest.mark.usefixtures("holder")
def test_a_living_workers_run_waits_for_its_lease(tmp_path: Path):
    assert asyncio.run(claims_of_another(tmp_path / "s.db")) == (False, 0)


def test_two_stores_in_one_process_do_not_take_each_other_for_dead(tmp_path: Path):
    async def main():
        first = await SqliteStore.open(tmp_path / "s.db")
        second = await SqliteStore.open(tmp_path / "s.db")
        await first.create(new_run("r", AGENT, b"1", now=1, entropy=SystemEntropy()))
        assert len(await first.claim("one", now=10, **LEASE)) == 1
        assert await second.claim("two", now=10, **LEASE) == []
        assert await first.claim("three", now=10, **LEASE) == []
        await first.close()  # its lock ends, though its lease does not
        assert len(await second.claim("two", now=10, **LEASE)) == 1
        await second.close()

    asyncio.run(main())
