"""A doubt is settled by evidence: an outcome, a reconcile, or a named person.

*Goal*: what reconcile and people say is taken as it is meant, and what cannot be meant leaves the
doubt as it was. *Method*: a payment whose answer is lost, on the memory store; what reconcile gets
and gives is varied.
"""

import asyncio
import json

import pytest

import holdfast as hf
from holdfast.core import events as ev
from holdfast.runtime import bodies


def payer(find, paid=None):
    """An agent whose first payment is made, and its answer lost."""
    paid = [] if paid is None else paid

    @hf.tool(effect="once", reconcile=find)
    async def pay(order: str, cents: int = 5) -> dict[str, int]:
        paid.append(order)
        if len(paid) == 1:
            raise ConnectionResetError("no answer")
        return {order: cents}

    @hf.agent
    async def job() -> dict[str, int]:
        return await pay("o-1", 7)

    return job


def play(stage, job):
    s = stage(job)
    s.start(job)
    s.play()
    return s


def find_by_order(order: str) -> dict[str, int]:
    return {order: 70}


def find_by_all(order: str, cents: int) -> dict[str, int]:
    return {order: cents * 10}


def find_by_keywords(**asked: object) -> dict[str, int]:
    return {str(asked["order"]): 10 * int(str(asked["cents"]))}


async def find_slowly(order: str) -> dict[str, int]:
    await asyncio.sleep(0)
    return {order: 70}


def find_by_key(order: str) -> dict[str, int]:
    assert hf.idempotency_key().startswith("hf-")
    assert (hf.run_id(), hf.attempt()) == ("r", 1)
    return {order: 70}


@hf.step
async def find_in_a_step(order: str) -> dict[str, int]:
    return {order: 70}


@pytest.mark.parametrize(
    "find",
    [find_by_order, find_by_all, find_by_keywords, find_slowly, find_by_key, find_in_a_step],
    ids=lambda find: find.__name__,
)
def test_reconcile_gets_the_arguments_it_names_and_gives_the_outcome(stage, find):
    s = play(stage, payer(find))
    assert s.result() == {"o-1": 70}
    resolved = [e.body for e in s.events() if isinstance(e.body, ev.StepResolved)]
    assert [(body.verdict, body.by) for body in resolved] == [("happened", "reconcile")]


def test_a_proof_that_nothing_happened_allows_another_attempt(stage):
    paid = []
    s = play(stage, payer(lambda order: hf.NOT_DONE, paid))  # noqa: ARG005 - named as in the tool
    assert s.result() == {"o-1": 7}
    assert paid == ["o-1", "o-1"]


@pytest.mark.parametrize("found", ["paid", {"o-1": "seventy"}, None, object()])
def test_what_is_not_an_outcome_leaves_the_doubt(stage, found):
    s = play(stage, payer(lambda order: found))  # noqa: ARG005 - named as in the tool
    assert s.status() == "in_doubt"
    [resolved] = [e.body for e in s.events() if isinstance(e.body, ev.StepResolved)]
    assert resolved.verdict == "unknown"


def test_a_reconcile_that_fails_is_no_evidence(stage, monkeypatch):
    monkeypatch.setattr(bodies, "RECONCILE_ATTEMPTS", 1)
    asked = []

    def find(order: str) -> object:
        asked.append(order)
        raise ConnectionError("the bank is closed")

    s = play(stage, payer(find))
    assert s.status() == "in_doubt"
    assert asked == ["o-1"]


def test_reconcile_is_asked_again_when_the_run_comes_back(stage):
    answers = [hf.UNKNOWN, {"o-1": 70}]
    s = play(stage, payer(lambda order: answers.pop(0)))  # noqa: ARG005 - named as in the tool
    assert s.status() == "in_doubt"
    s.tell(None, topic="wake up")
    s.play()
    assert s.result() == {"o-1": 70}


def test_a_person_settles_it_and_is_named(stage):
    s = play(stage, payer(None))
    s.run(s.client.resolve("r", "pay#1", happened={"o-1": 1}, by="ann"))
    s.play()
    assert s.result() == {"o-1": 1}
    [resolved] = [e.body for e in s.events() if isinstance(e.body, ev.StepResolved)]
    assert (resolved.verdict, resolved.by) == ("happened", "ann")


def test_a_person_who_gives_no_outcome_of_the_type_leaves_the_doubt(stage):
    s = play(stage, payer(None))
    s.run(s.client.resolve("r", "pay#1", happened="yes", by="ann"))
    s.play()
    assert s.status() == "in_doubt"
    s.run(s.client.resolve("r", "pay#1", happened={"o-1": 1}, by="ann"))
    s.play()
    assert s.result() == {"o-1": 1}


def test_a_second_attempt_that_is_in_doubt_is_a_doubt_of_its_own(stage):
    paid = []

    @hf.tool(effect="once")
    async def pay(order: str) -> None:
        paid.append(order)
        raise TimeoutError("no answer")

    @hf.agent
    async def job() -> None:
        await pay("o-1")

    s = play(stage, job)
    s.run(s.client.resolve("r", "pay#1", did_not=True, by="ann"))
    s.play()
    assert s.status() == "in_doubt"
    assert len(paid) == 2
    doubts = [e for e in s.events() if isinstance(e.body, ev.StepDoubted)]
    assert [event.body.attempt for event in doubts] == [1, 2]
    assert json.loads(doubts[1].payload)["type"] == "TimeoutError"
