"""An answer that was taken in is not lost when what it allowed fails or the process dies.

The fault: the approval is consumed, the tool runs, the run fails: the answer is gone, and nobody
knows that it was given. Reported as microsoft/agent-framework #7458.

*Goal*: taking an answer in and recording it are one append; it is there after any failure.
*Method*: a kill at each write around the answer, and an agent that fails right behind it.
"""

import itertools

import pytest

import holdfast as hf
from holdfast.core import events as ev


@hf.step
async def look() -> int:
    return 7


@hf.agent
async def job() -> str:
    name = await hf.ask("who?", str)
    return f"{name} {await look()}"


@hf.agent
async def careless() -> str:
    name = await hf.ask("who?", str)
    raise ValueError(f"no {name}")


def taken(s):
    return [e.payload for e in s.events() if isinstance(e.body, ev.MessageReceived)]


@pytest.mark.parametrize("made", [False, True])
def test_a_kill_at_any_write_around_the_answer_keeps_it(stage, made):
    for write in itertools.count(1):
        s = stage(job)
        s.start(job)
        s.work()
        s.tell("ann", topic="ask#1")
        killed = s.work_until_killed(write, made=made)
        unread = s.run(s.store.unread("r"))
        assert len(taken(s)) + len(unread) == 1, "the inbox has it or the log has it"
        s.play()
        assert s.result() == "ann 7"
        assert taken(s) == [b'"ann"']
        if not killed:
            break
    assert write > 2


def test_the_answer_is_in_the_log_of_a_run_that_failed_on_it(stage):
    s = stage(careless)
    s.start(careless)
    s.work()
    s.tell("ann", topic="ask#1")
    s.play()
    assert s.status() == "failed"
    assert taken(s) == [b'"ann"']
