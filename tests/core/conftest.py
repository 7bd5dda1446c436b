"""A turn without runner and store: what the tests of the core drive a machine with.

``Turn`` does the duties of a runner by hand: it seals an input, feeds it, and records the note of
each command that comes out before the next input. Time advances by 1 ms an event.
"""

import json

import pytest

from holdfast.core import events as ev
from holdfast.core.machine import Machine, describe
from holdfast.core.replay import feed_all, plan
from holdfast.core.specs import agent_spec

RUN, SALT, BEGUN = "run-1", b"s" * 32, 1_790_000_000_000_000


class Turn:
    """One turn of an agent, and its log so far."""

    def __init__(self, agent, given=None, *, state=None, turn=1, seed=7, marks=frozenset()):
        self.spec = agent_spec(agent)
        self.number = turn
        self.log = []
        self.options = {
            "run": RUN,
            "seed": seed,
            "input": json.dumps(given).encode(),
            "state": None if state is None else json.dumps(state).encode(),
        }
        self.machine = Machine(self.spec, **self.options, marks=marks)

    def begin(self, message=...):
        """Feed ``turn.started``; returns the notes, as all inputs do."""
        payload = None if message is ... else json.dumps(message).encode()
        return self.feed(ev.TurnStarted(self.number), payload)

    def done(self, key, value=None):
        return self.feed(ev.StepFinished(key), json.dumps(value).encode())

    def failed(self, key, kind="ValueError", message="no"):
        error = {"type": kind, "message": message, "retryable": False}
        return self.feed(ev.StepFailed(key, 1, final=True), json.dumps(error).encode())

    def part(self, key, n, value):
        return self.feed(ev.StepEmitted(key, 1, n), json.dumps(value).encode())

    def tell(self, key, topic, value):
        return self.feed(ev.MessageReceived(key, topic, "m"), json.dumps(value).encode())

    def cancel(self):
        return self.feed(ev.CancelRequested("somebody"))

    def fire(self):
        """Let the earliest timer be due."""
        when, (cause, n) = self.machine.loop.next_timer()
        return self.feed(ev.TimerFired(n), at=int(when * 1e6) + 1, cause=cause)

    def feed(self, body, payload=None, *, at=0, cause=0):
        """Record an input, feed it and the notes that come of it; returns their descriptions."""
        first = len(self.log) + 1
        self.machine.feed(self.record(body, payload, at=at, cause=cause))
        while self.machine.issued:
            command = self.machine.issued[0]
            self.machine.feed(self.record(command.body, command.payload, cause=command.cause))
        return [describe(event.body) for event in self.log[first:]]

    def record(self, body, payload=None, *, at=0, cause=0):
        last = self.log[-1] if self.log else None
        event = ev.seal(
            body,
            run=RUN,
            seq=last.seq + 1 if last else 1,
            prev=last.hash if last else ev.GENESIS,
            at=max(at, last.at + 1000 if last else BEGUN),
            epoch=1,
            agent=self.spec.uri,
            cause=(cause,) if cause else (),
            payload=payload,
            salt=None if payload is None else SALT,
        )
        self.log.append(event)
        return event

    def replay(self, agent=None, log=None):
        """Feed the log to a machine of its own, with this agent or another one; returns it."""
        log = self.log if log is None else log
        recorded = plan(log)
        spec = agent_spec(agent) if agent else self.spec
        machine = Machine(spec, **self.options, marks=recorded.marks)
        try:
            feed_all(machine, recorded.feed)
        except BaseException:
            machine.close()
            raise
        return machine

    @property
    def said(self):
        """The whole log in words."""
        return [describe(event.body) for event in self.log]

    @property
    def result(self):
        """The payload of the last event."""
        return json.loads(self.log[-1].payload)


@pytest.fixture
def turn():
    """Make a ``Turn``; its coroutines are unwound when the test ends."""
    made = []

    def make(*args, **options):
        made.append(Turn(*args, **options))
        return made[-1]

    yield make
    for one in made:
        one.machine.close()
