"""A process may die at any point and come back with other code.

Goal: behind a version guard, new code carries on every run that old code began, wherever it stood;
without a guard a run parks as diverged, nothing is done meanwhile, and once a person accepts, what
had been done is not done again; a run that diverges by itself holds up nobody else. Method: the
process is killed at every point, in virtual time; all later processes know the new code.
"""

import asyncio
import itertools

import pytest

import holdfast as hf
from holdfast.testing.crashes import Outcome, once_at
from holdfast.testing.simulation import Program
from holdfast.testing.world import World


def at_every_point(program: Program, fresh):
    """Yield what comes of a kill at each point, and its label."""
    points = once_at(program, fresh).points
    for number, label in enumerate(points, 1):
        yield label, once_at(program, fresh, "kill", number)


def agents(world: World, *, guard: bool):
    """Return the desk before and after it was told to audit first."""

    @hf.step
    async def look(n: int) -> int:
        world.look("look", n)
        return n

    @hf.tool
    async def pay(n: int) -> int:
        return world.act("pay", n)

    @hf.tool
    async def thank(n: int) -> int:
        return world.act("thank", n)

    @hf.tool
    async def audit(n: int) -> int:
        return world.act("audit", n)

    @hf.agent(name="desk")
    async def old() -> list[int]:
        return [await look(1), await pay(1), await thank(1)]

    @hf.agent(name="desk")
    async def new() -> list[int]:
        first = await look(1)
        if not guard or hf.version_guard("audit"):
            await audit(1)
        return [first, await pay(1), await thank(1)]

    return old, new


def deploy(*, guard: bool) -> Program:
    world = World()
    old, new = agents(world, guard=guard)

    async def script(client: hf.Client) -> object:
        await client.start("desk", id="desk")
        while True:
            try:
                return await client.result("desk")
            except hf.RunParked:
                if (await client.row("desk")).status == "diverged":
                    await client.accept("desk", by="ann")
                await asyncio.sleep(1.0)

    # Without a guard the two versions cannot replay each other's runs, finished ones included.
    return Program("deploy", [old], world, script, upgrade=[new], deterministic=guard)


def done(outcome: Outcome) -> dict[str, int]:
    return {str(kind): n for (kind, _), n in outcome.deeds.items()}


def test_new_code_behind_a_guard_carries_on_from_anywhere(in_memory):
    seen = set()
    for label, outcome in at_every_point(deploy(guard=True), in_memory):
        assert outcome.result == [1, 1, 1], label
        assert outcome.left.count("run.diverged") == 0, label
        deeds = done(outcome)
        audited = deeds.pop("audit", 0)
        assert deeds == {"pay": 1, "thank": 1}, label
        seen.add(audited)
    assert seen == {0, 1}


def test_an_accepted_divergence_does_nothing_twice_wherever_it_came_from(in_memory):
    diverged = 0
    for label, outcome in at_every_point(deploy(guard=False), in_memory):
        assert outcome.result == [1, 1, 1], label
        deeds = done(outcome)
        assert deeds.pop("audit", 0) <= 1, label
        assert deeds == {"pay": 1, "thank": 1}, label
        diverged += outcome.left.count("run.diverged")
    assert diverged


@pytest.fixture
def moody() -> Program:
    """One of three runs asks for something else each time its code runs."""
    world = World()
    moods = itertools.count()

    @hf.tool
    async def pay(n: int) -> int:
        return world.act("pay", n)

    @hf.agent
    async def steady(n: int) -> int:
        return await pay(n)

    @hf.step
    async def feel(mood: int) -> int:
        return mood

    @hf.agent
    async def changeable() -> int:
        await feel(next(moods))
        return await pay(-1)

    async def script(client: hf.Client) -> object:
        await client.start(changeable, id="changeable")
        for n in range(2):
            await client.start(steady, n, id=f"steady-{n}")
        while True:
            try:
                return [await client.result(f"steady-{n}") for n in range(2)]
            except hf.RunParked:
                await asyncio.sleep(1.0)

    return Program("moody", [changeable, steady], world, script, deterministic=False)


def test_a_run_that_diverges_parks_and_holds_up_nobody_else(moody: Program, in_memory):
    states = set()
    for label, outcome in at_every_point(moody, in_memory):
        assert outcome.result == [1, 1], label
        assert outcome.passed_us < 40_000_000, label
        status = outcome.left.statuses()["changeable"]
        assert outcome.deeds["pay", -1] <= 1, label
        states.add(status)
    assert states == {"succeeded", "diverged"}
