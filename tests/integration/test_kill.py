"""Real workers are killed, stopped and told to go, at the worst moments; the world counts.

*Goal*: after any number of ``kill -9`` every deed is done exactly once; a worker that was stopped
beyond its lease acts no more; one that is told to go loses nothing and nobody waits. *Method*: the
workers' effects are requests to a server in the test's own process, which knows nothing of
holdfast, does what it is asked and counts. It is also the hand that kills: right before it acts,
right after, or behind its answer, at requests drawn from a seed. Afterwards the file is checked.
"""

import importlib.util
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

import holdfast as hf
from holdfast.core import events as ev
from holdfast.stores.sqlite.fsck import check_file

DESK = Path(__file__).with_name("kill_desk.py")
PATIENCE_S = 30
SHORT_LEASE_S, LONG_LEASE_S = 0.6, 60.0

spec = importlib.util.spec_from_file_location("kill_desk", DESK)
desk = importlib.util.module_from_spec(spec)
spec.loader.exec_module(desk)


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "desk.db"
    yield path
    assert check_file(path) == []


@pytest.fixture
def client(path):
    with hf.connect(path, desk.AGENTS) as client:
        yield client


@pytest.fixture
def begin(world, path, client):  # noqa: ARG001 - workers end before the client does
    """Begin a worker process; it does not outlive the test."""
    begun = []

    def begin(lease_s, *options):
        command = [sys.executable, str(DESK), str(path), world.url, str(lease_s), *options]
        begun.append(subprocess.Popen(command, stderr=subprocess.PIPE, text=True))
        return begun[-1]

    yield begin
    for process in begun:
        process.kill()
        process.communicate()


def work_until_done(begin, lease_s):
    """Begin workers one after the other until one ends by itself; returns how many were killed."""
    killed = 0
    while True:
        process = begin(lease_s, "--until-idle")
        said = process.communicate(timeout=PATIENCE_S)[1]
        if process.returncode == 0:
            return killed
        assert process.returncode == -signal.SIGKILL, said
        killed += 1


class Killer:
    """Kills each worker at a request and a moment drawn from a seed, until all kills are made."""

    def __init__(self, seed, kills):
        chance = random.Random(seed)
        moments = ["before", "after", "answered"]
        self._fates = [(chance.randint(1, 3), chance.choice(moments)) for _ in range(kills)]
        self._asked, self._dead = Counter(), set()

    def __call__(self, request, moment):
        if request.pid in self._dead or not self._fates:
            return request.pid in self._dead
        self._asked[request.pid] += moment == "before"
        nth, when = self._fates[0]
        if self._asked[request.pid] < nth or moment != when:
            return False
        os.kill(request.pid, signal.SIGKILL)
        self._dead.add(request.pid)
        self._fates.pop(0)
        return True


@pytest.mark.parametrize("seed", [1])
def test_fifteen_kills_and_everything_is_done_once(world, client, begin, seed):
    orders = [f"o-{n}" for n in range(10)]
    for order in orders:
        client.start(desk.serve, order, id=order)
    world.interfere = Killer(seed, kills=15)
    assert work_until_done(begin, SHORT_LEASE_S) == 15
    for order in orders:
        said = [f"saw {order}", f"paid {order}", f"shipped {order}", f"shipped {order}-gift"]
        assert client.result(order, timeout=1) == said
    wanted = {f"pay {o}" for o in orders} | {f"ship {o}{g}" for o in orders for g in ("", "-gift")}
    assert world.deeds == dict.fromkeys(wanted, 1)


def test_a_worker_stopped_beyond_its_lease_acts_no_more(world, client, begin):
    client.start(desk.serve, "o-1", id="o-1")
    stopped = threading.Event()

    def stop(request, moment):
        """Stop the first worker when it has paid; the answer lies there when it wakes up."""
        if (request.verb, moment) == ("pay", "after"):
            os.kill(request.pid, signal.SIGSTOP)
            stopped.set()
        return False

    world.interfere = stop
    zombie = begin(SHORT_LEASE_S)
    assert stopped.wait(PATIENCE_S)
    world.interfere = lambda _request, _moment: False
    successor = begin(SHORT_LEASE_S, "--until-idle")
    said = ["saw o-1", "paid o-1", "shipped o-1", "shipped o-1-gift"]
    assert client.result("o-1", timeout=PATIENCE_S) == said
    successor.communicate(timeout=PATIENCE_S)
    assert successor.returncode == 0

    recorded, asked = len(client.events("o-1")), len(world.requests)
    client.start(desk.serve, "o-2", id="o-2")
    zombie.send_signal(signal.SIGCONT)
    client.result(
        "o-2", timeout=PATIENCE_S
    )  # it is awake and works again, on what is nobody else's
    assert {request.order for request in world.requests[asked:]} <= {"o-2", "o-2-gift"}
    assert len(client.events("o-1")) == recorded
    assert world.deeds["pay o-1"] == 1
    assert {r.pid for r in world.requests[asked:]} == {zombie.pid}
    zombie.terminate()
    zombie.communicate(timeout=PATIENCE_S)
    assert zombie.returncode == 0
    epochs = [event.epoch for event in client.events("o-1")]
    assert epochs == sorted(epochs)


def kill_at(verb, moment, *, times=1):
    """Kill whoever asks for this, at this moment."""
    left = [times]

    def interfere(request, now):
        if (request.verb, now) == (verb, moment) and left[0]:
            left[0] -= 1
            os.kill(request.pid, signal.SIGKILL)
            return True
        return False

    return interfere


def test_a_doubt_is_reconciled_even_if_that_is_killed_too(world, client, begin):
    client.start(desk.serve, "o-1", id="o-1")
    world.interfere = kill_at("pay", "after")
    assert begin(SHORT_LEASE_S).wait(PATIENCE_S) == -signal.SIGKILL
    world.interfere = kill_at("find", "before", times=2)
    assert work_until_done(begin, SHORT_LEASE_S) == 2
    assert client.result("o-1", timeout=1)[1] == "paid o-1"
    assert world.deeds["pay o-1"] == 1
    [outcome] = [
        e.body
        for e in client.events("o-1")
        if isinstance(e.body, ev.StepFinished) and e.body.key == "pay#1"
    ]
    assert outcome.via == "reconcile"


@pytest.mark.parametrize(("moment", "did"), [("before", False), ("after", True)])
def test_without_reconcile_a_person_settles_the_doubt(world, client, begin, moment, did):
    client.start(desk.blind, "o-1", id="o-1")
    world.interfere = kill_at("pay", moment)
    assert begin(SHORT_LEASE_S).wait(PATIENCE_S) == -signal.SIGKILL
    assert work_until_done(begin, SHORT_LEASE_S) == 0
    assert client.row("o-1").status == "in_doubt"
    assert world.deeds["pay o-1"] == int(did), "nothing was tried again"
    if did:
        client.resolve("o-1", "pay_blindly#1", happened="paid o-1", by="ann")
    else:
        client.resolve("o-1", "pay_blindly#1", did_not=True, by="ann")
    assert work_until_done(begin, SHORT_LEASE_S) == 0
    assert client.result("o-1", timeout=1) == ["paid o-1", "shipped o-1"]
    assert world.deeds["pay o-1"] == 1


def test_a_worker_told_to_go_finishes_its_effect_and_another_carries_on_at_once(
    world, client, begin
):
    client.start(desk.chain, 12, id="r")
    told = threading.Event()

    def tell_to_go(request, moment):
        if (request.order, moment) == ("part-4", "after") and not told.is_set():
            os.kill(request.pid, signal.SIGTERM)
            told.set()
        return False

    world.interfere = tell_to_go
    first = begin(LONG_LEASE_S)
    assert told.wait(PATIENCE_S)
    began = time.monotonic()
    second = begin(LONG_LEASE_S)
    first.communicate(timeout=PATIENCE_S)
    assert first.returncode == 0
    assert client.result("r", timeout=PATIENCE_S) == 12
    assert time.monotonic() - began < LONG_LEASE_S / 2, "nobody waited for the lease to run out"
    second.terminate()
    second.communicate(timeout=PATIENCE_S)
    assert second.returncode == 0
    assert world.deeds == {f"pay part-{n}": 1 for n in range(12)}
    assert {r.pid for r in world.requests} == {first.pid, second.pid}
    assert not [e for e in client.events("r") if isinstance(e.body, ev.StepDoubted)]
