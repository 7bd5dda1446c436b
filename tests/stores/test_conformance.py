"""tmp"""
import asyncio
import pytest
from hypothesis import settings, HealthCheck
from hypothesis.stateful import run_state_machine_as_test
from holdfast.stores.memory import MemoryStore
from holdfast.testing.conformance import store_machine, StoreConformance
async def make(): return MemoryStore()
async def reopen(s):
    await s.close(); return s
def test_m():
    run_state_machine_as_test(store_machine(make, reopen))
class TestMemory(StoreConformance):
    @pytest.fixture
    def open_store(self):
        store = MemoryStore()
        async def o(): return store
        return o
