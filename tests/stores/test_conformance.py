"""Every store keeps the contract of `holdfast.ports.Store`.

*Goal*: memory and SQLite answer alike, alone and when one file is open twice. *Method*: the suite
that users get: one directed test for each promise, random schedules compared with a pure model, and
the same seeded schedules, whose logs must be equal byte for byte.
"""

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from pathlib import Path
from zlib import crc32

import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from holdfast.ports import Store
from holdfast.stores.memory import MemoryStore
from holdfast.stores.sqlite import SqliteStore
from holdfast.testing.conformance import StoreConformance, log_of_schedule, store_machine

Open = Callable[[Path], Awaitable[Store]]


async def memory(_: Path) -> Store:
    return MemoryStore()


async def sqlite(path: Path) -> Store:
    return await SqliteStore.open(path)


async def sqlite_inline(path: Path) -> Store:
    return await SqliteStore.open(path, inline=True)


class TwoProcesses:
    """One file, open twice: a worker lives in one of both, as do appends; all else takes turns."""

    def __init__(self, stores: list[Store]):
        self.stores = stores
        self.turns = itertools.cycle(stores)

    def __getattr__(self, name):
        return getattr(next(self.turns), name)

    def home(self, of: str) -> Store:
        return self.stores[crc32(of.encode()) % 2]

    def claim(self, worker, **facts):
        return self.home(worker).claim(worker, **facts)

    def renew(self, worker, **facts):
        return self.home(worker).renew(worker, **facts)

    def release(self, worker):
        return self.home(worker).release(worker)

    def append(self, change):
        return self.home(change.run).append(change)

    def transact(self, run, *facts):
        return self.home(run).transact(run, *facts)

    async def close(self):
        for store in self.stores:
            await store.close()


async def sqlite_twice(path: Path) -> Store:
    return TwoProcesses([await sqlite(path), await sqlite(path)])


SQLITE = [sqlite, sqlite_inline, sqlite_twice]
STORES = [memory, *SQLITE]


class TestMemory(StoreConformance):
    @pytest.fixture
    def open_store(self):
        store = MemoryStore()

        async def open_store() -> Store:
            return store

        return open_store


@pytest.mark.parametrize("kind", SQLITE[:2])
class TestSqlite(StoreConformance):
    @pytest.fixture
    def open_store(self, kind: Open, tmp_path: Path):
        return lambda: kind(tmp_path / "holdfast.db")


def walk(kind: Open, folder: Path, **limits) -> None:
    paths = {}
    numbers = itertools.count()

    async def make() -> Store:
        path = folder / f"{next(numbers)}.db"
        store = await kind(path)
        paths[id(store)] = store, path
        return store

    async def reopen(store: Store) -> Store:
        _, path = paths.pop(id(store))
        await store.close()
        again = await kind(path)
        paths[id(again)] = again, path
        return again

    machine = store_machine(make, None if kind is memory else reopen)
    run_state_machine_as_test(machine, settings=settings(**limits))


@pytest.mark.timeout(600)  # a failure takes its time to be made small
@pytest.mark.parametrize("kind", STORES)
def test_random_schedules(kind: Open, tmp_path: Path):
    walk(kind, tmp_path, max_examples=100 if kind is memory else 25, stateful_step_count=40)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", STORES)
def test_many_more_random_schedules(kind: Open, tmp_path: Path):
    limits = {"max_examples": 10_000 if kind is memory else 1_000, "stateful_step_count": 80}
    walk(kind, tmp_path, **limits, derandomize=False)


@pytest.mark.parametrize("seed", range(3))
def test_the_same_seeded_schedule_gives_the_same_log_on_every_store(seed: int, tmp_path: Path):
    def log(kind: Open) -> bytes:
        async def main() -> bytes:
            store = await kind(tmp_path / f"{kind.__name__}.db")
            try:
                return await log_of_schedule(store, seed)
            finally:
                await store.close()

        with asyncio.Runner() as runner:
            return runner.run(main())

    expected = log(memory)
    assert expected.count(b"\n") > 100
    assert b'"epoch":3' in expected  # some leases were lost
    for kind in SQLITE:
        assert log(kind) == expected, f"{kind.__name__} differs"


def test_another_seed_gives_another_log():
    with asyncio.Runner() as runner:
        logs = {runner.run(log_of_schedule(MemoryStore(), seed)) for seed in range(3)}
    assert len(logs) == 3
