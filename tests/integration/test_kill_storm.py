"""Four workers on PostgreSQL, killed, paused and drained at random; the world counts.

*Goal*: nothing is done twice, nothing is missing and no run is left behind, whatever happens to the
workers. *Method*: real worker processes share a database; their effects are requests to a server in
the test's process, which kills (-9), stops (beyond the lease) or drains whoever asks, at requests
drawn from a seed; ended workers are replaced, stopped ones go on later. Then deeds are counted, and
every stream and the whole log are checked.

A payment is `once`. Whoever looks an attempt up and is told that it was not made has that for good:
the world does not take it any more. Without that, an attempt that a stopped process has begun to
send could arrive late, which nothing on the workers' side can prevent.
"""

import asyncio
import importlib.util
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import holdfast as hf
from holdfast.stores.postgres import PostgresStore
from holdfast.testing.harness import EVERYTHING
from holdfast.testing.model import check_stream

DESK = Path(__file__).with_name("kill_desk.py")
WORKERS = 4
LEASE_S = 1.0
PATIENCE_S = 90

spec = importlib.util.spec_from_file_location("kill_desk", DESK)
desk = importlib.util.module_from_spec(spec)
spec.loader.exec_module(desk)


class Storm:
    """Workers, and what befalls them."""

    def __init__(self, url, world, seed, *, strokes):
        self.url, self.world = url, world
        self.chance = random.Random(seed)
        self.strokes = [signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM] * (strokes // 3)
        self.chance.shuffle(self.strokes)
        self.processes, self.stopped, self.befell = [], {}, []
        self.over = threading.Event()
        self._asked = 0
        self._next = self.chance.randrange(5, 15)
        world.interfere = self.interfere
        self._keeper = threading.Thread(target=self.keep)
        self._keeper.start()

    def interfere(self, request, moment):
        """Called with the world's lock held, at every moment of every request."""
        if moment == "before":
            self._asked += 1
        idle = self._asked < self._next or self.over.is_set() or not self.strokes
        if idle or request.pid in self.stopped:
            return False
        self._next = self._asked + self.chance.randrange(4, 12)
        how = self.strokes.pop()
        self.befell.append(how)
        os.kill(request.pid, how)
        if how == signal.SIGSTOP:
            self.stopped[request.pid] = time.monotonic() + 2.5 * LEASE_S
        return how == signal.SIGKILL

    def keep(self):
        """Keep four workers alive, and wake up those that were stopped long enough."""
        while not self.over.wait(0.05):
            now = time.monotonic()
            for pid, at in [*self.stopped.items()]:
                if at < now:
                    self.wake(pid)
            alive = [process for process in self.processes if process.poll() is None]
            for _ in range(WORKERS - len(alive)):
                words = [sys.executable, str(DESK), self.url, self.world.url, str(LEASE_S)]
                self.processes.append(subprocess.Popen(words, stderr=subprocess.PIPE, text=True))

    def wake(self, pid):
        [process] = [process for process in self.processes if process.pid == pid]
        if process.poll() is None:
            process.send_signal(signal.SIGCONT)
        del self.stopped[pid]

    def calm_down(self):
        """Nothing more befalls anybody."""
        self.world.interfere = lambda _request, _moment: False

    def end(self):
        self.over.set()
        self._keeper.join()
        for pid in [*self.stopped]:
            self.wake(pid)
        for process in self.processes:
            process.terminate()
        said = []
        for process in self.processes:
            try:
                said.append(process.communicate(timeout=PATIENCE_S)[1])
            except subprocess.TimeoutExpired:
                process.kill()
                said.append(process.communicate()[1])
        return said


async def check(url, orders):
    store = await PostgresStore.open(url)
    log = await store.read_log(0, limit=EVERYTHING)
    assert [pos for pos, _ in log] == [*range(1, len(log) + 1)]
    for order in orders:
        events = await store.read(order)
        assert check_stream(events) == await store.row(order)
        assert [event for _, event in log if event.run == order] == events
        assert (await store.row(order)).status == "succeeded"
    assert not await store.workers(now=0)
    await store.close()
    return len(log)


def storm_over(world, url, *, seed, runs, strokes, during_s):
    storm = Storm(url, world, seed, strokes=strokes)
    orders = [f"o-{n}" for n in range(runs)]
    try:
        with hf.connect(url, desk.AGENTS) as client:
            for order in orders:
                client.start(desk.serve, order, id=order)
                storm.over.wait(during_s / runs)
            if during_s:
                storm.calm_down()
            for order in orders:
                said = [f"saw {order}", f"paid {order}", f"shipped {order}"]
                assert client.result(order, timeout=PATIENCE_S) == [*said, f"shipped {order}-gift"]
    finally:
        storm.calm_down()
        said = storm.end()
    wanted = {f"pay {o}" for o in orders} | {f"ship {o}{g}" for o in orders for g in ("", "-gift")}
    assert world.deeds == dict.fromkeys(wanted, 1), "\n".join(said)
    assert {signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM} <= set(storm.befell)
    events = asyncio.run(check(url, orders))
    print(f"{runs} runs, {events} events, {len(storm.befell)} strokes")  # noqa: T201 - for pytest -s


@pytest.mark.timeout(300)
def test_a_short_storm_leaves_everything_done_once(world, database):
    storm_over(world, database, seed=3, runs=12, strokes=6, during_s=0)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(1, 4))
def test_a_storm_of_two_minutes_leaves_everything_done_once(world, database, seed):
    storm_over(world, database, seed=seed, runs=200, strokes=300, during_s=120)
