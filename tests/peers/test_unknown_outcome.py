"""An error after the deed is not taken for "it did not happen".

The fault: a server acts and then answers 500, or the answer is lost; the failure is retried, or is
handed to the model which asks again, and the e-mail is sent twice although somebody approved one.
Reported as andrewyng/openworker #443, Composio #3654 and PraisonAI #4217.

*Goal*: the deed is done once; nobody is told an outcome before there is one. *Method*: a server
that acts and fails, in front of each contract, directly and through ``hf.call``.
"""

import json

import pytest

import holdfast as hf
from holdfast.core import events as ev


class Outbox:
    """A mail server that sends, then answers 500; honours keys, and can be asked."""

    def __init__(self, failures=1):
        self.sent, self.failures = [], failures

    def send(self, to, key=""):
        if not key or key not in [k for _, k in self.sent]:
            self.sent.append((to, key))
        if self.failures:
            self.failures -= 1
            error = ConnectionError("500 after the deed")
            error.status = 500
            raise error
        return f"sent to {to}"

    def find(self, to):
        return f"sent to {to}" if to in [t for t, _ in self.sent] else hf.NOT_DONE


def mailer(outbox, **options):
    @hf.tool(**options)
    async def send_mail(to: str) -> str:
        key = hf.idempotency_key() if options["effect"] == "idempotent" else ""
        return outbox.send(to, key)

    return send_mail


def job_of(tool):
    @hf.agent(tools=[tool])
    async def job() -> str:
        arguments = json.dumps({"to": "ann"})
        call = {"id": "c1", "function": {"name": "send_mail", "arguments": arguments}}
        return (await hf.call(call))["content"]

    return job


@pytest.fixture
def play(stage):
    def play(outbox, **options):
        job = job_of(mailer(outbox, **options))
        s = stage(job)
        s.start(job)
        s.play()
        return s

    return play


def test_without_evidence_the_run_waits_for_a_person(play):
    outbox = Outbox()
    s = play(outbox, effect="once")
    assert s.status() == "in_doubt"
    assert len(outbox.sent) == 1
    assert not [e for e in s.events() if isinstance(e.body, ev.StepFailed)], "nobody is told"
    s.clock.tick(30 * 86400)
    s.play()
    assert (s.status(), len(outbox.sent)) == ("in_doubt", 1)
    s.run(s.client.resolve("r", "send_mail#1", happened="sent to ann", by="bob"))
    s.play()
    assert s.result() == "sent to ann"
    assert len(outbox.sent) == 1


def test_reconcile_finds_what_happened(play):
    outbox = Outbox()

    def look(to: str) -> object:
        return outbox.find(to)

    s = play(outbox, effect="once", reconcile=look)
    assert s.result() == "sent to ann"
    assert len(outbox.sent) == 1


def test_the_same_key_is_tried_again(play):
    outbox = Outbox(failures=3)
    s = play(outbox, effect="idempotent")
    assert s.result() == "sent to ann"
    assert len(outbox.sent) == 1, "four attempts, one deed"


def test_a_key_that_never_gets_an_answer_ends_in_doubt_and_not_in_an_error(play):
    outbox = Outbox(failures=10**6)
    s = play(outbox, effect="idempotent", retry=hf.Retry(attempts=4, base_s=1, cap_s=1))
    assert s.status() == "in_doubt"
    assert len(outbox.sent) == 1
    assert not [e for e in s.events() if isinstance(e.body, ev.StepFailed) and e.body.final]


def test_a_proven_no_is_an_answer_and_may_be_tried_again(stage):
    tries = []

    @hf.tool(effect="once")
    async def send_mail(to: str) -> str:
        tries.append(to)
        if len(tries) == 1:
            raise hf.NotDone("queue full", retryable=True)
        raise hf.NotDone("no such address")

    job = job_of(send_mail)
    s = stage(job)
    s.start(job)
    s.play()
    assert s.result() == "error: NotDone: no such address"
    assert len(tries) == 2


@pytest.mark.parametrize(
    ("status", "ending"),
    [
        (500, "in_doubt"),
        (408, "in_doubt"),
        (409, "in_doubt"),
        (429, "in_doubt"),
        (404, "succeeded"),
    ],
)
def test_only_a_refusal_by_the_server_is_a_no(stage, status, ending):
    @hf.tool(effect="once")
    async def send_mail(to: str) -> str:
        error = OSError(f"{status} for {to}")
        error.status_code = status
        raise error

    job = job_of(send_mail)
    s = stage(job)
    s.start(job)
    s.play()
    assert s.status() == ending


def test_a_kill_in_the_middle_of_the_deed_is_no_different(stage):
    outbox = Outbox(failures=0)
    job = job_of(mailer(outbox, effect="once"))
    for write in range(1, 20):
        outbox.sent.clear()
        s = stage(job)
        s.start(job)
        if not s.work_until_killed(write, made=False):
            break
        s.play()
        assert len(outbox.sent) <= 1
        if s.status() == "in_doubt":
            s.run(s.client.resolve("r", "send_mail#1", happened="sent to ann", by="bob"))
            s.play()
        assert s.result() == "sent to ann"
        assert len(outbox.sent) == 1
    assert write > 3
