"""A paused worker that was taken for dead wakes up, and neither acts unseen nor acts on.

The fault: a worker is stopped beyond its lease, another one takes its run over, the first wakes up
and acts: the effect happened twice and is recorded once. Measured with DBOS 3.4.0 under SIGSTOP.

*Goal*: what the zombie did is in the log before it did it, and after it lost its lease it begins
nothing and writes nothing. *Method*: two workers in one process, the first of which is held in the
middle of a body while time passes its lease; ``tests/integration/test_kill.py`` does the same with
real processes.
"""

import asyncio

import pytest

import holdfast as hf
from holdfast.core import events as ev


class Haunted:
    """A run whose first worker is stopped inside ``pay``, and whose lease has run out."""

    def __init__(self, stage):
        self.paid, self.told, self.at_the_bank = [], [], hf.UNKNOWN
        entered, self.go_on = asyncio.Event(), asyncio.Event()

        def find_payment() -> object:
            return self.at_the_bank

        @hf.tool(effect="once", reconcile=find_payment)
        async def pay(order: str) -> str:
            entered.set()
            await self.go_on.wait()
            self.paid.append(order)
            return order

        @hf.tool(effect="once")
        async def tell(order: str) -> str:
            self.told.append(order)
            return "told"

        @hf.agent
        async def job(order: str) -> str:
            return await tell(await pay(order))

        self.stage = s = stage(job)
        s.start(job, "o-1")
        self.zombie = s.worker()
        self._ended = s.begin(self.zombie.run())
        s.run(entered.wait())
        s.clock.tick(s.LEASE_S + 1)

    def wake_up(self):
        """Let the first worker go on, until it has let go of the run."""
        self.go_on.set()
        self.stage.until(lambda: self.zombie.idle)
        self.zombie.drain()
        self.stage.run(self._ended)


@pytest.fixture
def haunted(stage):
    return Haunted(stage)


def test_the_act_of_a_zombie_is_in_the_log_and_its_second_act_does_not_happen(haunted):
    s = haunted.stage
    s.work()
    assert s.status() == "in_doubt", "the second worker does not pay blindly"
    recorded = s.events()
    intents = [e for e in recorded if isinstance(e.body, ev.StepStarted)]
    assert [(e.body.key, e.epoch) for e in intents] == [("pay#1", 1)]

    haunted.wake_up()
    assert haunted.told == [], "it does not go on"
    assert s.events() == recorded, "and it writes nothing"

    s.run(s.client.resolve("r", "pay#1", happened="o-1", by="ann"))
    s.play()
    assert s.result() == "told"
    assert haunted.told == ["o-1"]


def test_what_a_zombie_did_before_it_was_missed_is_found(haunted):
    s = haunted.stage
    haunted.at_the_bank = "o-1"  # the payment has arrived, only the answer has not
    s.play()
    assert s.result() == "told"
    vias = [e.body.via for e in s.events() if isinstance(e.body, ev.StepFinished)]
    assert vias == ["reconcile", "body"]
    recorded = s.events()
    haunted.wake_up()
    assert haunted.told == ["o-1"]
    assert s.events() == recorded


def test_epochs_never_fall_and_each_claim_raises_them(haunted):
    s = haunted.stage
    s.work()
    epochs = [event.epoch for event in s.events()]
    assert epochs == sorted(epochs)
    assert epochs[-1] == 2
    haunted.wake_up()
