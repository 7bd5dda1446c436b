"""Three nodes on this machine; the primary is lost under load and a standby promoted.

*Goal*: no event that was acknowledged is lost, none stands twice, streams have no gaps, epochs
never fall, and the log that a follower saw stays what it was; whether the primary is killed, stands
still and wakes up again later, or is cut off from its standbys; and nobody stays with one that was
given up. *Method*: ``histories.py`` writes, follows and judges; the cluster's processes are killed
or stopped, the wires between them cut.
"""

import asyncio
import importlib.util
import time
from pathlib import Path

import psycopg
import pytest

from holdfast.stores.postgres import PostgresStore, store
from holdfast.stores.postgres.link import Link
from holdfast.testing.cluster import PostgresCluster
from holdfast.testing.script import Script

_spec = importlib.util.spec_from_file_location(
    "histories", Path(__file__).with_name("histories.py")
)
histories = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(histories)
Call, check_times, under_load = histories.Call, histories.check_times, histories.under_load


def test_the_judge_of_histories_sees_what_came_too_early():
    first, second = Call("r", 2, 1.0, 2.0), Call("r", 1, 3.0, 4.0)
    with pytest.raises(AssertionError, match="stands before"):
        check_times([first, second], lambda call: call.place)
    check_times([first, Call("r", 1, 1.5, 4.0)], lambda call: call.place)


CUT = """
SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
WHERE application_name = 'holdfast'"""

STUCK = """
SELECT count(*) FROM pg_stat_activity
WHERE application_name = 'holdfast' AND state = 'active' AND query LIKE '%holdfast.%'"""


@pytest.fixture
def cluster():
    with PostgresCluster() as cluster:
        yield cluster


@pytest.fixture
def impatient(monkeypatch):
    """Stores that wait one second for an answer, and not 30."""
    monkeypatch.setattr(Link.run, "__kwdefaults__", {"time_s": 1.0})
    monkeypatch.setattr(store, "OPERATION_S", 1.0)


def killed(cluster):
    """Kill the primary, promote, and tell how long nothing was acknowledged, in seconds."""

    async def disaster(history):
        began = time.monotonic()
        await asyncio.to_thread(cluster.kill_primary)
        await promoted(cluster, history)
        took = time.monotonic() - began
        await asyncio.to_thread(cluster.rebuild)
        return round(took, 2)

    return disaster


async def promoted(cluster, history):
    """Promote a standby and wait until it has acknowledged something."""
    await asyncio.to_thread(cluster.fail_over)
    after = time.monotonic()
    await histories.until(lambda: history.acknowledged(after))


def given_up(cluster, lose, find_again):
    """Lose the primary, promote, let the old one be found again, and see that nobody goes back.

    Connections to the new one are cut then, so that all choose anew, and somebody who knows nothing
    of it all comes by.
    """

    async def disaster(history):
        began, old = time.monotonic(), cluster.primary
        await asyncio.to_thread(lose, old)
        await histories.until(history.stands_still)
        await promoted(cluster, history)
        took = time.monotonic() - began
        await asyncio.to_thread(find_again, old)
        for node in (old, cluster.primary):
            assert cluster.nodes[node].execute("SELECT pg_is_in_recovery()") == [(False,)]
        stuck = cluster.nodes[old].execute(STUCK)
        assert cluster.nodes[cluster.primary].execute(CUT)[0][0] >= 2
        after = time.monotonic()
        await histories.until(lambda: history.acknowledged(after) >= histories.RUNS)
        assert cluster.nodes[old].execute(STUCK) <= stuck, "somebody has gone back"
        await stranger(cluster, f"stranger {old} {began}")
        await asyncio.to_thread(cluster.rebuild)
        return round(took, 2)

    return disaster


async def stranger(cluster, run):
    """Somebody who begins with the first host of the URL ends up at the primary."""
    knowing_nothing = await PostgresStore.open(cluster.url())
    script = Script.begin(run, at=time.time_ns() // 1000)
    assert await knowing_nothing.create(script.new())
    await knowing_nothing.close()
    found = "SELECT count(*) FROM holdfast.run WHERE id = %s"
    with psycopg.connect(cluster.nodes[cluster.primary].url()) as connection:
        assert connection.execute(found, (run,)).fetchone() == (1,)


def stopped(cluster):
    return given_up(cluster, lambda n: cluster.nodes[n].pause(), lambda n: cluster.nodes[n].wake())


def cut_off(cluster):
    """The wires to the old primary stay cut: clients reach it, and its standbys do not."""
    return given_up(cluster, lambda n: cluster.wires[n].cut(), lambda _: None)


@pytest.mark.timeout(300)
def test_a_failover_loses_nothing_that_was_acknowledged(cluster):
    asyncio.run(under_load(cluster.url(), killed(cluster)))


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("lost", [stopped, cut_off])
def test_nobody_stays_with_a_primary_that_was_given_up(cluster, lost):
    asyncio.run(under_load(cluster.url(), lost(cluster)))


@pytest.mark.soak
def test_ten_failovers_lose_nothing_that_was_acknowledged(cluster):
    asyncio.run(under_load(cluster.url(), killed(cluster), times=10))


@pytest.mark.soak
@pytest.mark.parametrize("lost", [stopped, cut_off])
def test_five_primaries_that_were_given_up(cluster, lost):
    asyncio.run(under_load(cluster.url(), lost(cluster), times=5))
