"""Parallel steps that finish in another order after a crash get each its own outcome.

The fault: steps are numbered by a counter as they happen to be reached, so when the calls of a
``gather`` come back in another order at recovery, results are swapped or the recovery loops.
Reported as dbos-transact-py #688 and vercel/workflow #2737, #2300, #4090.

*Goal*: a step is its name and its place in the program, not its turn in time. *Method*: the calls
of a gather, each of which calls on, finish in every order before a kill at every write and in the
opposite order after it.
"""

import asyncio
import itertools

import pytest

import holdfast as hf


def job_whose_steps_finish(order):
    """An agent of three parallel chains; ``order`` is a list of names, changed as they pass."""
    turn = asyncio.Condition()

    @hf.step
    async def look(name: str) -> str:
        async with turn:
            await turn.wait_for(lambda: not order or order[0] == name)
            if order:
                order.pop(0)
            turn.notify_all()
        return f"<{name}>"

    @hf.step
    async def follow(name: str) -> str:
        return f"{name}!"

    async def chain(name):
        return await follow(await look(name))

    @hf.agent
    async def job() -> list[str]:
        return await asyncio.gather(*(chain(name) for name in "abc"))

    return job


@pytest.mark.parametrize("order", [*map("".join, itertools.permutations("abc"))])
def test_results_stay_with_their_calls_whatever_the_order_before_and_after_a_kill(stage, order):
    for write in itertools.count(1):
        before, after = job_whose_steps_finish([*order]), job_whose_steps_finish([*order[::-1]])
        s = stage(before)
        s.start(before)
        killed = s.work_until_killed(write, made=True)
        s.play(after if killed else before)
        assert s.result() == ["<a>!", "<b>!", "<c>!"]
        if not killed:
            break
    assert write > 3
    begun = [e for e in s.events() if e.body.type == "step.started"]
    assert {e.body.key: e.payload for e in begun if e.body.key.startswith("look")} == {
        "look#1": b'{"name":"a"}',
        "look#2": b'{"name":"b"}',
        "look#3": b'{"name":"c"}',
    }
    finished = [e.body.key for e in s.events() if e.body.type == "step.finished"]
    looked = [key for key in finished if key.startswith("look")]
    assert looked == [f"look#{1 + 'abc'.index(name)}" for name in order], "the order was as wanted"
