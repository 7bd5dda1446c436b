"""tmp"""
import asyncio, itertools
import pytest
from hypothesis import settings, HealthCheck, Phase
from hypothesis.stateful import run_state_machine_as_test
from holdfast.stores.memory import MemoryStore
from holdfast.stores.sqlite import SqliteStore
from holdfast.testing.conformance import store_machine, StoreConformance
S=settings(phases=[Phase.generate])
def test_m(tmp_path):
    paths = (tmp_path / f"{n}.db" for n in itertools.count())
    async def reopen(s):
        await s.close()
        return await SqliteStore.open(s.url.removeprefix("sqlite://"))
    run_state_machine_as_test(store_machine(lambda: SqliteStore.open(next(paths)), reopen),settings=S)
def test_inline(tmp_path):
    paths = (tmp_path / f"{n}.db" for n in itertools.count())
    async def reopen(s):
        await s.close()
        return await SqliteStore.open(s.url.removeprefix("sqlite://"),inline=True)
    run_state_machine_as_test(store_machine(lambda: SqliteStore.open(next(paths),inline=True), reopen),settings=S)
class TestSqlite(StoreConformance):
    @pytest.fixture
    def open_store(self, tmp_path):
        return lambda: SqliteStore.open(tmp_path/"x.db")
class TestInline(StoreConformance):
    @pytest.fixture
    def open_store(self, tmp_path):
        return lambda: SqliteStore.open(tmp_path/"x.db", inline=True)
