"""Code that does not fit its history parks the run: it does not spin, and can be cancelled.

The fault: a nondeterminism error is retried for ever, wedges the worker, and the request to cancel
is never looked at because the history has to be replayed first. Reported as PostHog #69046.

*Goal*: one divergence, recorded once with a readable diff; no step runs; other runs go on; cancel,
the old code and an operator's acceptance all lead out. *Method*: a run waits in the middle, the
code is changed behind its back.
"""

import json

import pytest

import holdfast as hf
from holdfast.core import events as ev

ran = []


@hf.step
async def look(n: int) -> int:
    ran.append(n)
    return n


@hf.agent(name="job")
async def old() -> int:
    first = await look(1)
    await hf.receive("go on")
    return first + await look(2)


@hf.agent(name="job")
async def new() -> int:
    first = await look(10)
    await hf.receive("go on")
    return first + await look(2)


@hf.agent
async def other() -> int:
    return await look(99)


@pytest.fixture
def diverged(stage):
    s = stage(old, other)
    s.start(old)
    s.play()
    ran.clear()
    s.tell(None, topic="go on")
    s.play(new, other)
    return s


def test_it_is_parked_and_recorded_once_with_what_differs(diverged):
    s = diverged
    assert s.status() == "diverged"
    [event] = [e for e in s.events() if isinstance(e.body, ev.RunDiverged)]
    assert json.loads(event.payload) == {
        "recorded": 'step.started look#1 (read) with {"n":1}',
        "requested": 'step.started look#1 (read) with {"n":10}',
    }
    assert event.cause == (3,), "the event that does not fit"
    assert ran == [], "nothing new was begun"


def test_it_does_not_spin_and_holds_up_nobody(diverged):
    s = diverged
    length = len(s.events())
    for n in range(20):
        s.start(other, id=f"other-{n}")
        s.clock.tick(3600)
        s.play(new, other)
        assert s.result(f"other-{n}") == 99
    assert len(s.events()) <= length + 2, "at most one more look by a new worker is recorded"
    assert s.status() == "diverged"


def test_it_can_be_cancelled(diverged):
    s = diverged
    s.run(s.client.cancel("r", by="ann"))
    s.play(new, other)
    assert s.status() == "cancelled"
    with pytest.raises(hf.RunWasCancelled):
        s.result()


def test_the_old_code_carries_on(diverged):
    s = diverged
    s.run(s.client.message("r", None, topic="wake up"))
    s.play(old, other)
    assert s.result() == 3


def test_accepted_the_new_code_carries_on(diverged):
    s = diverged
    s.run(s.client.accept("r", by="ann"))
    s.play(new, other)
    assert s.result() == 12
    assert ran == [10, 2]
    [accepted] = [e.body for e in s.events() if isinstance(e.body, ev.RunAccepted)]
    assert (accepted.from_seq, accepted.by) == (3, "ann")


def test_what_was_done_and_is_asked_for_again_stays_done(stage):
    def release(n):
        @hf.agent
        async def job() -> int:
            total = await look(n) + await pay(5)
            await hf.receive("go on")
            return total

        return job

    @hf.tool(effect="once")
    async def pay(cents: int) -> int:
        paid.append(cents)
        return cents

    paid = []
    s = stage(release(1))
    s.start(release(1))
    s.play()
    s.tell(None, topic="go on")
    s.play(release(10))
    s.run(s.client.accept("r", by="ann"))
    s.play(release(10))
    assert s.result() == 15
    assert paid == [5]
