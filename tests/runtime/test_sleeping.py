"""``time.sleep`` in the code of an agent is a durable timer.

*Goal*: a sync agent that sleeps, or a sync client in it that pauses before it asks again, holds up
nobody, sleeps on after a crash, can be cancelled, and sleeps not at all on replay; the bodies of
steps really sleep. *Method*: the simulation's virtual time; a recorded stream without timers.
"""

import time

import pytest

import holdfast as hf
from holdfast.core import events as ev
from holdfast.core.machine import Machine
from holdfast.core.replay import feed_all
from holdfast.core.specs import agent_spec
from holdfast.stores.memory import MemoryStore
from holdfast.testing.crashes import everywhere, once_at
from holdfast.testing.simulation import Program
from holdfast.testing.world import World

DAY_S = 86_400


def pause(seconds: float) -> None:
    """Call what ``time.sleep`` is by now; here nothing is waited for by it."""
    sleep = time.sleep
    sleep(seconds)


def sleeper() -> Program:
    world = World(honours={"act"})

    @hf.tool(effect="idempotent")
    def act(n: int) -> int:
        return world.act("act", n)

    @hf.agent
    def sleepy() -> list[int]:
        first = act(1)
        pause(30 * DAY_S)
        return [first, act(2)]

    @hf.agent
    def quick() -> int:
        return act(3)

    async def script(client: hf.Client) -> object:
        await client.start(sleepy, id="sleepy")
        await client.start(quick, id="quick")
        return [await client.result("quick"), await client.result("sleepy")]

    return Program("sleeper", [sleepy, quick], world, script, expects=[1, [1, 1]])


@pytest.fixture
def fresh():
    def fresh():
        store = MemoryStore()

        async def opened():
            return store

        return opened

    return fresh


def test_a_sync_agent_sleeps_for_a_month_and_holds_up_nobody(fresh):
    outcome = once_at(sleeper(), fresh)
    assert outcome.left.count("timer.fired") == 1
    assert outcome.passed_us >= 30 * DAY_S * 1_000_000
    ended = {e.run: e.at for _, e in outcome.left.log if isinstance(e.body, ev.RunSucceeded)}
    assert ended["sleepy"] - ended["quick"] >= 29 * DAY_S * 1_000_000


def test_it_sleeps_on_wherever_its_process_dies(fresh):
    assert everywhere(sleeper(), fresh, "kill") > 10


def test_a_sleep_ends_when_the_run_is_cancelled(fresh):
    world, said = World(), []

    @hf.agent
    def sleepy() -> None:
        try:
            pause(30 * DAY_S)
        finally:
            said.append("cleaned up")

    async def script(client: hf.Client) -> object:
        await client.start(sleepy, id="sleepy")
        await client.cancel("sleepy")
        try:
            return await client.result("sleepy")
        except hf.RunWasCancelled:
            return "cancelled"

    outcome = once_at(Program("cancelled", [sleepy], world, script), fresh)
    assert (outcome.result, said[-1]) == ("cancelled", "cleaned up")
    assert outcome.passed_us < DAY_S * 1_000_000


def test_a_stream_from_before_is_replayed_as_it_was(fresh):
    """Then ``time.sleep`` really slept, and nothing was recorded of it."""
    world, pauses = World(), [0.0]

    @hf.step
    def look(n: int) -> int:
        return n

    @hf.agent
    def looker() -> list[int]:
        first = look(1)
        pause(pauses[0])
        return [first, look(2)]

    async def script(client: hf.Client) -> object:
        await client.start(looker, id="r")
        return await client.result("r")

    events = once_at(Program("before", [looker], world, script), fresh).left.streams["r"]
    pauses[0] = 30 * DAY_S
    machine = Machine(agent_spec(looker), run="r", seed=events[0].body.seed)
    feed_all(machine, events[1:])
    assert machine.ended
    assert not machine.issued
    machine.close()


def test_elsewhere_it_is_what_it_was(fresh):
    world, slept = World(), []

    @hf.step
    def nap() -> bool:
        before = time.monotonic_ns()
        pause(0.001)
        slept.append(time.monotonic_ns() - before)
        return True

    @hf.agent
    def napper() -> bool:
        pause(0)
        return nap()

    async def script(client: hf.Client) -> object:
        await client.start(napper, id="r")
        return await client.result("r")

    outcome = once_at(Program("nap", [napper], world, script), fresh)
    assert slept[0] >= 1_000_000
    assert outcome.left.count("timer.fired") == 0
    with pytest.raises(ValueError, match="non-negative"):
        pause(-1)
