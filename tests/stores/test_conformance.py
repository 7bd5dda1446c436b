"""Every store keeps the contract of `holdfast.ports.Store`.

*Goal*: memory, SQLite and PostgreSQL answer alike, alone and when the same data are open twice.
*Method*: the suite that users get: one directed test for each promise, random schedules compared
with a pure model, and the same seeded schedules, whose logs must be equal byte for byte.
"""

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from pathlib import Path
from zlib import crc32

import pytest
from hypothesis import Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from holdfast.ports import Store
from holdfast.stores.memory import MemoryStore
from holdfast.stores.postgres import PostgresStore
from holdfast.stores.sqlite import SqliteStore
from holdfast.testing.conformance import StoreConformance, log_of_schedule, store_machine

Place = Path | str
"""A file, or the URL of a database."""
Open = Callable[[Place], Awaitable[Store]]


async def memory(_: Place) -> Store:
    return MemoryStore()


async def sqlite(path: Place) -> Store:
    return await SqliteStore.open(path)


async def sqlite_inline(path: Place) -> Store:
    return await SqliteStore.open(path, inline=True)


async def postgres(url: Place) -> Store:
    return await PostgresStore.open(str(url), lease_clock="caller")


class TwoProcesses:
    """The same data, open twice: a worker lives in one, as do appends; all else takes turns."""

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


class TwoHosts(TwoProcesses):
    """Bodies all run in one of both: what two see of each other's is PostgreSQL's to say."""

    def transact(self, run, *facts):
        return self.stores[0].transact(run, *facts)

    def append(self, change):
        return self.stores[0].append(change)


async def sqlite_twice(path: Place) -> Store:
    return TwoProcesses([await sqlite(path), await sqlite(path)])


async def postgres_twice(url: Place) -> Store:
    return TwoHosts([await postgres(url), await postgres(url)])


SQLITE = [sqlite, sqlite_inline, sqlite_twice]
POSTGRES = [postgres, postgres_twice]
STORES = [memory, *SQLITE, *POSTGRES]


@pytest.fixture
def new_place(request, tmp_path: Path) -> Callable[[Open], Place]:
    """Make places for empty stores of a kind."""
    numbers = itertools.count()

    def make(kind: Open) -> Place:
        if kind in POSTGRES:
            return request.getfixturevalue("postgres").database()
        return tmp_path / f"{next(numbers)}.db"

    return make


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


class TestPostgres(StoreConformance):
    @pytest.fixture
    def open_store(self, database: str):
        return lambda: postgres(database)


def walk(kind: Open, new_place: Callable[[Open], Place], **limits) -> None:
    places = {}

    async def make() -> Store:
        place = new_place(kind)
        store = await kind(place)
        places[id(store)] = store, place
        return store

    async def reopen(store: Store) -> Store:
        _, place = places.pop(id(store))
        await store.close()
        again = await kind(place)
        places[id(again)] = again, place
        return again

    machine = store_machine(make, None if kind is memory else reopen)
    run_state_machine_as_test(machine, settings=settings(**limits))


@pytest.mark.parametrize("kind", STORES)
def test_random_schedules(kind: Open, new_place):
    """Random schedules. A failure is told as found: to make it small takes minutes, as in soak."""
    count = 100 if kind is memory else 8 if kind in POSTGRES else 25
    walk(kind, new_place, max_examples=count, stateful_step_count=40, phases=[Phase.generate])


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", STORES)
def test_many_more_random_schedules(kind: Open, new_place):
    count = 10_000 if kind is memory else 300 if kind in POSTGRES else 1_000
    limits = {"max_examples": count, "stateful_step_count": 80}
    walk(kind, new_place, **limits, derandomize=False)


@pytest.mark.parametrize("seed", range(3))
def test_the_same_seeded_schedule_gives_the_same_log_on_every_store(seed: int, new_place):
    def log(kind: Open) -> bytes:
        async def main() -> bytes:
            store = await kind(new_place(kind))
            try:
                return await log_of_schedule(store, seed)
            finally:
                await store.close()

        with asyncio.Runner() as runner:
            return runner.run(main())

    expected = log(memory)
    assert expected.count(b"\n") > 100
    assert b'"epoch":3' in expected  # some leases were lost
    for kind in SQLITE + POSTGRES:
        assert log(kind) == expected, f"{kind.__name__} differs"


def test_another_seed_gives_another_log():
    with asyncio.Runner() as runner:
        logs = {runner.run(log_of_schedule(MemoryStore(), seed)) for seed in range(3)}
    assert len(logs) == 3
