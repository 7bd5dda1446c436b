"""A store that cannot write for a while costs time, not runs.

Goal: a run whose append failed is taken up again by the same worker once the store is back, and a
script that advances one run is told. Method: a memory store that refuses some appends, or a read.
"""

import asyncio

import pytest

import holdfast as hf
from holdfast.errors import StoreUnavailable
from holdfast.ports import Append
from holdfast.stores.memory import MemoryStore

DONE: list[int] = []


@hf.tool(effect="idempotent")
async def deed(n: int) -> int:
    DONE.append(n)
    return n


@hf.agent
async def job(n: int) -> int:
    return await deed(n) + await deed(n + 1)


class FullDisk(MemoryStore):
    """Refuses appends number ``first`` to ``last``."""

    def __init__(self, first: int, last: int) -> None:
        super().__init__()
        self._count = 0
        self._refused = range(first, last + 1)

    def append(self, change: Append):
        self._count += 1
        if self._count in self._refused:
            failed = asyncio.get_running_loop().create_future()
            failed.set_exception(StoreUnavailable("the disk is full; nothing was written"))
            return failed
        return super().append(change)


def test_a_worker_takes_a_run_up_again_when_the_store_is_back():
    DONE.clear()

    async def main() -> None:
        async with hf.App(FullDisk(2, 4), agents=[job]) as app:
            await app.client.start(job, 1, id="r")
            worker = app.worker(hf.WorkerSettings(poll_s=0.01), linger_s=0)
            await worker.run(until_idle=True)
            assert await app.client.result("r") == 3

    asyncio.run(main())
    assert set(DONE) == {1, 2}


def test_a_full_disk_is_told_once_however_many_runs_meet_it(caplog):
    runs = ("one", "two", "three")

    async def main() -> None:
        async with hf.App(FullDisk(len(runs) + 1, 30), agents=[job]) as app:
            for run in runs:
                await app.client.start(job, 1, id=run)
            worker = app.worker(hf.WorkerSettings(poll_s=0.001), linger_s=0)
            await worker.run(until_idle=True)
            assert [await app.client.result(run) for run in runs] == [3, 3, 3]

    asyncio.run(main())
    assert [record.getMessage() for record in caplog.records] == [
        "the disk is full; nothing was written"
    ]


def test_a_script_is_told_and_may_try_again():
    async def main() -> None:
        async with hf.App(FullDisk(2, 2), agents=[job]) as app:
            with pytest.raises(StoreUnavailable, match="disk is full"):
                await app.run(job, 1, id="r")
            assert await app.run(job, 1, id="r") == 3

    asyncio.run(main())


class Unreadable(MemoryStore):
    """Refuses one read of a stream, once told to."""

    refuses = False

    async def read(self, run: str, *, after: int = 0, until: int = 0, limit: int = 0):
        if self.refuses:
            self.refuses = False
            raise StoreUnavailable("the disk does not answer")
        return await super().read(run, after=after, until=until, limit=limit)


def test_a_cut_stream_is_made_again_although_the_store_could_not_be_read_just_then():
    store, cuts = Unreadable(), []

    @hf.step(retry=hf.Retry(attempts=3, base_s=0.001, cap_s=0.001))
    async def tokens():
        yield "a"
        if not cuts:
            cuts.append(1)
            store.refuses = True
            raise ConnectionError("cut")
        yield "b"

    @hf.agent
    async def speaker() -> str:
        return "".join([token async for token in tokens()])

    async def main() -> None:
        async with hf.App(store, agents=[speaker]) as app:
            await app.client.start(speaker, id="r")
            worker = app.worker(hf.WorkerSettings(poll_s=0.01), linger_s=0)
            await worker.run(until_idle=True)
            assert await app.client.result("r") == "ab"

    asyncio.run(main())
    assert cuts
    assert not store.refuses
