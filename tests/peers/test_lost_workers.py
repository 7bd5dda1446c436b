"""Losing a worker, deploying or draining spends no attempt of a step.

The fault: a step that was under way when its worker vanished counts as failed, so that a few
deploys use up its retries and fail the run. Reported as vercel/workflow #3992.

*Goal*: only failures count. *Method*: a step that may fail twice loses ten workers, by death and by
drain, and then still fails twice and succeeds.
"""

import asyncio

import pytest

import holdfast as hf
from holdfast.core import events as ev


class World:
    def __init__(self, failures):
        self.failures = failures
        self.tries = 0
        self.entered = asyncio.Event()
        self.stuck = True

    async def act(self):
        self.tries += 1
        self.entered.set()
        if self.stuck:
            await asyncio.Event().wait()
        if self.failures:
            self.failures -= 1
            raise ConnectionError("no luck")
        return "done"


def job_in(world, effect):
    @hf.step(effect=effect, retry=hf.Retry(attempts=3, base_s=1, cap_s=1))
    async def act() -> str:
        return await world.act()

    @hf.agent
    async def job() -> str:
        return await act()

    return job


@pytest.mark.parametrize(
    ("effect", "fate"), [("read", "dies"), ("read", "is drained"), ("idempotent", "dies")]
)
def test_ten_lost_workers_leave_all_attempts_to_the_failures(stage, effect, fate):
    world = World(failures=2)
    job = job_in(world, effect)
    s = stage(job)
    s.start(job)
    for _ in range(10):
        world.entered.clear()
        worker = s.worker(store=s.mortal())
        ended = s.begin(worker.run())
        s.run(world.entered.wait())
        if fate == "dies":
            worker.settings.store.dead = True
            s.clock.tick(s.LEASE_S + 1)
            ended.cancel()
        worker.drain()
        s.until(ended.done)
    world.stuck = False
    s.play()
    assert s.result() == "done"
    assert world.tries == 13
    failed = [e.body for e in s.events() if isinstance(e.body, ev.StepFailed)]
    assert [body.final for body in failed] == [False, False]


def test_a_deploy_between_two_failures_does_not_reset_them_either(stage):
    world = World(failures=10)
    world.stuck = False
    job = job_in(world, "read")
    s = stage(job)
    s.start(job)
    for _ in range(5):
        s.work()
        s.clock.tick(2)
    assert s.status() == "failed"
    assert world.tries == 3
