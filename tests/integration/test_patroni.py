"""A fleet whose primary Patroni and etcd choose, as many run it in production.

*Goal*: as in ``test_failover.py``, with nobody promoting by hand: no acknowledged event is lost,
none stands twice, the log stays in its order, and writers find the new primary by themselves; when
the primary dies, when it hands over in an orderly way, and when one of etcd's members dies.
*Method*: ``histories.py`` under load; three nodes each, on loopback. ``make soak-patroni`` makes
the environment and runs it.
"""

import asyncio
import importlib.util
import os
import time
from pathlib import Path

import pytest

from holdfast.testing.patroni import PatroniCluster

_spec = importlib.util.spec_from_file_location(
    "histories", Path(__file__).with_name("histories.py")
)
histories = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(histories)

PROGRAMS = os.environ.get("HOLDFAST_PATRONI", "")
pytestmark = [
    pytest.mark.soak,
    pytest.mark.skipif(not PROGRAMS, reason="make soak-patroni says where Patroni is"),
]


@pytest.fixture(scope="module")
def cluster():
    made = PatroniCluster(Path(PROGRAMS).absolute())
    try:
        made.__enter__()
    except PermissionError:
        pytest.skip("nobody may run it: make soak-patroni PYTHON=/usr/bin/python3")
    yield made
    made.close()


async def goes_on(history, began):
    """Wait until all writers go on; return how long it was since it began, in seconds."""
    after = time.monotonic()
    await histories.until(lambda: history.acknowledged(after) >= histories.RUNS)
    return round(time.monotonic() - began, 1)


def killed(cluster):
    async def disaster(history):
        began, old = time.monotonic(), cluster.leader()
        await asyncio.to_thread(cluster.kill, old)
        new = await asyncio.to_thread(cluster.leader, but=old)
        took = await goes_on(history, began)
        cluster.start(old)  # here: it ends with the thread that started it
        await asyncio.to_thread(cluster.recovered)
        assert new != old
        return took

    return disaster


def handed_over(cluster):
    async def disaster(history):
        began, old = time.monotonic(), cluster.leader()
        new = next(name for name in cluster.names if name != old)
        await asyncio.to_thread(cluster.switch_over, new)
        assert await asyncio.to_thread(cluster.leader, but=old) == new
        took = await goes_on(history, began)
        await asyncio.to_thread(cluster.recovered)
        return took

    return disaster


def without_a_member(cluster):
    async def disaster(history):
        began = time.monotonic()
        await asyncio.to_thread(cluster.kill_etcd, cluster.leader())
        return await goes_on(history, began)

    return disaster


IN_ORDER = [(handed_over, 3), (killed, 3), (without_a_member, 1), (killed, 1)]
"""So that the last primary dies with one member of etcd gone."""


@pytest.mark.parametrize(("n", "trouble", "times"), [(n, *one) for n, one in enumerate(IN_ORDER)])
def test_nothing_that_was_acknowledged_is_lost(cluster, n, trouble, times):
    url = cluster.database(f"history_{n}")
    asyncio.run(histories.under_load(url, trouble(cluster), times=times))
