"""Which recorded events a turn's code is bound by, and feeding them to it.

Most turns are fed as they stand. Two things make events *void*, kept in the log and shown, but not
fed:

* the parts of a streaming attempt that was cut by a crash and made again, with whatever the agent
  emitted because of them (nothing else may have come of them, or the attempt would have failed
  instead);
* after an accepted divergence, the events from the diverging one to the acceptance. Their outcomes
  stay available to the new code: a step asked for again under the same key with the same arguments
  is not done twice.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from holdfast.core import events as ev
from holdfast.core.calls import Call, same_payload
from holdfast.core.events import Cause, Event
from holdfast.core.loop import running
from holdfast.core.machine import Machine
from holdfast.core.state import RunState

__all__ = ["Plan", "feed_all", "open_streams", "plan", "turn_is_over"]


@dataclass(slots=True)
class Plan:
    """What a turn's recorded events mean for its replay."""

    feed: list[Event] = field(default_factory=list)
    voided: list[Event] = field(default_factory=list)
    """Events of accepted divergences, in order."""
    marks: frozenset[str] = frozenset()
    """The version guards passed, void ones excepted."""

    def voided_step(self, call: Call) -> tuple[Event, Event | None] | None:
        """Return intent and outcome, if any, of a void step with this key and these arguments.

        Of several the latest that has an outcome, or else the latest.
        """
        found: list[tuple[Event, Event | None]] = []
        for event in self.voided:
            body = event.body
            if isinstance(body, ev.StepStarted) and body.key == call.key and body.attempt == 1:
                found.append((event, None))
            elif isinstance(body, ev.StepFinished) and body.key == call.key and found:
                found[-1] = (found[-1][0], event)
        decode = call.spec.args.decode if call.spec is not None else None
        same = [p for p in found if p[0].salt and same_payload(p[0], call.args, decode)]
        return max(same, key=lambda pair: (pair[1] is not None, pair[0].seq), default=None)


def plan(turn_events: Sequence[Event], *, cut: frozenset[tuple[str, int]] = frozenset()) -> Plan:
    """Sort a turn's events, ``turn.started`` first, into those to feed and those void.

    Args:
        turn_events: The recorded events of the turn.
        cut: (step key, attempt) of streaming attempts that are to be made again.
    """
    if {type(event.body) for event in turn_events}.isdisjoint(_VOIDING):
        return Plan(list(turn_events), [], _marks(turn_events))
    made_again = set(cut)
    for event in turn_events:
        if isinstance(event.body, ev.StepStarted):
            made_again.add((event.body.key, event.body.attempt - 1))
        elif isinstance(event.body, ev.StepFailed) and not event.body.final:
            made_again.add((event.body.key, event.body.attempt))
    accepted = [(e.body.from_seq, e.seq) for e in turn_events if isinstance(e.body, ev.RunAccepted)]
    result = Plan()
    void: set[Cause] = set()
    for event in turn_events:
        body = event.body
        if any(begin <= event.seq < end for begin, end in accepted):
            result.voided.append(event)
        elif (isinstance(body, ev.StepEmitted) and (body.key, body.attempt) in made_again) or (
            isinstance(body, ev.StreamEmitted) and not void.isdisjoint(event.cause)
        ):
            void.add(event.seq)
        else:
            result.feed.append(event)
    result.marks = _marks(result.feed)
    return result


_VOIDING = {ev.StepEmitted, ev.RunAccepted}
"""In a turn without these nothing is void."""


def _marks(events: Sequence[Event]) -> frozenset[str]:
    return frozenset(e.body.name for e in events if isinstance(e.body, ev.VersionMarked))


def turn_is_over(turn_events: Sequence[Event]) -> bool:
    """Tell whether the last turn is over: nothing to replay until a message begins the next."""
    return any(isinstance(e.body, ev.TurnFinished | ev.TurnFailed) for e in turn_events)


def open_streams(turn_events: Sequence[Event], state: RunState) -> frozenset[tuple[str, int]]:
    """Return (step key, attempt) of the attempts that had emitted parts and have no outcome."""
    emitted = {
        (e.body.key, e.body.attempt) for e in turn_events if isinstance(e.body, ev.StepEmitted)
    }
    return frozenset(
        (key, attempt)
        for key, attempt in emitted
        if key in state.open_steps and state.open_steps[key].attempt == attempt
    )


def feed_all(machine: Machine, events: Sequence[Event]) -> None:
    """Feed recorded events to a turn's machine.

    Raises:
        Diverged: the code asks for something else.
    """
    last = len(events) - 1
    with running(machine.loop):  # once for all of them
        for i, event in enumerate(events):
            machine.feed(event, replaying=i < last)
