"""Of parallel calls, those that never ran are run when the run is resumed, the others are not.

The fault: a batch of parallel tool calls is cut in the middle; at resume the batch counts as
answered, and the calls that never ran are skipped. Reported as adk-python #7108.

*Goal*: each call is answered by an outcome of its own. *Method*: four parallel calls, a kill at
each write; who ran is counted outside.
"""

import asyncio
import itertools
import json

import pytest

import holdfast as hf


def batch(effect, ran):
    @hf.tool(effect=effect)
    async def look(n: int) -> int:
        await asyncio.sleep(0)
        ran.append(n)
        return n * 10

    @hf.agent(tools=[look])
    async def job() -> list[str]:
        calls = [
            {"id": f"c{n}", "function": {"name": "look", "arguments": json.dumps({"n": n})}}
            for n in range(4)
        ]
        answers = await asyncio.gather(*map(hf.call, calls))
        return [f"{answer['tool_call_id']}={answer['content']}" for answer in answers]

    return job


@pytest.mark.parametrize("made", [False, True])
@pytest.mark.parametrize("effect", ["read", "idempotent"])
def test_every_call_of_a_cut_batch_is_answered(stage, effect, made):
    for write in itertools.count(1):
        ran = []
        job = batch(effect, ran)
        s = stage(job)
        s.start(job)
        killed = s.work_until_killed(write, made=made)
        recorded = [e for e in s.events() if e.body.type == "step.finished"]
        ran_before = len(ran)
        s.play()
        assert s.result() == ["c0=0", "c1=10", "c2=20", "c3=30"]
        assert set(ran) == {0, 1, 2, 3}
        assert len(ran) - ran_before == 4 - len(recorded), "what is recorded is not done again"
        if not killed:
            break
    assert write > 3
