"""After an accepted divergence, recorded outcomes are taken over, whenever the process dies.

*Goal*: a step that the new code asks for again under the same key with the same arguments is not
done twice, is not doubted, and is done anew when its arguments differ. *Method*: a run diverges at
its first step and is accepted; the worker that carries on is killed at each write.
"""

import itertools

import pytest

import holdfast as hf
from holdfast.core import events as ev


class Desk:
    """Two releases of an agent whose first step differs, and a payment behind it."""

    def __init__(self):
        self.paid = []

        @hf.step
        async def look(n: int) -> int:
            return n

        @hf.tool(effect="once")
        async def pay(cents: int) -> int:
            self.paid.append(cents)
            return cents

        def release(n, cents):
            @hf.agent
            async def job() -> int:
                return await look(n) + await pay(cents) + await hf.receive("go on", int)

            return job

        self.old, self.new, self.dearer = release(1, 5), release(10, 5), release(10, 6)


@pytest.fixture
def accepted(stage):
    def accepted(release):
        desk = Desk()
        s = stage(desk.old)
        s.start(desk.old)
        s.play()
        s.tell(100, topic="go on")
        agent = getattr(desk, release)
        s.play(agent)
        assert s.status() == "diverged"
        s.run(s.client.accept("r", by="ann"))
        return s, agent, desk

    return accepted


@pytest.mark.parametrize("made", [False, True])
def test_an_outcome_is_taken_over_through_a_kill_at_every_write(accepted, made):
    for write in itertools.count(1):
        s, agent, desk = accepted("new")
        killed = s.work_until_killed(write, made=made, agents=[agent])
        s.play(agent)
        assert s.result() == 115
        assert desk.paid == [5]
        vias = [e.body.via for e in s.events() if isinstance(e.body, ev.StepFinished)]
        assert vias == ["body", "body", "body", "adopted"]
        if not killed:
            break
    assert write > 3


def test_the_next_turn_takes_nothing_over_from_the_last(stage):
    paid = []

    @hf.step
    async def look(n: int) -> int:
        return n

    @hf.tool(effect="once")
    async def pay(cents: int) -> int:
        paid.append(cents)
        return cents

    def release(n):
        @hf.agent
        async def desk(state: list[int], message: int) -> int:
            state.append(await look(n) + await pay(message))
            await hf.receive("go on")
            return sum(state)

        return desk

    s = stage(release(1))
    s.start(release(1), 5)
    s.play()
    for _ in range(2):
        s.tell(None, topic="go on")
    s.tell(5, id="again")
    s.play(release(10))
    s.run(s.client.accept("r", by="ann"))
    s.play(release(10))
    assert s.result(message="again") == 30
    assert paid == [5, 5], "two messages, two deeds"


def test_other_arguments_are_another_deed(accepted):
    s, agent, desk = accepted("dearer")
    s.play(agent)
    assert s.result() == 116
    assert desk.paid == [5, 6]
