"""Two writers of one run: neither drops the other's turn.

The fault: two requests load a conversation, each adds its turn and saves; the later save silently
overwrites the earlier. Reported as agno #7791 and open-design #5490.

*Goal*: messages queue, each gets a turn of its own on top of the last; a writer whose picture is
old is refused. *Method*: many clients and two workers at once; then two appends at one place.
"""

import asyncio
import dataclasses

import pytest

import holdfast as hf
from holdfast.core import events as ev
from holdfast.core.state import fold
from holdfast.errors import Conflict, Fenced
from holdfast.ports import Append


@dataclasses.dataclass
class Chat:
    said: list[str] = dataclasses.field(default_factory=list)


@hf.agent
async def chat(state: Chat, message: str) -> int:
    state.said.append(message)
    await asyncio.sleep(0)
    return len(state.said)


def test_each_of_many_messages_at_once_has_its_turn(stage):
    s = stage(chat)
    s.start(chat)
    workers = [s.worker(), s.worker()]
    ended = [s.begin(worker.run()) for worker in workers]

    async def talk():
        names = [f"m{n}" for n in range(30)]
        await asyncio.gather(*(s.client.message("r", name, id=name) for name in names))
        return await asyncio.gather(*(s.client.result("r", message=name) for name in names))

    counts = s.run(asyncio.wait_for(talk(), 20))
    assert sorted(counts) == list(range(1, 31))
    for worker, end in zip(workers, ended, strict=True):
        worker.drain()
        s.run(end)
    turns = [e.body.message for e in s.events() if isinstance(e.body, ev.TurnStarted)]
    assert sorted(turns) == sorted(f"m{n}" for n in range(30))


def append_one(s, epoch):
    """An append of one event by somebody who has read the stream now."""
    events = s.events()
    event = ev.seal(
        ev.StreamEmitted(1),
        run="r",
        seq=len(events) + 1,
        prev=events[-1].hash,
        at=s.clock.now(),
        epoch=epoch,
        agent="agent:chat",
        cause=(),
    )
    return Append("r", epoch, len(events), [event], fold([*events, event]).row())


def test_the_second_of_two_who_read_the_same_state_is_refused(stage):
    s = stage(chat)
    s.start(chat)
    claim = {"now": s.clock.now(), "lease_us": 10**6, "agents": ["agent:chat"], "limit": 1}
    s.run(s.store.claim("ann", **claim))
    first, second = append_one(s, 1), append_one(s, 1)

    async def append(change):
        await s.store.append(change)

    s.run(append(first))
    with pytest.raises(Conflict):
        s.run(append(second))
    stale = append_one(s, 1)
    s.run(s.store.release("ann"))
    s.run(s.store.claim("bob", **claim))
    with pytest.raises(Fenced):
        s.run(append(stale))
    assert len(s.events()) == 2
