"""A long turn is replayed in pages, to the same end as a short one.

*Goal*: a run of any length is taken up without its events filling the memory, and nothing shows of
it: the same steps, the same guards, the same divergence. *Method*: pages of a few events, a store
that knows what was read of it; a run is parked in the middle of its turn and taken up again.
"""

import asyncio

import pytest

import holdfast as hf
from holdfast.core.machine import Machine
from holdfast.core.specs import agent_spec
from holdfast.runtime import paging
from holdfast.stores.memory import MemoryStore

PAGE = 5


class Watched(MemoryStore):
    """A store that notes how many events each read returned."""

    def __init__(self):
        super().__init__()
        self.reads = []

    async def read(self, run, **bounds):
        events = await super().read(run, **bounds)
        self.reads.append(len(events))
        return events


@pytest.fixture(autouse=True)
def small_pages(monkeypatch):
    monkeypatch.setattr(paging, "PAGE_EVENTS", PAGE)


def parked(stage, agent):
    """Return a stage whose run waits for a message behind more events than a page has."""
    s = stage(agent, store=Watched())
    s.start(agent)
    s.work()
    assert s.status() == "waiting"
    s.store.reads.clear()
    return s


def test_a_long_turn_goes_on_where_it_was_and_no_read_is_larger_than_a_page(stage):
    bodies = []

    @hf.step
    async def work(n: int) -> int:
        bodies.append(n)
        return n

    @hf.agent
    async def long() -> int:
        total = 0
        for n in range(20):
            total += await work(n)
            if n == 10:
                assert hf.version_guard("half-way")
        await asyncio.gather(*(work(n) for n in range(20, 30)))
        return total + int(await hf.receive("go"))

    s = parked(stage, long)
    s.tell(1000, topic="go")
    s.work()
    assert s.result() == sum(range(20)) + 1000
    assert bodies == list(range(30))
    assert max(s.store.reads) == PAGE


def test_a_turn_that_streams_is_replayed_as_a_whole(stage):
    @hf.step
    async def words(n: int):
        for part in range(n):
            yield part

    @hf.agent
    async def speaker() -> int:
        heard = [part async for part in words(20)]
        return len(heard) + int(await hf.receive("go"))

    s = parked(stage, speaker)
    s.tell(1, topic="go")
    s.work()
    assert s.result() == 21
    assert max(s.store.reads) > 20


def test_other_code_diverges_as_it_would_in_a_short_turn(stage):
    changed = []

    @hf.step
    async def work(n: int) -> int:
        return n

    @hf.agent
    async def long() -> None:
        for n in range(20):
            await work(-n if changed and n == 15 else n)
        await hf.receive("go")

    s = parked(stage, long)
    changed.append(True)
    s.tell(1, topic="go")
    s.work()
    assert s.status() == "diverged"


def test_a_row_that_is_not_the_fold_of_its_events_is_refused(stage):
    @hf.step
    async def work(n: int) -> int:
        return n

    @hf.agent
    async def long() -> None:
        for n in range(20):
            await work(n)
        await hf.receive("go")

    s = parked(stage, long)
    row = s.row()._replace(turn=2)
    with pytest.raises(hf.StoreRefused, match="is not the fold"):
        s.run(paging.replay_in_pages(s.store, row, "", machine_for(long, row), bool))


def machine_for(agent, row):
    return lambda: Machine(agent_spec(agent), run=row.run, seed=row.seed)
