"""What is not recorded says so, once.

The fault: the same call outside a workflow runs without durability and without a word, so nobody
notices until the crash. Reported as pydantic-ai #6620.

*Goal*: outside a run, steps, tools and agents work as plain functions and warn once each; inside a
run, and inside the body of a step, there is no warning. *Method*: warnings are counted.
"""

import asyncio
import warnings

import pytest

import holdfast as hf


@pytest.fixture
def declared():
    """A step, a tool and an agent that nobody has called yet."""

    @hf.step
    async def look(n: int) -> int:
        return n

    @hf.tool
    def pay(n: int) -> int:
        return n

    @hf.agent
    async def job(n: int) -> int:
        return await look(n) + pay(n)

    return look, pay, job


@pytest.fixture(autouse=True)
def _as_if_nothing_had_warned_yet(monkeypatch):
    monkeypatch.setattr("holdfast.runtime.context._WARNED", set())


def test_outside_a_run_each_works_and_warns_once(declared):
    look, pay, job = declared
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(3):
            assert asyncio.run(look(1)) == 1
            assert pay(2) == 2
            assert asyncio.run(job(3)) == 6
    assert [w.category for w in caught] == [hf.NonDurableWarning] * 3
    texts = [str(w.message) for w in caught]
    assert [text.split(" was called outside a run")[0] for text in texts] == [
        "step 'look'",
        "tool 'pay'",
        "agent 'job'",
    ]
    assert all("Hint: " in text for text in texts)
    assert caught[1].filename == __file__, "it points at the caller"


def test_in_a_run_and_in_a_body_there_is_no_warning(declared, stage):
    look, pay, job = declared

    @hf.step
    async def compound(n: int) -> int:
        return await look(n) + pay(n)

    @hf.agent
    async def both(n: int) -> int:
        return await compound(n) + await job(n)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        s = stage(both, job)
        s.start(both, 5)
        s.play()
    assert s.result() == 20
    assert [said for said in s.said() if "step.started" in said] == [
        "step.started compound#1 (read)"
    ], "a body is one step, whatever it calls"
