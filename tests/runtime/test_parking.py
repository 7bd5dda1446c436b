"""What a run that waits leaves behind, and what it finds when it comes back.

*Goal*: nothing outlives a turn, and a wait without end is one that can be parked. *Method*: single
runs on the memory store, parked at once.
"""

import asyncio
import math
from collections.abc import AsyncIterator

import holdfast as hf


def test_a_sleep_without_end_parks_and_can_be_cancelled(stage):
    @hf.agent
    async def sleeper() -> None:
        await asyncio.sleep(math.inf)

    s = stage(sleeper)
    s.start(sleeper)
    s.work()
    assert s.status() == "waiting"
    assert s.clock.now() < s.row().wake_at < 2**53
    s.run(s.client.cancel("r"))
    s.work()
    assert s.status() == "cancelled"


def test_a_stream_left_behind_does_not_reach_into_the_next_turn(stage):
    bodies = []

    @hf.step
    async def words(turn: int) -> AsyncIterator[str]:
        bodies.append(turn)
        for n in range(1000):
            await asyncio.sleep(0)
            yield f"turn {turn} word {n}"

    @hf.agent
    async def chat(state: list[str], message: int) -> str:
        async for word in words(message):
            state.append(word)
            if len(state) % 3 == 0:
                break
        return state[-1]

    s = stage(chat)
    s.start(chat, 1)
    s.tell(2, id="m2")
    s.tell(3, id="m3")
    s.play()
    assert s.result(message="m2") == "turn 2 word 2"
    assert s.result(message="m3") == "turn 3 word 2"
    assert bodies == [1, 2, 3]
    assert s.said().count("step.abandoned words#1") == 3
    assert len([said for said in s.said() if said == "step.emitted words#1"]) == 9
