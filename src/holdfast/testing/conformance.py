"""The contract of ``holdfast.ports.Store`` as tests that anyone can run on a store of their own.

``StoreConformance`` holds one test for each promise, ``store_machine`` walks random schedules, and
``log_of_schedule`` makes two stores comparable::

    class TestMyStore(StoreConformance):
        @pytest.fixture
        def open_store(self, tmp_path):
            return lambda: MyStore.open(tmp_path / "my.db")

    def test_my_store_under_random_schedules(tmp_path):
        paths = (tmp_path / f"{n}.db" for n in itertools.count())
        machine = store_machine(lambda: MyStore.open(next(paths)))
        hypothesis.stateful.run_state_machine_as_test(machine)

``open_store`` is called inside a running loop. Each call within one test opens the same data once
more; a store whose data belongs to one object may return that object each time.
"""

from holdfast.ports import Store
from holdfast.stores.memory import MemoryStore
from holdfast.testing.copies import CopyConformance
from holdfast.testing.harness import agree, on_a_store
from holdfast.testing.leases import LeaseConformance
from holdfast.testing.machine import store_machine
from holdfast.testing.queues import QueueConformance
from holdfast.testing.retention import RetentionConformance
from holdfast.testing.schedule import log_of_schedule
from holdfast.testing.streams import StreamConformance

__all__ = ["StoreConformance", "log_of_schedule", "store_machine"]


class StoreConformance(
    StreamConformance, LeaseConformance, CopyConformance, QueueConformance, RetentionConformance
):
    """Every promise of a store; subclass it and give it a fixture ``open_store``."""

    @on_a_store
    async def test_the_same_schedule_gives_the_log_of_the_memory_store(self, store: Store) -> None:
        agree("the log", await log_of_schedule(store, 7), await log_of_schedule(MemoryStore(), 7))
